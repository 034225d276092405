"""What all draft heads share: a trimmed vocabulary, how often each rank is right, and how a draft grows by levels.

A *feature* is the frozen model's last hidden state after its final norm: of the token at position t it says the token
t + 1. Head d, counted from 1, gives a row that the model's own unembedding turns into token t + 1 + d, and may be told
the tokens t + 1 … t + d, which are known by then: the model's own next token and what heads before it speculated.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.artifacts import fit
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.parts.loading import sizes

State = tuple[Tensor, ...]


class DraftHeads(nn.Module, abc.ABC):
    """Base of every kind of draft heads.

    Parameters
    ----------
    width : int
        Of the frozen model's features.
    heads : int
        Tokens ahead.
    vocabulary : int Tensor [draft vocabulary]
        Tokens that can be drafted, the most frequent first. The rows of the unembedding that they name are not stored.
    ranks : int
        Most probable tokens of a head that are of interest.

    Attributes
    ----------
    vocabulary : int32 Tensor [draft vocabulary], a buffer
    acceptance : Tensor [heads, ranks], a buffer
        Share of text on which the token at a rank of a head was the right one while all tokens before it were.
    independent : bool
        Whether a head looks at features only, so that all heads can be asked at once.
    output_embeddings : bool
        Whether speculated tokens are told by their row in the unembedding rather than in the embedding.
    """

    recipe: ClassVar[str]
    paper: ClassVar[str]
    vocabulary: Tensor
    acceptance: Tensor
    independent: ClassVar[bool] = False
    output_embeddings: ClassVar[bool] = False

    def __init__(self, width: int, heads: int, vocabulary: Tensor, ranks: int = 8) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.register_buffer("vocabulary", vocabulary.to(torch.int32))
        ranks = min(ranks, len(vocabulary))
        # Until it is measured: half as often at every further rank.
        self.register_buffer("acceptance", (0.5 ** torch.arange(2.0, 2.0 + ranks)).repeat(heads, 1))

    @classmethod
    def of(cls, width: int, tensors: dict[str, Tensor]) -> Self:
        """The heads whose ``state_dict`` the tensors are; ArtifactError if they are of something else."""
        heads, ranks = sizes(tensors, "acceptance", 2)
        sizes(tensors, "vocabulary", 1)
        built = cls(width, heads, tensors["vocabulary"], ranks)
        fit(built, tensors, "file of draft heads")
        return built

    def draft_vocabulary(self, model: Model) -> Tensor:
        """int Tensor [draft vocabulary] that indexes the model's own; ArtifactError if it does not."""
        ids = self.vocabulary.long()
        if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= model.anatomy.vocabulary:
            raise ArtifactError(f"the draft vocabulary is none of the {model.anatomy.vocabulary:,} of {model.name}")
        return ids

    def token_rows(self, model: Model) -> Tensor:
        """The frozen model's rows [vocabulary, width] that tell the heads a token."""
        return model.anatomy.unembedding if self.output_embeddings else model.anatomy.embedding

    @abc.abstractmethod
    def rows(self, features: Tensor, embeddings: Tensor) -> list[Tensor]:
        """Rows of every head over whole texts, each told the true tokens before the one it is to say.

        Parameters
        ----------
        features, embeddings : Tensor [batch, tokens, width]

        Returns
        -------
        list of Tensor [batch, tokens - d, width] for d = 1 … heads
            Row t of head d comes from feature t and tokens t + 1 … t + d.
        """

    def remember(self, memory: Any, features: Tensor, position: int) -> None:
        """Take in features [tokens, width] of the text from ``position`` on; ``memory`` is a
        :class:`workbench.engine.LayerCache`."""

    @abc.abstractmethod
    def begin(self, memory: Any, feature: Tensor, position: int, recent: Tensor) -> State:
        """State before any speculated token; every tensor's first dimension counts the paths, of which there is one.

        Parameters
        ----------
        memory : LayerCache
        feature : Tensor [1, width]
            Of the text's last token but one: the last one was chosen from it.
        position : int
            Of that token.
        recent : Tensor [1, 2 * width]
            Embeddings of the two tokens before the last one.
        """

    @abc.abstractmethod
    def step(self, memory: Any, depth: int, state: State, embeddings: Tensor, position: int) -> tuple[Tensor, State]:
        """Rows [paths, width] of head ``depth`` and the paths' new state, told the newest token of each path.

        Parameters
        ----------
        memory : LayerCache
        depth : int
            From 1.
        state : tuple of Tensor [paths, …]
        embeddings : Tensor [paths, width]
        position : int
            Of the newest tokens.
        """


def normed(x: Tensor) -> Tensor:
    """``x`` [..., width] over its root mean square."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def zero_linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A linear map that starts at zero, so that what it is added to passes unchanged."""
    linear = nn.Linear(inputs, outputs, bias)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear


class ResidualHead(nn.Module):
    """``x + SiLU(W x)``, at first the identity: the block of Medusa's heads that others took over."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = zero_linear(width, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.linear(x))
