"""Blocks less a sublayer: without attention, without MLP, or without either; models less their upper blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from workbench.models.block import Block
from workbench.models.variant import varied

if TYPE_CHECKING:
    from workbench.models.anatomy import Anatomy

_MOST_VIEWS = 4
_LOWER: WeakKeyDictionary[Anatomy, dict[int, Anatomy]] = WeakKeyDictionary()


@dataclass
class NoMixer:
    """A :class:`workbench.models.mixers.RecurrentMixer` that adds nothing and remembers nothing."""

    recurrent: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    rope_kind: ClassVar[str | None] = None

    def new_state(self) -> dict[str, Tensor]:
        return {}

    def advance(self, x: Tensor, state: Any) -> Tensor:
        return torch.zeros_like(x)

    def flops(self, rows: int) -> int:
        return 0

    def bytes(self, rows: int) -> int:
        return 0


def without(block: Block, attention: bool = False, mlp: bool = False) -> Block:
    """A block less its attention (or other mixer), its MLP (experts, shared ones included), or both, with their norms.

    It takes the block's place in :meth:`workbench.models.Model.variant`; a decoder steps over a block that has neither.
    """
    if attention:
        block = replace(block, mixer=NoMixer(), attention_norm=None, attention_post_norm=None)
    if mlp:
        block = replace(block, up=None, down=None, router=None, shared=None, mlp_norm=None, mlp_post_norm=None)
    return block


def lower_blocks(anatomy: Anatomy, count: int) -> Anatomy:
    """A view with the first ``count`` blocks alone, in which nothing is left of the others.

    The same object every time, of the few that were asked for last: much is laid out for one when it is first used.
    """
    views = _LOWER.setdefault(anatomy, {})
    if count not in views:
        while len(views) >= _MOST_VIEWS:
            del views[next(iter(views))]
        gone = range(count, anatomy.layers)
        views[count] = varied(anatomy, others={layer: without(anatomy.blocks[layer], True, True) for layer in gone})
    return views[count]
