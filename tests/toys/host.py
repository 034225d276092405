"""Older entries in the host's memory, brought back a block at a time; the newest stay where the model computes."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from workbench.engine.attention import mean_keys
from workbench.engine.state import PackedState
from workbench.techniques import Technique


class HostState(PackedState):
    label = "in the host"

    def encode(self, kind, entries):
        return {"entries": entries.cpu()}

    def decode(self, kind, columns):
        return columns["entries"].to(self.device)

    def attend(self, query, make_mask, scoring):
        """A running softmax over blocks, so that no more than one block is there at a time."""
        mask, groups = make_mask(), query.shape[1] // self.heads
        asked = query.unflatten(1, (self.heads, groups))
        top = asked.new_full((*asked.shape[:-1], 1), float("-inf"))
        total, out, start = torch.zeros_like(top), torch.zeros_like(asked), 0
        if scoring.sinks is not None:
            top = scoring.sinks.view(1, self.heads, groups, 1, 1).expand_as(top).clone()
            total = torch.ones_like(top)
        for keys, values, _ in self.blocks(self.stride):
            scores = scoring.scores(asked @ keys[:, :, None].transpose(-1, -2))
            if mask is not None:
                seen = mask[..., start : start + keys.shape[2]]
                seen = seen[:, None] if seen.dim() == 3 else seen
                scores = scores.masked_fill(~seen, float("-inf"))
            highest = torch.maximum(top, scores.amax(-1, keepdim=True))
            weights = (scores - highest).exp().nan_to_num(0.0)
            shrink = (top - highest).exp().nan_to_num(0.0)
            total = total * shrink + weights.sum(-1, keepdim=True)
            out = out * shrink + weights @ values[:, :, None]
            top, start = highest, start + keys.shape[2]
        return (out / total).flatten(1, 2), mean_keys(mask, self.length)


@dataclass(frozen=True)
class Host(Technique):
    """A technique of the slot ``store``; it is not registered."""

    tail: int = 4
    stride: int = 8

    slots: ClassVar = ("store",)
    exact: ClassVar = True
    paper: ClassVar = "none: a toy"
    name: ClassVar = "host"

    def start(self, run):
        return self

    def state(self, layer, block, reserve):
        return HostState(reserve, self.tail, self.stride)

    @classmethod
    def neutral(cls):
        return cls()
