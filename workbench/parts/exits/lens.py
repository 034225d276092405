"""A residual stream in the middle of a model, read as if it were the last: through the final norm and the unembedding.

Source
------
nostalgebraist, interpreting GPT: the logit lens, 2020 (no arXiv id).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.projection import LinearMap, Projection, some_outputs


class Lens(abc.ABC):
    """Reads the residual stream after any layer of a model, -1 for the one before the first.

    Whoever drafts, exits or looks at a layer takes one (:func:`workbench.parts.exits.load_lens`) and asks it for the
    head of that layer, which a pass unembeds with: ``opened.unembed(rows, head=lens.head(layer), who=…)``.

    Parameters
    ----------
    model : Model
    frequent : int Tensor [tokens] or None
        Tokens by how often the model writes them, the most frequent first; by default by their id, as a byte-pair
        tokenizer learned the frequent ones first.

    Attributes
    ----------
    anatomy : Anatomy
    last : int
        The last layer, whose stream is read as it stands.
    acceptance : Tensor [layers, ranks] or None
        Of the streams after layer -1, 0, … ``last`` - 1: the share of text on which the token that the lens has at a
        rank is the last layer's first; None where that was not measured.
    """

    acceptance: Tensor | None = None

    def __init__(self, model: Model, frequent: Tensor | None = None) -> None:
        self.anatomy, self.last = model.anatomy, model.layers - 1
        self._frequent = frequent
        self._known: dict[int, tuple[LinearMap, Tensor | None]] = {0: (model.anatomy.head, None)}

    @abc.abstractmethod
    def stream(self, x: Tensor, layer: int) -> Tensor:
        """The stream [..., width] as the last layer would have left it, from ``x`` [..., width] after ``layer``."""

    @abc.abstractmethod
    def flops(self, layer: int, rows: int) -> int:
        """Operations of :meth:`stream`, a multiply-add counted as two; norm and unembedding are not among them."""

    @abc.abstractmethod
    def bytes(self, layer: int, rows: int) -> int:
        """Bytes of weights that :meth:`stream` reads."""

    def followed(self, layer: int) -> Sequence[int]:
        """Layers, increasing, after which the lens has to :meth:`see` rows before it reads them after ``layer``; none
        for one that goes by that stream alone."""
        return ()

    def see(self, x: Tensor, layer: int) -> None:
        """Follow rows, whose stream after a layer is ``x`` [rows, width], from one of these layers to the next."""
        raise NotImplementedError(f"{type(self).__name__} reads a stream as it comes, and follows none")

    def seeing(self, layer: int, rows: int) -> tuple[int, int]:
        """Operations of :meth:`see`, and bytes of weights that it reads."""
        return 0, 0

    def head(self, layer: int, tokens: int = 0) -> LensHead:
        """What gives logits of the stream after a layer.

        Parameters
        ----------
        layer : int
        tokens : int
            Of so many of the most frequent tokens alone, which costs that share of the unembedding; 0 for all.

        Raises
        ------
        SettingError
            If there is no such layer.
        """
        if not -1 <= layer <= self.last:
            raise SettingError(f"a lens reads the stream after layer -1 … {self.last}, not after {layer}")
        return LensHead(self, layer, *self._some(tokens))

    def _some(self, tokens: int) -> tuple[LinearMap, Tensor | None]:
        """The unembedding of the most frequent tokens, laid out once, and which these are."""
        tokens = 0 if tokens >= self.anatomy.vocabulary else tokens
        if tokens not in self._known:
            frequent = self._frequent
            chosen = slice(tokens) if frequent is None else frequent[:tokens].long()
            head = some_outputs(self.anatomy.head, chosen)
            if frequent is None:
                head = Projection(head.weight.contiguous(), head.bias, head.multiply)
            self._known[tokens] = head, None if frequent is None else chosen
        return self._known[tokens]


class LensHead:
    """Logits of a stream after one layer, and what they cost.

    Attributes
    ----------
    lens : Lens
    layer : int
    vocabulary : int Tensor [tokens] or None
        Which token each logit is of; None where it is the one of that place.
    unembedding : LinearMap
    all_tokens : bool
        Whether there is a logit for every token.
    """

    def __init__(self, lens: Lens, layer: int, head: LinearMap, vocabulary: Tensor | None) -> None:
        self.lens, self.layer, self.vocabulary = lens, layer, vocabulary
        self.unembedding, self.all_tokens = head, head is lens.anatomy.head

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [..., tokens] of ``x`` [..., width]."""
        return self.read(self.lens.stream(x, self.layer))

    def read(self, stream: Tensor) -> Tensor:
        """Logits [..., tokens] of what :meth:`Lens.stream` gave."""
        anatomy = self.lens.anatomy
        return anatomy.finish(self.unembedding(anatomy.final_norm(stream)))

    def flops(self, rows: int) -> int:
        """Operations of so many rows, a multiply-add counted as two."""
        return self.lens.flops(self.layer, rows) + self.unembedding.flops(rows)

    def bytes(self, rows: int) -> int:
        """Bytes of weights that so many rows read."""
        return self.lens.bytes(self.layer, rows) + self.unembedding.bytes(rows)


class LogitLens(Lens):
    """The stream as it stands."""

    def stream(self, x: Tensor, layer: int) -> Tensor:
        return x

    def flops(self, layer: int, rows: int) -> int:
        return 0

    def bytes(self, layer: int, rows: int) -> int:
        return 0
