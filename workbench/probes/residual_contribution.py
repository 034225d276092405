"""What each sublayer adds to the residual stream, and what the prediction loses when one block is skipped.

Paper
-----
The stream as a sum of sublayer outputs: Elhage et al., A Mathematical Framework for Transformer Circuits, 2021 (no
arXiv id), and Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks, 2016,
arXiv 1605.06431, who also delete single layers. Effect of leaving out one block on the output: Gromov et al., 2024,
arXiv 2403.17887; Lad et al., The Remarkable Robustness of LLMs, 2024, arXiv 2406.19384.

Deviates
--------
A block is skipped for one token at a time: the sampled position goes without that block, while all other positions keep
their full computation, so that later blocks of the skipped token attend to complete keys and values (and to its own).
The papers remove the block for the whole text, which costs one forward pass per block; this is what token-wise
skipping does at decoding time, and it rides the one pass.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Block, Model
from workbench.models.attention import Scoring
from workbench.models.walk import walk
from workbench.probes._probe import Probe, Reader, axis, contribution, register, sample
from workbench.settings import settings
from workbench.trace import variable


@register
@settings
class ResidualContribution(Probe):
    """Share, direction and need of every sublayer.

    Parameters
    ----------
    positions : int
        Evenly spaced positions at which blocks are skipped.

    Notes
    -----
    Writes, per block: ``attention_share`` and ``mlp_share``, the mean over all tokens of the norm of what the sublayer
    adds divided by the norm of the stream it is added to; ``attention_cosine`` and ``mlp_cosine``, the mean cosine of
    the addition with that stream; ``skip_kl`` [nats], KL(full || skipped) of the next-token distribution, and
    ``skip_top1_change``, how often the best token changes, both means over the sampled positions.

    Cost: with L blocks and P positions, block j carries j * P rows more, together P * L * (L - 1) / 2 rows through one
    block (7,000 of 61,000 for 30 blocks, 16 positions and 2,048 tokens), and (L + 1) * P rows are unembedded. Kept are
    one copy of the stream and [L, P, width].
    """

    positions: Annotated[int, Field(ge=1, le=1024, description="positions at which blocks are skipped")] = 16

    sites = ("embedding", "query_key_value", "attention_output", "mlp_output", "residual")
    paper = (
        "Veit et al., 2016, arXiv 1605.06431; Gromov et al., 2024, arXiv 2403.17887; Lad et al., 2024, arXiv 2406.19384"
    )

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        return _Reader(model, sample(len(tokens), self.positions).to(model.device), len(tokens))

    @classmethod
    def examples(cls) -> tuple[ResidualContribution, ...]:
        return cls(), cls(positions=3)


class _Reader(Reader):
    def __init__(self, model: Model, places: Tensor, tokens: int) -> None:
        self._anatomy, self._places = model.anatomy, places
        self._ropes = model.anatomy.rope(places, tokens)
        self._before: Tensor = torch.empty(0)
        self._variants = torch.empty(
            model.layers, len(places), model.anatomy.width, dtype=model.dtype, device=model.device
        )
        self._added = np.zeros((4, model.layers))

    def see(self, site: str, layer: int, value: Any) -> None:
        if site in ("embedding", "residual"):
            self._before = value[0].clone()
        elif site == "query_key_value":
            self._carry(self._anatomy.blocks[layer], *value[1:])
            self._variants[layer] = self._before[self._places]
        elif site == "attention_output":
            self._added[:2, layer] = contribution(value[0], self._before)
            if not self._anatomy.blocks[layer].parallel:
                self._before += value[0]
        else:
            self._added[2:, layer] = contribution(value[0], self._before)

    def _carry(self, block: Block, keys: Tensor, values: Tensor) -> None:
        """Take the rows of all blocks skipped so far through ``block``."""
        rows = self._variants[: block.index]
        if len(rows):

            def attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                attended = torch.empty_like(query)
                for index, place in enumerate(self._places.tolist()):
                    start = 0 if block.window is None else max(0, place + 1 - block.window)
                    attended[:, :, index] = attend_back(
                        query[:, :, index],
                        key[:, :, index],
                        value[:, :, index],
                        keys[0, :, start:place],
                        values[0, :, start:place],
                        block.scoring,
                    )
                return attended

            rows.copy_(walk([block], rows, self._ropes, attend))

    def finish(self) -> xr.Dataset:
        divergence, changes = torch.zeros(2, len(self._variants), dtype=torch.float64)
        for index, place in enumerate(self._places.tolist()):  # one position's logits at a time
            rows = torch.cat((self._variants[:, index], self._before[place][None]))
            skipped, full = self._anatomy.unembed(rows).float().log_softmax(-1).split((len(rows) - 1, 1))
            kl = F.kl_div(skipped, full.expand_as(skipped), reduction="none", log_target=True).sum(-1)
            divergence += kl.double().cpu()
            changes += (skipped.argmax(-1) != full.argmax(-1)).double().cpu()
        shares = zip(("attention_share", "attention_cosine", "mlp_share", "mlp_cosine"), self._added, strict=True)
        names = {
            "attention_share": "norm of the attention's addition, relative to the stream",
            "attention_cosine": "cosine of the attention's addition with the stream",
            "mlp_share": "norm of the MLP's addition, relative to the stream",
            "mlp_cosine": "cosine of the MLP's addition with the stream",
        }
        count = len(self._places)
        variables = {name: variable("block", values, "1", names[name]) for name, values in shares}
        variables |= {
            "skip_kl": variable("block", divergence / count, "nats", "KL divergence when the block is skipped"),
            "skip_top1_change": variable(
                "block", changes / count, "1", "share of best tokens that change when skipped"
            ),
        }
        coordinates = axis("block", np.arange(len(self._variants)), "layer", "block")
        return xr.Dataset(variables, coordinates, {"positions": count})


def attend_back(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, scoring: Scoring) -> Tensor:
    """Weighted values of rows at one position that share the past but each have a key and value of their own.

    Parameters
    ----------
    query : Tensor [rows, heads, head_dim]
    key, value : Tensor [rows, kv_heads, head_dim]
        Of the rows themselves.
    keys, values : Tensor [kv_heads, past, head_dim]
    scoring : Scoring

    Returns
    -------
    Tensor [rows, heads, head_dim]
    """
    grouped = query.unflatten(1, (len(keys), -1)).transpose(0, 1)  # [kv_heads, rows, groups, head_dim]
    own_key, own_value = key.transpose(0, 1)[:, :, None], value.transpose(0, 1)[:, :, None]
    past = grouped.flatten(1, 2) @ keys.transpose(1, 2)
    own = (grouped * own_key).sum(-1, keepdim=True).flatten(1, 2)
    # [kv_heads, groups, rows, keys]
    products = torch.cat((past, own), -1).unflatten(1, grouped.shape[1:3]).transpose(1, 2)
    weights = scoring.weights(products.flatten(0, 1)).to(values.dtype)
    weights = weights.unflatten(0, products.shape[:2]).transpose(1, 2).flatten(1, 2)
    out = (weights[..., :-1] @ values).unflatten(1, grouped.shape[1:3])
    out = out + weights[..., -1:].unflatten(1, grouped.shape[1:3]) * own_value
    return out.transpose(0, 1).flatten(1, 2)
