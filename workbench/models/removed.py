"""Blocks less a sublayer: without attention, without MLP, or without either; models less their upper blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from workbench.models.block import Block
from workbench.models.variant import varied
from workbench.models.views import Views

if TYPE_CHECKING:
    from workbench.models.anatomy import Anatomy

_LOWER = Views()


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
    """A view with the first ``count`` blocks alone, in which nothing is left of the others; the same object every time
    (:class:`workbench.models.views.Views`)."""
    gone = range(count, anatomy.layers)
    return _LOWER.of(
        anatomy,
        count,
        lambda: varied(anatomy, others={layer: without(anatomy.blocks[layer], True, True) for layer in gone}),
    )
