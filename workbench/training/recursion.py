"""Small recursive language models, trained from nothing: routed by expert or token choice, and of fixed depth.

Paper
-----
Bae et al., Mixture-of-Recursions, 2025, arXiv 2507.10524; github.com/raymin0223/mixture_of_recursions. See
:mod:`workbench.parts.recursive` for the model, and what deviates.

The text is the given one as the workbench's main model decodes it; the student has a small byte-level vocabulary of its
own, learned from the same text. The loss is the cross-entropy of the next token; expert-choice adds the binary
cross-entropy of each router's odds with what its recursion took, so that a threshold serves where later tokens are not
known; token-choice adds a balance of depths.

Deviates
--------
The paper's coefficient of the auxiliary loss is 0.001 over billions of tokens; here it is larger, as there is a
thousandth of the text. Its capacities shrink from 1 in steps of 1 / recursions, as here. Held-out figures are those of
the threshold, never of the choice among later tokens.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Model
from workbench.models.recursive import MARKS, Keys, Layout, Routing
from workbench.parts.recursive import RecursiveLanguageModel, Routed, text_pieces
from workbench.settings import settings
from workbench.training._recipe import Recipe, register

_BYTES_PER_TOKEN = 48  # of a tokenizer's file, at most
# The same in every text: a model would seem to foresee it.
_OPENING = re.compile(r"\A<\|im_start\|>system.*?<\|im_end\|>\n", re.DOTALL)


@settings
class _Recursive(Recipe):
    """What the recipes share.

    Parameters
    ----------
    width, neurons, heads, vocabulary : int
        Sizes of the model.
    block, times : int
        Layers of the shared block, and how often it is applied; one layer before and one behind it are unique.
    auxiliary : float
        What the router's own loss is weighed with.

    Notes
    -----
    Figures: ``cross_entropy`` [nats] of the next token, ``bits_per_byte``; ``accuracy``; ``layers`` of a token on
    average; ``megaflops`` of a token's forward; of expert-choice ``foretold``, the share of choices that the threshold
    foretells.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 400
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 4e-3
    width: Annotated[int, Field(ge=8, description="width of the residual stream")] = 96
    neurons: Annotated[int, Field(ge=8, description="neurons of an MLP")] = 192
    heads: Annotated[int, Field(ge=2, description="attention heads")] = 3
    vocabulary: Annotated[int, Field(ge=300, description="tokens of its own tokenizer")] = 1024
    block: Annotated[int, Field(ge=1, description="layers that are shared")] = 2
    times: Annotated[int, Field(ge=2, le=16, description="recursions at most")] = 3
    auxiliary: Annotated[float, Field(ge=0, description="weight of the router's own loss")] = 0.1

    paper = "Bae et al., Mixture-of-Recursions, 2025, arXiv 2507.10524"
    routing: ClassVar[Routing]
    keys: ClassVar[Keys] = "recursion"

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=list(MARKS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(text_pieces(model.decode(tokens.tolist())), trainer)
        written = tokenizer.to_str().encode().ljust(self._room)
        stored = torch.tensor(list(written), dtype=torch.uint8)
        return {"tokenizer": stored, "routing": self.routing, "keys": self.keys}

    def part(self, model: Model) -> RecursiveLanguageModel:
        layout = Layout(self.block, self.times)
        sizes = self.vocabulary, self.width, self.neurons, self.heads
        return RecursiveLanguageModel(layout, *sizes, self.routing, self.keys, self._room).to(model.device)

    def loss(
        self, model: Model, part: RecursiveLanguageModel, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        ids, real, size = self._own_tokens(model, part, tokens, answer)
        capacity = 1 - torch.arange(self.times, device=ids.device) / self.times
        streams, routed = part(ids, real, capacity if part.training else None)
        wanted = real[:, 1:]
        logits = part.logits(streams[:, :-1][wanted]).float()
        following = ids[:, 1:][wanted]
        loss = F.cross_entropy(logits, following)
        figures = {
            "cross_entropy": float(loss.detach()),
            "bits_per_byte": float(loss.detach()) / 0.6931472 * len(following) / size,
            "accuracy": float((logits.detach().argmax(-1) == following).float().mean()),
            "layers": part.layout.first + part.layout.last + part.layout.block * sum(routed.shares()),
            "megaflops": part.flops(routed) / 1e6,
        }
        if part.training:
            loss = loss + self.auxiliary * self._own_loss(routed)
        return loss, figures | self._own_figures(routed)

    def _own_loss(self, routed: Routed) -> Tensor | float:
        """The router's."""
        return 0.0

    def _own_figures(self, routed: Routed) -> dict[str, float]:
        return {}

    def _own_tokens(
        self, model: Model, part: RecursiveLanguageModel, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """The texts in the part's own tokens, int [texts, tokens], which of these are real, and bytes of the text that
        is foreseen."""
        tokenizer = tokenizer_of(part)
        ends = tokens.shape[1] - answer.flip(1).int().argmax(1)
        texts = [_OPENING.sub("", model.decode(row[:end].tolist())) for row, end in zip(tokens, ends.tolist())]
        found = [[0, *each.ids][: self.length] for each in tokenizer.encode_batch(texts)]
        longest = max(map(len, found))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in found], device=tokens.device)
        lengths = torch.tensor([len(row) for row in found], device=tokens.device)
        size = sum(len(tokenizer.decode(row[1:], skip_special_tokens=False).encode()) for row in found)
        return ids, torch.arange(longest, device=tokens.device) < lengths[:, None], size

    @property
    def _room(self) -> int:
        return self.vocabulary * _BYTES_PER_TOKEN

    @classmethod
    def example(cls) -> Any:
        return cls(steps=2, batch=2, length=24, width=16, neurons=24, heads=2, vocabulary=300, block=1, times=2)


def tokenizer_of(part: RecursiveLanguageModel) -> Any:
    """The ``tokenizers.Tokenizer`` that a part was trained with; read once."""
    if getattr(part, "reads", None) is None:
        from tokenizers import Tokenizer

        part.reads = Tokenizer.from_str(bytes(part.tokenizer.tolist()).decode())
    return part.reads


@register
@settings
class RecursionFixed(_Recursive):
    """The recursive model whose tokens all run every recursion, to compare the routed ones with."""

    routing = "fixed"


@register
@settings
class RecursionExpert(_Recursive):
    """Each recursion takes the tokens that its router likes best; keys are each recursion's own."""

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 528

    routing = "expert"

    def _own_loss(self, routed: Routed) -> Tensor | float:
        return routed.foretelling()[0]

    def _own_figures(self, routed: Routed) -> dict[str, float]:
        return {"foretold": routed.foretelling()[1]}


@register
@settings
class RecursionShared(RecursionExpert):
    """The same where later recursions read the keys and values of the first."""

    keys = "shared"


@register
@settings
class RecursionToken(_Recursive):
    """Each token chooses how many recursions it gets; keys are each recursion's own."""

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 528

    routing = "token"

    def _own_loss(self, routed: Routed) -> Tensor | float:
        return routed.balance()
