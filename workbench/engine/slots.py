"""The slots of the decode loop: what a technique may decide, and what the loop asks of it.

A technique is settings; :meth:`TechniqueLike.start` turns it into a *policy*, an object with the methods of the slots
that it claims, which lives for one run. The loop calls nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from workbench.engine.sampling import Sampler

if TYPE_CHECKING:
    from workbench.engine.cache import KeyValueCache, LayerCache
    from workbench.models import Block, Model

SLOTS: dict[str, str] = {
    "weights": "stack",
    "context": "one",
    "depth": "one",
    "experts": "one",
    "attention": "one",
    "cache": "one",
    "draft": "one",
    "accept": "one",
    "logits": "stack",
    "switch": "one",
    "stop": "one",
}
"""Slot -> whether it holds one technique or a stack of them, applied in order."""


@dataclass(frozen=True)
class Run:
    """What a technique is told when a run starts.

    Attributes
    ----------
    model : Model
        The model that the policy will serve.
    prompt : tuple of int
    max_new_tokens : int
    sampler : Sampler
        How the next token is chosen.
    seed : int
    """

    model: Model
    prompt: tuple[int, ...]
    max_new_tokens: int
    sampler: Sampler
    seed: int


@dataclass
class Draft:
    """Candidate tokens: a chain, or a tree.

    Attributes
    ----------
    tokens : list of int
        One for each node, parents before children, siblings in the order in which they are to be tried.
    parents : list of int or None
        Place of each node's parent in ``tokens``, -1 for the last accepted token; None for a chain.
    probabilities : Tensor [nodes, vocabulary] or None
        The distribution that each node was drawn from, independently of its siblings; None where tokens were chosen
        without chance.
    flops, bytes : int
        What drafting cost, counted.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] | None = None
    probabilities: Tensor | None = None
    flops: int = 0
    bytes: int = 0

    def parent(self, node: int) -> int:
        return node - 1 if self.parents is None else self.parents[node]

    def path_to(self, node: int) -> list[int]:
        """Tokens from the first drafted one down to ``node``; none for -1."""
        return [] if node < 0 else [*self.path_to(self.parent(node)), self.tokens[node]]

    def depths(self) -> list[int]:
        """Distance of every node from the last accepted token; its children have 1."""
        depths: list[int] = []
        for node in range(len(self.tokens)):
            parent = self.parent(node)
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths


@dataclass
class Verification:
    """What came of a draft.

    Attributes
    ----------
    draft : Draft
    path : list of int
        Nodes that were kept, from the first on.
    next_token : int
        The token after them, chosen by the model itself.
    logits : Tensor [1 + nodes, vocabulary]
        The model's logits after the last accepted token (row 0) and after every node.
    """

    draft: Draft
    path: list[int]
    next_token: int
    logits: Tensor

    @property
    def tokens(self) -> list[int]:
        """Tokens that the step produces."""
        return [self.draft.tokens[node] for node in self.path] + [self.next_token]


class WeightsPolicy(Protocol):
    """Slot ``weights``."""

    def weights(self, model: Model) -> AbstractContextManager[None]:
        """Changes the weights on entry and puts them back on exit."""


class ContextPolicy(Protocol):
    """Slot ``context``."""

    def select(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        """Before ``layer`` of the prefill: places (int Tensor, increasing, the last one included) of the tokens that
        go on, or None for all. ``x`` is [1, tokens, width]."""


class DepthPolicy(Protocol):
    """Slot ``depth``."""

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        """The layer to run after ``layer`` (-1 at the start), or None to go to the unembedding."""


class ExpertsPolicy(Protocol):
    """Slot ``experts``."""

    def choose_experts(self, block: Block, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices, each [tokens, any], from router logits [tokens, experts]."""


class AttentionPolicy(Protocol):
    """Slot ``attention``."""

    def attend(
        self, layer: int, query: Tensor, cache: LayerCache, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, float] | None:
        """Weighted values [1, heads, tokens, head_dim] and the number of keys a query read on average; None leaves the
        layer to the engine. The new keys are already in ``cache``; ``mask`` [tokens or heads' groups, keys] is True
        where a key is visible, None where all are."""


class CachePolicy(Protocol):
    """Slot ``cache``."""

    def prefilled(self, layer: int, query: Tensor, cache: LayerCache) -> None:
        """After the attention of ``layer`` over the last chunk of the prompt; ``query`` is [1, heads, chunk, head_dim].
        What is evicted here never stands beside the other layers' full caches."""

    def settled(self, cache: KeyValueCache) -> None:
        """After a step, when rejected drafts are gone from the cache."""


class DraftPolicy(Protocol):
    """Slot ``draft``."""

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A draft of at most ``limit`` tokens depth after ``tokens`` (prompt and output so far)."""

    def verified(self, verification: Verification) -> None:
        """What came of the last draft."""


class AcceptPolicy(Protocol):
    """Slot ``accept``."""

    def accept(self, draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
        """Nodes kept, from the first on, and the token after them; ``logits`` is [1 + nodes, vocabulary]."""


class LogitsPolicy(Protocol):
    """Slot ``logits``."""

    def adjust(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        """Next-token logits [vocabulary] after ``tokens``."""


class SwitchPolicy(Protocol):
    """Slot ``switch``."""

    models: tuple[Model, ...]

    def choose_model(self, entropy: float | None) -> int:
        """Place in ``models`` of the one that takes the next step, told the entropy [nats] of the distribution that
        the last token came from; None at the prefill."""


class StopPolicy(Protocol):
    """Slot ``stop``."""

    def stop(self, generated: Sequence[int]) -> bool:
        """Whether to end after these tokens."""


class TechniqueLike(Protocol):
    """What the loop needs of a technique; :class:`workbench.techniques.Technique` is the one to inherit from."""

    slots: ClassVar[tuple[str, ...]]
    stepwise: ClassVar[bool]
    excludes: ClassVar[tuple[str, ...]]

    def start(self, run: Run) -> Any:
        """The policy of one run."""
