"""Models whose middle layers are one block of layers, applied several times: where each recursion begins and ends.

Such a model is a stock Llama to transformers: the block stands in it once for every recursion. What it is besides is
the table ``recursion`` of its configuration. See :mod:`workbench.parts.recursive`, which is trained, and
:class:`workbench.techniques.Recursion`, which routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from workbench.errors import CorruptModel

Routing = Literal["fixed", "expert", "token"]
"""Every token runs all recursions; each recursion chooses tokens; each token chooses how many."""
Keys = Literal["recursion", "shared"]
"""Every recursion has keys and values of its own; or later ones read those of the first."""

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Layout:
    """How the layers of a model are shared ("middle-cycle"): the first and the last are its own, those between are a
    block of layers, run ``times`` times.

    Attributes
    ----------
    block : int
        Layers of the block.
    times : int
        Recursions, at least 1.
    first, last : int
        Layers before and behind them.
    """

    block: int
    times: int
    first: int = 1
    last: int = 1

    @property
    def unique(self) -> int:
        """Layers with weights of their own."""
        return self.first + self.block + self.last

    @property
    def layers(self) -> int:
        """Layers that a token goes through at most."""
        return self.first + self.block * self.times + self.last

    @property
    def behind(self) -> int:
        """The first layer behind the last recursion."""
        return self.first + self.block * self.times

    def begins(self, recursion: int) -> int:
        """The first layer of a recursion, counted from 0; of recursion ``times`` it is :attr:`behind`."""
        return self.first + self.block * recursion

    def stored(self, layer: int) -> int:
        """Which of the unique layers a layer is."""
        if layer < self.first:
            return layer
        if layer < self.behind:
            return self.first + (layer - self.first) % self.block
        return layer - self.block * (self.times - 1)

    def first_visit(self, layer: int) -> int:
        """The layer of the first recursion that has the weights of a layer of any recursion."""
        return self.first + (layer - self.first) % self.block


@dataclass(frozen=True)
class Recursive:
    """What the configuration of a recursive model says beyond a Llama's.

    Attributes
    ----------
    layout : Layout
    routing : Routing
    keys : Keys
        With which it was trained.
    router : list of list of float
        [times, width]: of each recursion what the stream is multiplied with; empty of a fixed one.
    """

    layout: Layout
    routing: Routing
    keys: Keys
    router: list[list[float]]

    def table(self) -> dict[str, Any]:
        """As the configuration holds it."""
        return {**vars(self.layout), "routing": self.routing, "keys": self.keys, "router": self.router}


def recursion_of(config: Any) -> Recursive | None:
    """What a configuration says of recursions; None of a model that has none.

    Raises
    ------
    CorruptModel
        If it does not fit the rest of the configuration.
    """
    table = getattr(config, "recursion", None)
    if table is None:
        return None
    try:
        layout = Layout(*(int(table[key]) for key in ("block", "times", "first", "last")))
        routing, keys, router = table["routing"], table["keys"], table["router"]
        shape = {(len(router), len(row)) for row in router}
        right = layout.layers == config.num_hidden_layers and min(vars(layout).values()) >= 1
        right &= routing in ("fixed", "expert", "token") and keys in ("recursion", "shared")
        right &= shape == (set() if routing == "fixed" else {(layout.times, config.hidden_size)})
        router = [[float(value) for value in row] for row in router]
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise CorruptModel(
            "the table 'recursion' of the model's configuration does not fit its layers: take its files anew"
        )
    return Recursive(layout, routing, keys, router)


def unrolled(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Tensors of all layers, by the names that transformers gives them, from those of the unique ones
    (``layers.0.mlp.up_proj.weight`` …); those of the block stand there once for every recursion."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            named[f"model.{name}"] = tensor
            continue
        for layer in range(layout.layers):
            if layout.stored(layer) == int(match[1]):
                named[f"model.layers.{layer}.{match[2]}"] = tensor
    return named
