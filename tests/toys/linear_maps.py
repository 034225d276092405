"""Linear maps that keep their weights otherwise, for tests: two thin factors, and eight bits with a scale a row."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class LowRank:
    """``x @ right.T @ left.T``."""

    left: Tensor
    right: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, dense, rank=8):
        u, s, v = torch.linalg.svd(dense.weight, full_matrices=False)
        return cls(u[:, :rank] * s[:rank], v[:rank].contiguous(), dense.bias)

    @property
    def weight(self):
        return self.left @ self.right

    def __call__(self, x):
        return F.linear(F.linear(x, self.right), self.left, self.bias)

    def flops(self, rows):
        return 2 * rows * (self.left.numel() + self.right.numel())

    def bytes(self, rows):
        return (self.left.numel() + self.right.numel()) * self.left.element_size()


@dataclass
class EightBit:
    """``x @ (codes * scale).T``, codes in -127 … 127 and a scale [outputs, 1] for every output."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, dense):
        scale = dense.weight.abs().amax(1, keepdim=True) / 127
        return cls((dense.weight / scale).round().to(torch.int8), scale, dense.bias)

    @property
    def weight(self):
        return self.codes * self.scale

    def __call__(self, x):
        return F.linear(x, self.weight, self.bias)

    def flops(self, rows):
        return 2 * rows * self.codes.numel()

    def bytes(self, rows):
        return self.codes.numel() + self.scale.numel() * self.scale.element_size()
