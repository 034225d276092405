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
        If it is neither, or none would be left to verify.
    """
    if exit_layer >= 1 and exit_layer != int(exit_layer):
        raise SettingError(
            f"exit_layer={exit_layer:g} is no number of layers: take 1 … {layers - 1}, or a share below 1 of all"
        )
    chosen = max(1, round(exit_layer * layers)) if exit_layer < 1 else int(exit_layer)
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
    keep_last : bool
        Whether the token at which a draft ends, as the exit is not sure, belongs to it.
    """

    def __init__(self, run: Run, lens: Lens, tokens: int = 0, keep_last: bool = False) -> None:
        self._keep_last = keep_last
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
            Asked with the exit's highest probability for the next token, before that is chosen, whether to end there;
            where the last token is kept, with that of the token, after it is.
        looks : sequence of Look
            At every row on its way, in the order of the layers; none behind ``layer``.
        """
        tokens, confidence, drawn = list[int](), list[float](), list[Tensor]()
        follow = [self._look(after) for after in self._lens.followed(layer - 1)]
        every = sorted([*looks, *follow], key=lambda look: look.layer)
        try:
            for look in every:
                opened.run(look.layer)
                look.see(opened)
            opened.run(layer)
            head = self.head(layer)
            ends = False
            # Nothing is drafted after a token that a depth policy has let leave: its successors look back at what it
            # leaves out.
            while not ends and len(tokens) < length and opened.stopped is None and len(tokens) in opened.rows:
                logits = opened.unembed([len(tokens)], head, DRAFT)[0]
                # What is drawn must not decide whether it is drafted: that would bend the distribution.
                found = self._choose(logits, head, None if self._keep_last else stop)
                if found is None:
                    break
                token, chance, distribution = found
                ends = self._keep_last and stop(chance)
                drawn += [] if distribution is None else [distribution]
                tokens.append(token)
                confidence.append(chance)
                # The last one too, though no lens reads it: it is verified from the exit layer, as the others are.
                opened.more([token], looks=every if len(tokens) < length else looks)
        except BaseException:
            opened.close()
            raise
        return Draft(tokens, None, torch.stack(drawn) if drawn else None, confidence=confidence, paused=opened)

    def _look(self, layer: int) -> Look:
        """Lets the lens see the newest tokens after a layer."""

        def see(opened: Pass) -> None:
            # Rows of earlier text may have joined in front, and a token may have left: neither is read here.
            x = opened.x[0, sum(row < 0 for row in opened.rows) :]
            if len(x):
                ledger = opened.decoder.ledger
                ledger.count(DRAFT, *self._lens.seeing(layer, len(x)))
                with ledger.timed(DRAFT):
                    self._lens.see(x, layer)

        return Look(layer + 1, see)

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

    def _choose(
        self, logits: Tensor, head: LensHead, unsure: Callable[[float], bool] | None
    ) -> tuple[int, float, Tensor | None] | None:
        """The most probable token of logits [small] and its probability, or one that is drawn, and what from; None if
        the highest probability is ``unsure``."""
        distribution = None
        if self._sampler.greedy:
            top, place = logits.max(-1)
            found, chance = read(place, (top.float() - logits.float().logsumexp(-1)).exp())
            if unsure is not None and unsure(chance):
                return None
        else:
            distribution = self._sampler.distribution(logits)
            here = distribution.cpu()
            if unsure is not None and unsure(float(here.max())):
                return None
            found = self._sampler.chance.draw(here)
            chance, distribution = float(here[found]), self.spread(distribution, head)
        if head.vocabulary is not None:
            if self._names is None:
                self._names = head.vocabulary.tolist()
            found = self._names[found]
        return found, chance, distribution
