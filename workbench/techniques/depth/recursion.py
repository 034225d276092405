"""Apply a shared block of layers as many times as a router says, token by token.

Paper
-----
Bae et al., Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level Computation, 2025, arXiv
2507.10524.

Source
------
github.com/raymin0223/mixture_of_recursions

Formula
-------
f(h) is what a recursion adds to the stream h of a token. Expert-choice: the first recursion takes every token, a later
one those of the last whose odds are high enough, and ::

    g_r = sigmoid(theta_r h),    on if g_r > threshold,    h = h + g_r f(h)

Token-choice: before the first recursion a token chooses how many it gets, n = argmax softmax(W h), and behind the last
of them h = h_0 + p_n (h - h_0). Every token goes through the layers before and behind the recursions.

Deviates
--------
See :mod:`workbench.parts.recursive`, which is trained: the gate is on what a recursion adds, so that without a router
the model is a plain one. The block stands in the model once for each recursion, the same weights every time, so that
each recursion has a cache of its own, as in the paper; batches of tokens at different depths (continuous depth-wise
batching) are not here, as a run has one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.engine.passes import Pass
from workbench.engine.slots import DepthPolicy, OpenedPolicy
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers
from workbench.models.projection import Projection
from workbench.models.recursive import Keys, Layout, Recursive, recursion_of
from workbench.settings import settings
from workbench.techniques._technique import Technique, register

Router = Literal["model", "none", "expert", "token"]


@register
@settings
class Recursion(Technique):
    """Tokens run the recursions of a recursive model that its routers give them; prompt tokens too.

    Parameters
    ----------
    router : {"model", "none", "expert", "token"}
        The model's own routers, of a recursive model such as ``recursion-expert``; none, all tokens run all layers; or
        untrained ones of either kind over any model, whose middle layers then count as recursions: to try things out.
    threshold : float
        Expert-choice: probability above which a token goes on to another recursion.
    keys : {"model", "recursion", "shared"}
        Whose keys and values a recursion reads: as the model was trained; its own, of the tokens that ran it; or those
        of the first, which has every token, so that later ones neither compute nor keep any.
    times : int
        Recursions of untrained routers, at most.

    Notes
    -----
    A token that stopped has no entry in the caches of the recursions that it left out. Plain decoding of a routed model
    runs every recursion ungated, as it was not trained to: compare with ``recursion-fixed``, which was.
    """

    router: Annotated[Router, Field(description="whose routers: the model's, none, or untrained ones")] = "model"
    threshold: Annotated[float, Field(ge=0, le=1, description="expert-choice: probability to go on above")] = 0.5
    keys: Annotated[
        Literal["model", "recursion", "shared"], Field(description="keys of each recursion or of the first")
    ] = "model"
    times: Annotated[int, Field(ge=1, le=16, description="recursions of untrained routers")] = 2

    slots = ("depth",)
    exact = False
    excludes = ("self_speculative", "dynamic_exit_layer")
    paper = "Bae et al., Mixture-of-Recursions, 2025, arXiv 2507.10524"

    def start(self, run: Run) -> DepthPolicy:
        if self.router == "none":
            return _All(run.model.layers - 1)
        recursive = self._recursive(run.model)
        return _Routed(run, recursive, self.threshold, recursive.keys if self.keys == "model" else self.keys)

    def _recursive(self, model: Model) -> Recursive:
        if self.router != "model":
            return untrained(model, self.router, self.times)
        found = recursion_of(model.hf.config)
        if found is None or found.layout.layers != model.layers:
            raise SettingError(
                f"{model.name} is no recursive model: load recursion-expert, recursion-token or recursion-shared, or set "
                "router=expert or router=token for untrained routers over any model"
            )
        if found.routing == "fixed":
            raise SettingError(f"all tokens of {model.name} run all its recursions: it has no router; set router=none")
        return found

    @classmethod
    def neutral(cls) -> Self:
        return cls(router="none")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(router="expert"), cls(router="token", keys="shared"), cls(router="expert", keys="shared")


def untrained(model: Model, routing: Literal["expert", "token"], times: int) -> Recursive:
    """Routers of small random numbers, always the same, over the middle layers of any model.

    Raises
    ------
    SettingError
        If it has fewer than three layers.
    """
    middle = model.layers - 2
    if middle < 1:
        raise SettingError(f"{model.name} has {model.layers} layers, and recursions stand between the first and the last")
    times = min(times, middle)
    block = middle // times
    weight = torch.randn(times, model.anatomy.width, generator=torch.Generator().manual_seed(0))
    layout = Layout(block, times, first=1 + middle - block * times)
    return Recursive(layout, routing, "recursion", (weight * model.anatomy.width**-0.5).tolist())


class _All(DepthPolicy):
    def __init__(self, last: int) -> None:
        self._last = last

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        return layer + 1 if layer < self._last else None

    def stretch(self, layer: int) -> int:
        return self._last


class _Routed(OpenedPolicy):
    """Asked behind the last layer before a recursion, and behind each recursion."""

    def __init__(self, run: Run, recursive: Recursive, threshold: float, keys: Keys) -> None:
        model, self.layout = run.model, recursive.layout
        self._last, self._ledger, self._threshold = model.layers - 1, run.ledger, threshold
        router = torch.tensor(recursive.router, dtype=model.dtype, device=model.device)
        parts = [router] if recursive.routing == "token" else list(router[:, None])
        self._by_token = recursive.routing == "token"
        self._routers = [Projection(part, None, model.anatomy.multiply) for part in parts]
        self._recursions = {self.layout.begins(each) - 1: each for each in range(self.layout.times + 1)}
        self._ends = sorted({*self._recursions, self._last})
        self.borrowed = _borrowed(model, self.layout) if keys == "shared" else {}
        self._entered: _Entered | None = None

    def opened(self, opened_pass: Pass) -> None:
        self._pass, self._entered = opened_pass, None

    def stretch(self, layer: int) -> int:
        return next(each for each in self._ends if each >= layer)

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        recursion = self._recursions.get(layer)
        if recursion is None:
            return layer + 1 if layer < self._last else None
        goes = self._enter(x[0]) if recursion == 0 else self._leave(recursion, x[0])
        opened = self._pass
        if len(goes) < len(opened.rows):
            if goes:
                opened.keep(goes)
                self._entered = self._entered.of(goes)
                return layer + 1
            recursion = self.layout.times
        if recursion < self.layout.times:
            return layer + 1
        opened.revive()
        self._entered = None
        return self.layout.behind

    def _enter(self, x: Tensor) -> list[int]:
        """The first recursion takes every row."""
        odds = self._odds(0, x)
        if self._by_token:
            probability, place = odds.softmax(-1).max(-1)
            self._entered = _Entered(list(self._pass.rows), x, probability, place + 1)
        else:
            self._entered = _Entered(list(self._pass.rows), x, odds[:, 0].sigmoid(), None)
        return self._entered.rows

    def _leave(self, recursion: int, x: Tensor) -> list[int]:
        """Behind a recursion rows are what their gate makes of it; which of them go on to the next one."""
        rows, last = list(self._pass.rows), recursion == self.layout.times
        entered = self._entered.of(rows, x)
        done = torch.ones_like(entered.gate, dtype=torch.bool)
        if entered.depths is not None and not last:
            done = entered.depths <= recursion
        gated = entered.x + entered.gate[:, None].to(x.dtype) * (x - entered.x)
        x = torch.where(done[:, None], gated, x)
        self._pass.change(x)
        if last:
            return rows
        if self._by_token:
            on, self._entered = ~done, entered
        else:
            gate = self._odds(recursion, x)[:, 0].sigmoid()
            on, self._entered = gate > self._threshold, _Entered(rows, x, gate, None)
        return [row for row, goes in zip(rows, on.tolist()) if goes]

    def _odds(self, recursion: int, x: Tensor) -> Tensor:
        """Odds [rows, 1] of expert-choice, [rows, times] of token-choice."""
        router = self._routers[recursion]
        self._ledger.product(POLICY, len(x), router)
        with self._ledger.timed(POLICY):
            return router(x).float()


class _Entered:
    """With what streams [rows, width] rows began, their gates [rows], and by token-choice how many recursions they get,
    int [rows]."""

    def __init__(self, rows: list[int], x: Tensor, gate: Tensor, depths: Tensor | None) -> None:
        self.rows, self.x, self.gate, self.depths = rows, x, gate, depths

    def of(self, rows: Sequence[int], x: Tensor | None = None) -> _Entered:
        """The same of some rows. One that joined on the way, as lookahead rows do, is not gated, and goes on: it began,
        so to speak, with the stream ``x`` that it has."""
        if rows == self.rows:
            return self
        known = {row: place for place, row in enumerate(self.rows)}
        places = numbers([known.get(row, 0) for row in rows], self.x.device)
        stream, gate = self.x[places], self.gate[places]
        depths = None if self.depths is None else self.depths[places]
        for place, row in enumerate(rows):
            if row not in known and x is not None:
                stream[place], gate[place] = x[place], 1.0
                if depths is not None:
                    depths[place] = torch.iinfo(depths.dtype).max
        return _Entered(list(rows), stream, gate, depths)


def _borrowed(model: Model, layout: Layout) -> dict[int, int]:
    """Layers of later recursions, and the layer of the first one that has their keys."""
    borrowed = {layer: layout.first_visit(layer) for layer in range(layout.begins(1), layout.behind)}
    for layer, source in borrowed.items():
        mine, other = model.anatomy.blocks[layer].mixer, model.anatomy.blocks[source].mixer
        if mine.recurrent or other.recurrent or (mine.kv_heads, mine.head_dim) != (other.kv_heads, other.head_dim):
            raise SettingError(f"layer {layer} of {model.name} cannot read keys of layer {source}: set keys=recursion")
    return borrowed
