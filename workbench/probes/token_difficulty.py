"""How much each token would gain from more compute: what big MLPs in its way, at the best places, spare of its loss.

Paper
-----
Alizadeh et al., Duo-LLM: A Framework for Studying Adaptive Computation in Large Language Models, 2024, arXiv
2410.10846.

Formula
-------
With L(k) the least loss of the right next token over all ways through the layers with at most k big MLPs, the others
small or none::

    difficulty = L(0) - L(budget)

A token may have a high loss and be easy: no compute helps it.

Deviates
--------
The paper's model was trained with small modules from the start; see :class:`workbench.techniques.SmallBigRouter`. The
tokens before take the big MLP everywhere. Over more than six layers the least loss is that of a beam search.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.models.model import evenly
from workbench.parts.small_big import BIG, small_mlps
from workbench.parts.small_big.oracle import oracle
from workbench.parts.small_big.paths import Paths, check_mixers
from workbench.probes._probe import Probe, Reader, axis, register
from workbench.settings import outside, settings
from workbench.trace import variable


@register
@settings
class TokenDifficulty(Probe):
    """Least loss of some tokens' successors by budget of big MLPs, and the layers where the best ways have them.

    Parameters
    ----------
    small : str
        The small MLPs: ``bundled``, ``untrained`` or the path of a trained file.
    budget : int
        Most big MLPs of a way; with fewer layers searched, that many.
    layers : int or None
        How many layers are searched, evenly spread; the others are big. All by default.
    beam : int
        Ways kept of each number of big MLPs, where not all ways are tried.
    tokens : int
        How many tokens are looked at, counted from the end of the text; the last has no successor.

    Notes
    -----
    Writes ``loss`` (budget, token) [nats], ``whole_loss`` (token), of the model itself, ``difficulty`` (token), and
    ``big`` (block), the share of tokens whose best way within the budget has the big MLP there.

    Cost: a beam looks at about (budget + 1) x beam x 2 x layers ways of each token, half of each computed anew. Keys
    and values of the text are kept until the end.
    """

    small: Annotated[str, outside("part", "small MLPs: bundled, untrained, or a file", min_length=1)] = "bundled"
    budget: Annotated[int, Field(ge=1, le=256, description="most big MLPs of a way")] = 3
    layers: Annotated[int, Field(ge=1, description="layers searched; all if none")] | None = None
    beam: Annotated[int, Field(ge=1, le=64, description="ways kept of each number of big MLPs")] = 1
    tokens: Annotated[int, Field(ge=1, le=1024, description="tokens looked at, from the end")] = 12

    sites = ("query_key_value", "residual")
    paper = "Alizadeh et al., Duo-LLM, 2024, arXiv 2410.10846"

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        check_mixers(model)
        return _Reader(self, model, tokens)

    @classmethod
    def examples(cls) -> tuple[TokenDifficulty, ...]:
        return cls(small="untrained", tokens=3), cls(small="untrained", tokens=2, budget=1, layers=2)


class _Reader(Reader):
    def __init__(self, probe: TokenDifficulty, model: Model, tokens: Tensor) -> None:
        self._probe, self._model, self._tokens = probe, model, tokens.to(model.device)
        # Where all layers have experts there is nothing to choose, and nothing to spare.
        dense = any(block.down is not None for block in model.anatomy.blocks)
        self._small = small_mlps(model, probe.small) if dense else {}
        self._keys: list[Tensor | None] = [None] * model.layers
        self._values = list(self._keys)
        # A text of one token has no successor to lose.
        self._places = list(range(max(0, len(tokens) - 1 - probe.tokens), len(tokens) - 1))
        self._last = torch.empty(0)

    def see(self, site: str, layer: int, value: Any) -> None:
        if site == "query_key_value":
            _, self._keys[layer], self._values[layer] = (each.clone() for each in value)
        elif layer == self._model.layers - 1:
            self._last = value[0, self._places].clone()

    def finish(self) -> xr.Dataset:
        probe, model, places = self._probe, self._model, self._places
        dense = list(self._small)
        count = min(probe.layers or len(dense), len(dense))
        searched = [dense[place] for place in evenly(len(dense), count)] if count else []
        budgets = list(range(min(probe.budget, len(searched)) + 1))
        paths = Paths(model, self._small, self._tokens, self._keys, self._values)
        losses = np.zeros((len(budgets), len(places)))
        big = np.zeros(model.layers)
        for column, place in enumerate(places):
            found, ways = oracle(
                lambda ways, place=place: paths.losses(place, ways.to(model.device)),
                model.layers, searched, budgets, probe.beam,
            )  # fmt: skip
            losses[:, column], big = found.numpy(), big + (ways[-1] == BIG).numpy()
        logits = model.anatomy.unembed(self._last).float()
        right = self._tokens[[place + 1 for place in places], None]
        whole = (logits.logsumexp(-1) - logits.gather(1, right)[:, 0]).cpu().numpy() if places else losses[0]
        variables = {
            "loss": variable("budget token", losses, "nats", "least loss of the next token"),
            "whole_loss": variable("token", whole, "nats", "loss of the next token, all MLPs big"),
            "difficulty": variable("token", losses[0] - losses[-1], "nats", "loss that big MLPs spare"),
            "big": variable("block", big / max(1, len(places)), "1", "share of tokens that take the big MLP here"),
        }
        coordinates = (
            axis("budget", np.array(budgets), "MLPs", "most big MLPs")
            | axis("token", np.array(places, dtype=int), "tokens", "position")
            | axis("block", np.arange(model.layers), "layer", "block")
        )
        return xr.Dataset(variables, coordinates, {"searched": searched, "beam": probe.beam})
