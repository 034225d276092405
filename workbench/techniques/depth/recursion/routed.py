"""Rows of a pass through the recursions that routers give them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.engine.passes import Pass
from workbench.engine.slots import OpenedPolicy
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers
from workbench.models.projection import Projection
from workbench.models.recursive import Keys, Layout, Recursive


class Routed(OpenedPolicy):
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
        self.borrowed = borrowed_layers(model, self.layout) if keys == "shared" else {}
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


def borrowed_layers(model: Model, layout: Layout) -> dict[int, int]:
    """Layers of later recursions, and the layer of the first one that has their keys."""
    borrowed = {layer: layout.first_visit(layer) for layer in range(layout.begins(1), layout.behind)}
    for layer, source in borrowed.items():
        mine, other = model.anatomy.blocks[layer].mixer, model.anatomy.blocks[source].mixer
        if mine.recurrent or other.recurrent or (mine.kv_heads, mine.head_dim) != (other.kv_heads, other.head_dim):
            raise SettingError(f"layer {layer} of {model.name} cannot read keys of layer {source}: set keys=recursion")
    return borrowed
