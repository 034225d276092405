"""Whether later layers build on earlier ones: what skipping a layer changes in those after it, and in the output.

Paper
-----
Csordas, Manning, Potts, Do Language Models Use Their Depth Efficiently?, 2025, arXiv 2505.13898.

Source
------
github.com/robertcsordas/llm_effective_depth

Formula
-------
What layer l adds to the stream is d[l] = h[l] - h[l-1]. Without layer s it adds d'[l]. At token t::

    effect(s, l) = max over t of |d'[l][t] - d[l][t]| / |d[l][t]|
    output(s) = max over t of |p'[t] - p[t]|               of the next-token probabilities

once for the text in which all tokens skip the layer, at all tokens (*present*), and once for texts in which only the
tokens before a cut skip it, at the tokens from the cut on (*future*): what the skipping does through attention alone.
As in the paper's code the first token never skips, as many models park their attention on it.

Deviates
--------
The paper runs the model anew for every skipped layer and cut. Here copies of the stream ride along with the one pass,
block by block: the model's own pass is never touched, and the numbers are the same. Cuts are evenly spread, where the
paper draws four by chance, and the maximum is over one text. Maps between the layers of two models, the paper's last
part, are :func:`workbench.studies.layer_maps.layer_maps`, as a probe sees one model.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.models.walk import causal, walk
from workbench.probes._probe import Probe, Reader, axis, contribution, register
from workbench.settings import settings
from workbench.trace import variable

_SIZES = {"attention": "the attention", "mlp": "the MLP", "layer": "the layer"}


@register
@settings
class DepthUse(Probe):
    """What every layer adds, and what the layers after it and the output do without it.

    Parameters
    ----------
    tokens : int
        The first so many tokens of the text are looked at.
    cuts : int
        Cuts between tokens that skip and later ones; with none, effects on the future are 0.

    Notes
    -----
    Writes ``attention_share``, ``mlp_share`` and ``layer_share`` (block), the mean over tokens of the norm of what the
    sublayer, or both, add over that of the stream they are added to, and ``attention_cosine``, ``mlp_cosine`` and
    ``layer_cosine``, the mean cosine of the two; ``present_effect`` and ``future_effect`` (skipped, block), 0 for
    blocks before the one that is skipped; ``present_output`` and ``future_output`` (skipped).

    Cost: with L blocks and C cuts, half of L (1 + C) passes over the tokens, and L (1 + C) rows of each are
    unembedded; kept are [L (1 + C), tokens, width].
    """

    tokens: Annotated[int, Field(ge=1, le=4096, description="tokens of the text that are looked at")] = 48
    cuts: Annotated[int, Field(ge=0, le=16, description="cuts between tokens that skip and later ones")] = 2

    sites = ("embedding", "attention_output", "mlp_output", "residual")
    paper = "Csordas et al., Do Language Models Use Their Depth Efficiently?, 2025, arXiv 2505.13898"

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        count = min(self.tokens, len(tokens))
        cuts = sorted({round(count * (place + 1) / (self.cuts + 1)) for place in range(self.cuts)})
        return _Reader(model, count, len(tokens), [cut for cut in cuts if 2 <= cut < count])

    @classmethod
    def examples(cls) -> tuple[DepthUse, ...]:
        return cls(), cls(tokens=11, cuts=1)


class _Reader(Reader):
    def __init__(self, model: Model, count: int, length: int, cuts: list[int]) -> None:
        self._anatomy, self._count = model.anatomy, count
        self._ropes = model.anatomy.rope(torch.arange(count, device=model.device), length)
        # Tokens first ... end - 1 skip a layer; its effect is looked at from token ``seen`` on.
        self._spans = [(1, count, 1), *((1, cut, cut) for cut in cuts)]
        self._sizes = np.zeros((2, len(_SIZES), model.layers))
        self._effects = np.zeros((len(self._spans), model.layers, model.layers))
        self._copies = torch.empty(0, count, model.anatomy.width, dtype=model.dtype, device=model.device)
        self._before = self._middle = torch.empty(0)

    def see(self, site: str, layer: int, value: Any) -> None:
        x = value[0, : self._count]
        if site == "embedding":
            self._before = x.clone()
        elif site == "attention_output":
            self._middle = self._before if self._anatomy.blocks[layer].parallel else self._before + x
            self._sizes[:, 0, layer] = contribution(x, self._before)
        elif site == "mlp_output":
            self._sizes[:, 1, layer] = contribution(x, self._middle)
        else:
            self._sizes[:, 2, layer] = contribution(x - self._before, self._before)
            self._carry(layer, x)
            self._before = x.clone()

    def _carry(self, layer: int, x: Tensor) -> None:
        """Take all copies through a block, and begin those that skip it."""
        added, spans = (x - self._before).float(), len(self._spans)
        size = added.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        if len(self._copies):
            copies = walk([self._anatomy.blocks[layer]], self._copies, self._ropes, causal)
            changed = ((copies - self._copies).float() - added).norm(dim=-1) / size
            self._copies = copies
            for place, (_, _, seen) in enumerate(self._spans):
                self._effects[place, :layer, layer] = _most(changed[place::spans, seen:])
        new = x.expand(spans, -1, -1).clone()
        for place, (first, end, seen) in enumerate(self._spans):
            new[place, first:end] = self._before[first:end]
            # A block that is skipped adds nothing where it is, and all that it does where it is not.
            self._effects[place, layer, layer] = float(seen < end)
        self._copies = torch.cat((self._copies, new))

    def finish(self) -> xr.Dataset:
        layers, spans = self._sizes.shape[-1], len(self._spans)
        output = np.zeros((spans, layers))
        full = self._anatomy.unembed(self._before).float().softmax(-1)
        for skipped in range(layers):  # one layer's logits at a time
            for place, (_, _, seen) in enumerate(self._spans):
                rows = self._copies[skipped * spans + place, seen:]
                if not len(rows):
                    continue
                changed = (self._anatomy.unembed(rows).float().softmax(-1) - full[seen:]).norm(dim=-1)
                output[place, skipped] = _most(changed[None])[0]
        variables = {}
        for kind, what in enumerate(("share", "cosine")):
            for place, (name, said) in enumerate(_SIZES.items()):
                of_what = "norm of what {} adds, over the stream" if kind == 0 else "cosine of what {} adds with it"
                values = self._sizes[kind, place]
                variables[f"{name}_{what}"] = variable("block", values, "1", of_what.format(said))
        both = "skipped block"
        future = self._effects[1:].max(0) if spans > 1 else np.zeros((layers, layers))
        later = output[1:].max(0) if spans > 1 else np.zeros(layers)
        variables |= {
            "present_effect": variable(both, self._effects[0], "1", "largest relative change of what a block adds"),
            "future_effect": variable(both, future, "1", "largest relative change at later tokens"),
            "present_output": variable("skipped", output[0], "1", "largest change of the next-token probabilities"),
            "future_output": variable("skipped", later, "1", "largest change of them at later tokens"),
        }
        coordinates = axis("block", np.arange(layers), "layer", "block") | axis(
            "skipped", np.arange(layers), "layer", "skipped block"
        )
        cuts = [seen for _, _, seen in self._spans[1:]]
        return xr.Dataset(variables, coordinates, {"tokens": self._count, "cuts": cuts})


def _most(changes: Tensor) -> np.ndarray:
    """Largest change of each row [rows] of [rows, tokens]; 0 where there is no token."""
    return changes.max(1).values.cpu().numpy() if changes.shape[1] else np.zeros(len(changes))
