"""What parts have in common that make rows of the residual stream for tokens not yet known."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from workbench.artifacts import fit
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.parts.loading import sizes


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

    Notes
    -----
    Its class attribute ``Training`` is what its recipe has beside :class:`workbench.training._ahead.LookaheadRecipe`:
    settings of its own and their defaults, and ``part(model)``, the part as it is before the first step.
    """

    recipe: ClassVar[str]
    paper: ClassVar[str]
    acceptance: Tensor

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
    def untrained(cls, model: Model, orders: int) -> Self:
        """A part for a model that has learned nothing."""

    @classmethod
    @abc.abstractmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        """The part whose ``state_dict`` the tensors are; ArtifactError if they are of something else."""

    @abc.abstractmethod
    def rows(self, roots: Tensor, orders: Sequence[int]) -> Tensor:
        """Rows [rows, width] or [batch, rows, width] from the residual stream of their roots, which has that shape."""


class EmbeddedPart(LookaheadPart):
    """Base of parts with a trained embedding for every order, whose rows enter before the first block.

    Parameters
    ----------
    embeddings : Tensor [orders, width]
        First values.
    ranks : int
    """

    layer = 0

    def __init__(self, embeddings: Tensor, ranks: int = 8) -> None:
        super().__init__(len(embeddings), ranks)
        self.embeddings = nn.Parameter(embeddings.clone())

    @property
    def width(self) -> int:
        return self.embeddings.shape[1]

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        sizes(tensors, "embeddings", 2)
        if not tensors["embeddings"].is_floating_point():
            raise ArtifactError(f"the embeddings hold {tensors['embeddings'].dtype} where fractions are due")
        part = cls.like(tensors, sizes(tensors, "acceptance", 2)[1]).to(tensors["embeddings"])
        fit(part, tensors, f"file of {cls.__name__}")
        return part

    @classmethod
    def like(cls, tensors: dict[str, Tensor], ranks: int) -> Self:
        """A part with the sizes of one whose ``state_dict`` the tensors are; ``embeddings`` has been looked at."""
        return cls(tensors["embeddings"], ranks)


@torch.no_grad()
def entering_rows(model: Model) -> Tensor:
    """Residual stream [vocabulary, width] in float32 that every token enters the first block as, at the first place."""
    tokens = torch.arange(len(model.anatomy.embedding), device=model.device)
    return model.anatomy.embed(tokens[None], torch.zeros_like(tokens))[0].float()


def position_shift(anatomy: Any, positions: Tensor) -> Tensor | None:
    """What a model with learned positions adds to rows [rows, width] at ``positions`` over what it adds at the first.

    None for models whose positions enter in the attention.
    """
    if anatomy.family.position_embedding is None:
        return None
    token = torch.zeros(1, len(positions), dtype=torch.long, device=positions.device)
    return (anatomy.embed(token, positions) - anatomy.embed(token, torch.zeros_like(positions)))[0]
