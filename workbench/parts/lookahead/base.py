"""What parts have in common that make rows of the residual stream for tokens not yet known."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn


class LookaheadPart(nn.Module, abc.ABC):
    """Base of what :class:`workbench.engine.Lookahead` rows are made by.

    The row of order k stands k tokens after its root and says the token after that: k + 1 tokens after the root.

    Parameters
    ----------
    orders : int
        Rows of a root.
    ranks : int
        Most probable tokens of a row that are of interest.

    Attributes
    ----------
    acceptance : Tensor [orders, ranks], a buffer
        Share of text on which the token at a rank of a row was the right one.
    layer : int
        The rows enter before it.
    """

    def __init__(self, orders: int, ranks: int = 8) -> None:
        super().__init__()
        # Until it is measured: half as often at every further rank.
        self.register_buffer("acceptance", (0.5 ** torch.arange(2.0, 2.0 + ranks)).repeat(orders, 1))

    @property
    def orders(self) -> int:
        return self.acceptance.shape[0]

    @property
    @abc.abstractmethod
    def layer(self) -> int: ...

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Of a row."""

    @classmethod
    @abc.abstractmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        """The part whose ``state_dict`` the tensors are."""

    @abc.abstractmethod
    def rows(self, roots: Tensor, orders: Sequence[int]) -> Tensor:
        """Rows [rows, width] or [batch, rows, width] from the residual stream of their roots, which has that shape."""


def position_shift(anatomy: Any, positions: Tensor) -> Tensor | None:
    """What a model with learned positions adds to rows [rows, width] at ``positions`` over what it adds at the first.

    None for models whose positions enter in the attention.
    """
    if anatomy.family.position_embedding is None:
        return None
    token = torch.zeros(1, len(positions), dtype=torch.long, device=positions.device)
    return (anatomy.embed(token, positions) - anatomy.embed(token, torch.zeros_like(positions)))[0]
