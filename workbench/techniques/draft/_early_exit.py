"""Drafts with the first layers of the model that verifies, in the verification's own pass, so that none runs twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.engine import Draft, Run
from workbench.engine.draft import Look
from workbench.engine.ledger import DRAFT
from workbench.engine.passes import Pass
from workbench.errors import SettingError
from workbench.models.device import read
from workbench.parts.exits import Lens, LensHead


def layer_of(exit_layer: float, layers: int) -> int:
    """Layers that draft, of ``layers``: a number of them, or a share below 1, of which at least one.

    Raises
    ------
    SettingError
        If none would be left to verify.
    """
    chosen = max(1, round(exit_layer * layers)) if exit_layer < 1 else round(exit_layer)
    if chosen >= layers:
        raise SettingError(
            f"exit_layer={exit_layer:g} leaves none of {layers} layers to verify: take 1 … {layers - 1}, or a share"
        )
    return chosen


class EarlyExit:
    """Grows a chain at the end of an open pass.

    Parameters
    ----------
    run : Run
    lens : Lens
    tokens : int
        So many of the most frequent tokens can be drafted; 0 for all.
    """

    def __init__(self, run: Run, lens: Lens, tokens: int = 0) -> None:
        self._sampler, self._vocabulary = run.sampler, run.model.anatomy.vocabulary
        self._lens, self._tokens = lens, tokens
        self._names: list[int] | None = None

    def draft(
        self,
        opened: Pass,
        layer: int,
        length: int,
        stop: Callable[[float], bool],
        looks: Sequence[Look] = (),
    ) -> Draft:
        """A chain after the pass's only token, and the pass itself, paused before block ``layer``.

        Parameters
        ----------
        opened : Pass
            Closed if anything fails.
        layer : int
            Blocks that draft.
        length : int
            Most tokens, at least one.
        stop : callable
            Asked after every token, with the probability that the exit gave it, whether to end there.
        looks : sequence of Look
            At every row on its way, in the order of the layers; none behind ``layer``.
        """
        tokens, confidence, drawn = list[int](), list[float](), list[Tensor]()
        try:
            for look in looks:
                opened.run(look.layer)
                look.see(opened)
            opened.run(layer)
            head = self.head(layer)
            while not tokens or not (stop(confidence[-1]) or len(tokens) == length):
                logits = opened.unembed([len(tokens)], head, DRAFT)[0]
                token, chance = self._choose(logits, head, drawn)
                tokens.append(token)
                confidence.append(chance)
                # The last one too: it is verified from the exit layer's row, as the others are.
                opened.more([token], looks=looks)
        except BaseException:
            opened.close()
            raise
        return Draft(tokens, None, torch.stack(drawn) if drawn else None, confidence=confidence, paused=opened)

    def head(self, layer: int) -> LensHead:
        """What reads the stream before block ``layer``."""
        return self._lens.head(layer - 1, self._tokens)

    def spread(self, distribution: Tensor, head: LensHead) -> Tensor:
        """A distribution [..., small] over the tokens that can be drafted as one over all [..., vocabulary]."""
        if distribution.shape[-1] == self._vocabulary:
            return distribution
        full = distribution.new_zeros(*distribution.shape[:-1], self._vocabulary)
        full[..., slice(distribution.shape[-1]) if head.vocabulary is None else head.vocabulary] = distribution
        return full

    def _choose(self, logits: Tensor, head: LensHead, drawn: list[Tensor]) -> tuple[int, float]:
        """The most probable token of logits [small] and its probability, or one that is drawn."""
        if self._sampler.greedy:
            top, place = logits.max(-1)
            found, chance = read(place, (top.float() - logits.float().logsumexp(-1)).exp())
        else:
            distribution = self._sampler.distribution(logits)
            here = distribution.cpu()
            found = self._sampler.chance.draw(here)
            chance = float(here[found])
            drawn.append(self.spread(distribution, head))
        if head.vocabulary is None:
            return found, chance
        if self._names is None:
            self._names = head.vocabulary.tolist()
        return self._names[found], chance
