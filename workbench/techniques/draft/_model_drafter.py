"""A second model that drafts: a decoder kept in step with the text, extended token by token or as a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from workbench.engine import Decoder, Run, Sampler
from workbench.engine.ledger import MODEL
from workbench.engine.rotation import outgrown
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers, read
from workbench.models.second_model import second_model
from workbench.parts import distilled
from workbench.settings import outside

_HALF = "/0.5"
_REMEMBERED = 32  # tokens that a recurrent draft model can take back without reading the text anew

DrafterName = Annotated[
    str, outside("model", "drafter: auto, distilled, /layers, /share, or a model's name", min_length=1)
]
"""Type of a technique's setting that :func:`drafter_model` reads."""


def drafter_model(main: Model, name: str = "auto") -> Model:
    """The model that drafts for ``main``.

    Parameters
    ----------
    main : Model
    name : str
        ``distilled``: the small draft model trained for ``main``; a path that ends in ``.safetensors``: one trained by
        the user; ``auto``: the first where there is one, else half of the main model's own layers; anything else as
        :func:`workbench.models.second_model.second_model` reads it.

    Returns
    -------
    Model
        Where its ``draft_vocabulary`` is not None, its logits are of these tokens only.

    Raises
    ------
    SettingError
        If there is none, or the two do not share a vocabulary.
    """
    if name in ("auto", "distilled") or name.endswith(".safetensors"):
        distilled_model = distilled.load(main, name if name.endswith(".safetensors") else "bundled")
        if distilled_model is not None:
            return distilled_model
        if name == "distilled":
            raise SettingError(f"no draft model was trained for {main.name}: see `workbench train draft_model`")
    return second_model(main, _HALF if name == "auto" else name)


@dataclass
class Chain:
    """Tokens after a text.

    Attributes
    ----------
    tokens : list of int
    distributions : list of Tensor
        What each was drawn from [small]; empty where nothing was drawn.
    confidence : list of float
        The drafter's probability of each.
    """

    tokens: list[int] = field(default_factory=list)
    distributions: list[Tensor] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)

    def after(self, count: int) -> Chain:
        """The chain less its first ``count`` tokens."""
        return Chain(self.tokens[count:], self.distributions[count:], self.confidence[count:])

    def first(self, count: int) -> Chain:
        """The first ``count`` tokens of the chain."""
        return Chain(self.tokens[:count], self.distributions[:count], self.confidence[:count])


class ModelDrafter:
    """A draft model's decoder, and which tokens it holds.

    Parameters
    ----------
    model : Model
        See :func:`drafter_model`.
    reserve : int
        Tokens to make room for after the prompt, drafts included.

    Attributes
    ----------
    decoder : Decoder
    vocabulary : Tensor [small] or None
        The tokens that its logits are of; None for all.

    Notes
    -----
    Use it as ``follow`` (the text), then ``extend`` (a chain) or ``grow`` (a tree). Rows of a draft that was accepted
    stay in its cache, so that each token goes through it once; where a text leaves the short rotary factors of the
    draft model, or comes back to them, it is read anew.
    """

    def __init__(self, model: Model, reserve: int = 0) -> None:
        self.model = model
        self.decoder = Decoder(model, reserve)
        self.decoder.cache.remember(_REMEMBERED)
        self.vocabulary: Tensor | None = model.draft_vocabulary
        self._tokens: list[int] | None = None if self.vocabulary is None else self.vocabulary.tolist()
        self._held: list[int] = []
        self._sure = 0
        self._tree: tuple[list[int], list[int]] | None = None

    @classmethod
    def start(cls, run: Run, name: str, ahead: int) -> ModelDrafter:
        """The drafter of a run that drafts up to ``ahead`` tokens at once.

        Raises
        ------
        SettingError
            If there is no such drafter, or it knows too few positions for the run.
        """
        model = drafter_model(run.model, name)
        run.check_positions(model)
        return cls(model, run.max_new_tokens + ahead)

    @property
    def flops(self) -> int:
        """Counted since the last :meth:`reset_counts`."""
        return self.decoder.flops

    @property
    def bytes(self) -> int:
        """Counted since the last :meth:`reset_counts`."""
        return self.decoder.bytes

    @property
    def hidden(self) -> Tensor:
        """Residual stream [rows, width] of the last pass after the last block."""
        return self.decoder.hidden

    def reset_counts(self) -> None:
        """Start counting anew."""
        self.decoder.reset_counts()

    @torch.inference_mode()
    def follow(self, tokens: Sequence[int]) -> Tensor:
        """Logits [small] after ``tokens`` (the whole text), of which only what is new goes through the model."""
        self._settle(tokens)
        if outgrown(self.decoder, len(tokens)):
            self._forget()
        # The last token always goes through, as its logits are wanted.
        end = min(len(self._held), len(tokens) - 1)
        common = min(self._sure, end)
        if self._held[common:end] == list(tokens[common:end]):
            common = end
        while common < end and self._held[common] == tokens[common]:
            common += 1
        common = self.decoder.cache.crop_to(common)
        logits = self.decoder.forward(tokens[common:], prefill=common == 0)[0]
        self._held, self._sure = list(tokens), len(tokens)
        return logits

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Logits [small] after a chain of drafted tokens, which is kept as if it were text until :meth:`follow`."""
        self._held += tokens
        if outgrown(self.decoder, len(self._held)):
            text = self._held
            self._forget()
            self._held, tokens = text, text
        return self.decoder.forward(tokens)[0]

    def chain(
        self,
        logits: Tensor,
        sampler: Sampler,
        length: int,
        extend: Callable[[list[int]], Tensor] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Chain:
        """Tokens one after the other from logits [small]: the most probable ones, or drawn.

        Parameters
        ----------
        logits : Tensor [small]
            After the text.
        sampler : Sampler
        length : int
            Most tokens, at least 1.
        extend : callable, optional
            Takes the newest token in and gives the logits after it; by default :meth:`extend`.
        stop : callable, optional
            Asked after every token whether to end there.
        """
        chain, extend = Chain(), extend or self.extend
        while True:
            if sampler.greedy:
                token, chance = self.best(logits)
            else:
                token, distribution, chance = self.draw(logits, sampler)
                chain.distributions.append(distribution)
            chain.tokens.append(token)
            chain.confidence.append(chance)
            if stop() or len(chain.tokens) == length:
                return chain
            logits = extend([token])

    @torch.inference_mode()
    def grow(self, tokens: Sequence[int], parents: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Logits [rows, small] after the nodes at ``rows`` of a tree that stands after the text.

        Parameters
        ----------
        tokens, parents : sequence of int
            The whole tree as in :class:`workbench.engine.Draft`. All of it runs again, which costs little more than the
            new nodes alone; logits are computed only of ``rows``.
        rows : sequence of int
        """
        self._drop_tree()
        decoder, anatomy = self.decoder, self.decoder.anatomy
        decoder.forward(tokens, parents, logits="none")
        self._tree = list(tokens), list(parents)
        decoder.ledger.product(MODEL, len(rows), anatomy.head)
        return anatomy.unembed(decoder.hidden[numbers(rows, decoder.hidden.device)])

    def token(self, place: int) -> int:
        """The token that a place among the logits stands for."""
        return place if self.vocabulary is None else self._tokens[place]

    def best(self, logits: Tensor) -> tuple[int, float]:
        """The most probable token of logits [small], and its probability."""
        top, place = logits.max(-1)
        place, chance = read(place, (top.float() - logits.float().logsumexp(-1)).exp())
        return self.token(place), chance

    def draw(self, logits: Tensor, sampler: Sampler) -> tuple[int, Tensor, float]:
        """A token drawn from logits [small]: the token, what it was drawn from [small], and its probability there."""
        distribution = sampler.distribution(logits)
        here = distribution.cpu()
        place = sampler.chance.draw(here)
        return self.token(place), distribution, float(here[place])

    def spread(self, distributions: Sequence[Tensor], vocabulary: int) -> Tensor | None:
        """Distributions [small] as rows over a whole vocabulary of that size [rows, vocabulary]; None of none."""
        if not distributions:
            return None
        rows = torch.stack(list(distributions))
        if self.vocabulary is None:
            return rows
        full = rows.new_zeros(len(rows), vocabulary)
        full[:, self.vocabulary] = rows
        return full

    def distribution(self, logits: Tensor, sampler: Sampler, width: int) -> tuple[Tensor, Tensor]:
        """The most probable tokens of each row of logits [rows, small], and the distribution over these alone.

        Returns
        -------
        tokens : int Tensor [rows, width]
            Most probable first.
        probabilities : Tensor [rows, width]
            As the sampler draws; of greedy sampling those of the model itself, over all tokens.
        """
        values, places = logits.topk(min(width, logits.shape[-1]) if width else logits.shape[-1], -1)
        tokens = places if self.vocabulary is None else self.vocabulary[places]
        if sampler.greedy:
            return tokens, (values.float() - logits.float().logsumexp(-1, keepdim=True)).exp()
        return tokens, sampler.distribution(values)

    def _forget(self) -> None:
        self.decoder.cache.crop_to(0)
        self._held, self._sure = [], 0

    def _settle(self, tokens: Sequence[int]) -> None:
        """Keep the rows of the last tree that the text went along, and drop the others."""
        if self._tree is None:
            return
        nodes, parents = self._tree
        here, kept = -1, []
        for token in tokens[len(self._held) :]:
            children = [n for n, parent in enumerate(parents) if parent == here and nodes[n] == token]
            if not children:
                break
            here = children[0]
            kept.append(here)
        self.decoder.cache.commit(len(nodes), kept)
        self._held += [nodes[node] for node in kept]
        self._tree = None

    def _drop_tree(self) -> None:
        if self._tree is not None:
            self.decoder.cache.commit(len(self._tree[0]), [])
            self._tree = None
