"""Keys and values in four bits: asymmetric, by groups, two codes to a byte, the newest entries as they came.

code = round((x - min) / scale) with scale = (max - min) / 15, one min and scale for each group. A group is a stretch of
one entry's channels; with ``by_channel`` the keys' are one channel of neighbouring entries (Liu et al., KIVI, 2024,
arXiv 2402.02750).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from workbench.engine.state import PackedState
from workbench.techniques import Technique


def quantised(grouped):
    """Codes [..., group / 2] two to a byte, scale and minimum [...] of ``grouped`` [..., group]."""
    low, high = grouped.aminmax(dim=-1)
    scale = (high - low) / 15
    steps = (grouped - low[..., None]) / scale.where(scale > 0, 1)[..., None]
    codes = steps.round().clamp(0, 15).to(torch.uint8)
    return {"codes": codes[..., 0::2] | codes[..., 1::2] << 4, "scale": scale, "low": low}


def restored(columns):
    """Tensor [..., group] of what :func:`quantised` gave."""
    codes = torch.stack((columns["codes"] & 15, columns["codes"] >> 4), -1).flatten(-2)
    return codes * columns["scale"][..., None] + columns["low"][..., None]


class FourBitState(PackedState):
    label = "4-bit"

    def __init__(self, reserve, tail, stride, group, by_channel):
        super().__init__(reserve, tail, stride)
        self.group, self.by_channel = group, by_channel
        self.independent = not by_channel

    @property
    def form(self):
        return f"{super().form}, groups of {self.group}, by channel: {self.by_channel}"

    def encode(self, kind, entries):
        if kind == "keys" and self.by_channel:
            return quantised(entries.unflatten(2, (-1, self.stride)).transpose(3, 4))
        return quantised(entries.unflatten(3, (-1, self.group)))

    def decode(self, kind, columns):
        entries = restored(columns)
        if kind == "keys" and self.by_channel:
            return entries.transpose(3, 4).flatten(2, 3)
        return entries.flatten(3)


@dataclass(frozen=True)
class FourBit(Technique):
    """A technique of the slot ``store``; it is not registered."""

    tail: int = 4
    stride: int = 4
    group: int = 4
    by_channel: bool = False

    slots: ClassVar = ("store",)
    exact: ClassVar = False
    paper: ClassVar = "none: a toy"
    name: ClassVar = "four_bit"

    def start(self, run):
        return self

    def state(self, layer, block, reserve):
        return FourBitState(reserve, self.tail, self.stride, self.group, self.by_channel)

    @classmethod
    def neutral(cls):
        return cls(tail=1_000_000)
