"""The first layers draft through a lens, the others verify: one pass of one model, none of it run twice.

Paper
-----
Elhoushi et al., LayerSkip: Enabling Early Exit Inference and Self-Speculative Decoding, 2024, arXiv 2404.16710. How
a draft ends: Zhang et al., Draft & Verify: Lossless Large Language Model Acceleration via Self-Speculative Decoding,
2023, arXiv 2309.08168. A stream that runs ahead of the exit (``accelerated``): Bhendawade et al., M2R2: Mixture of
Multi-Rate Residuals for Efficient Transformer Inference, 2025, arXiv 2502.02040.

Source
------
github.com/facebookresearch/LayerSkip; github.com/dilab-zju/self-speculative-decoding

Formula
-------
The stream x of the newest token after layer E says the next one, argmax head(norm(lens(x))), or one drawn from it; this
runs the first E layers too, and so on. Layers E … L - 1 then run once for all these rows, whose keys, values and
streams below E stand. Drafting ends where the exit's highest probability falls below ``threshold``. After each draft

    a <- a / 2 + (accepted / drafted) / 2
    threshold <- 0.9 threshold + 0.1 (threshold + 0.01 if a < ``target``, threshold if the draft had full length,
                                      else threshold - 0.01)

Deviates
--------
LayerSkip trains the model, with layer dropout and a loss at every exit; here its weights are as they are, and what is
trained is the lens. Its own code drafts a fixed number of tokens: ``threshold`` 0. Draft & Verify verifies the token at
which drafting ends too (``keep_last``), which is seldom kept, and looks at the probability of the token drawn. It skips
sublayers that Bayesian optimisation chooses, all along the model, and can reuse nothing but the layers before the first
of them; of it only the end of a draft is here. M2R2 drafts with attention of its own over the same keys and values; see
:mod:`workbench.parts.exits.accelerated`. What is drafted does not pass the slot ``logits``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Decoder, Draft, Run, Verification
from workbench.parts.exits import Lens, LensName, Vocabulary, load_accelerated, load_lens
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._early_exit import EarlyExit, layer_of


@register
@settings
class SelfSpeculative(DraftTechnique):
    """A chain from an early exit, verified from the exit on.

    Parameters
    ----------
    exit_layer : float
        Layers that draft: a number of them, or a share below 1.
    draft : int
        Most tokens drafted at once; 0 drafts nothing.
    threshold : float
        Probability below which a draft ends; 0 always drafts all.
    target : float
        Share of drafted tokens accepted that the threshold is moved towards; 0 leaves it as it is.
    keep_last : bool
        Whether a token that is not sure is the last of its draft, or left out of it.
    lens : str
        What reads the exit: ``bundled``, the tuned lens; ``logit``, the untrained logit lens; ``untrained``; a file.
    accelerated : bool
        Whether ``lens`` names the accelerators of a stream that runs ahead of the model's own: bundled, untrained, or a
        file; with ``logit`` nothing is accelerated.
    vocabulary : int
        So many of the most frequent tokens can be drafted, which makes the exit cheaper; 0 for all.
    """

    exit_layer: Annotated[float, Field(gt=0, le=1000, description="layers that draft, or a share of all")] = 0.8
    draft: Annotated[int, Field(ge=0, le=32, description="most tokens drafted at once")] = 4
    threshold: Annotated[float, Field(ge=0, le=1, description="probability below which a draft ends")] = 0.5
    target: Annotated[float, Field(ge=0, le=1, description="acceptance to move the threshold towards; 0: fixed")] = 0.0
    keep_last: Annotated[bool, Field(description="a token that is not sure is the last of its draft")] = False
    lens: LensName = "bundled"
    accelerated: Annotated[bool, Field(description="read the exit through the accelerated stream")] = False
    vocabulary: Vocabulary = 8192

    segments = True
    paper = "Elhoushi et al., LayerSkip, 2024, arXiv 2404.16710; Zhang et al., Draft & Verify, 2023, arXiv 2309.08168"

    def drafter(self, run: Run) -> _Self:
        layer = layer_of(self.exit_layer, run.model.layers)
        ahead = self.accelerated and self.lens != "logit"
        lens = load_accelerated(run.model, self.lens) if ahead else load_lens(run.model, self.lens)
        return _Self(self, layer, lens, run)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(exit_layer=0.75, threshold=0, lens="logit"),
            cls(exit_layer=1, draft=3, lens="untrained", vocabulary=50),
            cls(exit_layer=0.5, draft=6, threshold=0.1, target=0.8, keep_last=True, lens="logit"),
            cls(exit_layer=0.75, threshold=0.05, lens="untrained", accelerated=True),
        )

    @classmethod
    def smallest(cls) -> Self:
        return cls(exit_layer=0.5, draft=2, threshold=0.4, lens="logit")


class Threshold:
    """The probability below which a token is the last of its draft, moved towards a share of tokens accepted.

    Parameters
    ----------
    value, target : float
    """

    _REMEMBERED, _STEP, _KEPT = 0.5, 0.01, 0.9

    def __init__(self, value: float, target: float) -> None:
        self.value, self._target, self._accepted = value, target, 0.0

    def ends(self, chance: float) -> bool:
        return chance < self.value

    def learn(self, drafted: int, accepted: int, most: int) -> None:
        """What came of a draft that might have had ``most`` tokens."""
        if not self._target or not drafted:
            return
        self._accepted = self._REMEMBERED * self._accepted + (1 - self._REMEMBERED) * accepted / drafted
        step = self._STEP if self._accepted < self._target else 0.0 if drafted == most else -self._STEP
        self.value = self._KEPT * self.value + (1 - self._KEPT) * (self.value + step)


class _Self(Drafter):
    def __init__(self, technique: SelfSpeculative, layer: int, lens: Lens, run: Run) -> None:
        self._layer, self._most = layer, technique.draft
        self._model = run.model
        self._exit = EarlyExit(run, lens, technique.vocabulary, technique.keep_last)
        self._threshold = Threshold(technique.threshold, technique.target)
        self._decoder: Decoder | None = None

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        decoder, length = self._decoder, min(self._most, limit)
        # Another model of a switch has verified, or reads the text anew.
        if length < 1 or decoder is None or decoder.cache.length != len(tokens) - 1:
            return Draft()
        return self._exit.draft(decoder.open(tokens[-1:]), self._layer, length, self._threshold.ends)

    def verified(self, verification: Verification) -> None:
        decoder = verification.decoder
        self._decoder = decoder if decoder is not None and decoder.model is self._model else None
        self._threshold.learn(len(verification.draft.tokens), len(verification.path), self._most)
