"""Two of the three views of quality: along the baseline's text, and against it.

Teacher-forced, a recipe predicts every token of the baseline's continuation from the true text before it, so that one
early difference is not counted again and again. Free-running, the texts themselves are compared. The third view, the
task's own score, is in :mod:`workbench.tasks`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from workbench.engine.generate import teacher_force
from workbench.metrics import first_divergence, kl_divergence, margin, perplexity, rouge_l, top1_agreement
from workbench.models import Model
from workbench.studies.cells import NAN


class Forced:
    """The baseline's distributions along its own continuation of one prompt, to hold recipes against.

    Parameters
    ----------
    model : Model
    prompt, continuation : list of int
        The continuation is what the baseline wrote: greedy, or sampled where the study samples.
    seed : int
    context_tokens : int, optional
        See :func:`workbench.teacher_force`.
    prefill_chunk : int, optional
        Of the generations.
    cancel : threading.Event, optional
        Once set, what is not complete stays empty.

    Attributes
    ----------
    logits : array [tokens, vocabulary], float32
    """

    def __init__(
        self,
        model: Model,
        prompt: list[int],
        continuation: list[int],
        seed: int = 0,
        context_tokens: int | None = None,
        prefill_chunk: int | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.model, self.prompt, self.continuation, self._cancel = model, prompt, continuation, cancel
        self._options = {"seed": seed, "context_tokens": context_tokens, "prefill_chunk": prefill_chunk}
        rows = [_array(each) for each in self._forced(())]
        self.logits = np.empty((0, 0), np.float32) if self.cancelled else np.concatenate(rows)

    @property
    def cancelled(self) -> bool:
        """Whether the study was told to end."""
        return self._cancel is not None and self._cancel.is_set()

    @property
    def margins(self) -> list[float]:
        """How far the baseline's best token led, at every position [logit]."""
        return margin(self.logits).tolist()

    def compare(self, techniques: Sequence[Any]) -> dict[str, float] | None:
        """Mean KL(baseline || recipe) [nats], share of equal best tokens, perplexity of the continuation.

        A recipe that only drafts runs too: that its divergence is nil is measured, not assumed. None if cancelled.
        """
        divergences, agreed, surprise, done = [], 0.0, 0.0, 0
        for rows in self._forced(techniques):
            logits = _array(rows)
            reference = self.logits[done : done + len(logits)]
            divergences.append(kl_divergence(reference, logits))
            agreed += len(logits) * top1_agreement(reference, logits)
            tokens = np.asarray(self.continuation[done : done + len(logits)])
            surprise += len(logits) * float(np.log(perplexity(logits, tokens)))
            done += len(logits)
        if self.cancelled:
            return None
        return {
            "kl": float(np.concatenate(divergences).mean()),
            "top1_agreement": agreed / done,
            "perplexity": float(np.exp(surprise / done)),
        }

    def _forced(self, techniques: Sequence[Any]) -> Iterator[Tensor]:
        return teacher_force(
            self.model, self.prompt, self.continuation, techniques, cancel=self._cancel, **self._options
        )


def against_baseline(model: Model, tokens: list[int], baseline: list[int]) -> dict[str, float]:
    """Free-running: whether two texts are equal, the place of the first token that differs, counted from 0 (NaN where
    none does), and ROUGE-L of one against the other."""
    parted = first_divergence(baseline, tokens)
    return {
        "equal_to_baseline": float(parted == -1),
        "first_divergence": NAN if parted == -1 else float(parted),
        "rouge_l": 1.0 if parted == -1 else rouge_l(model.decode(tokens), model.decode(baseline)),
    }


def answer(model: Model, tokens: Sequence[int]) -> str:
    """The text of an answer up to the first of the model's stop tokens."""
    return model.decode(until_stop(model, tokens))


def until_stop(model: Model, tokens: Sequence[int]) -> list[int]:
    """Tokens of an answer up to the first of the model's stop tokens."""
    return list(itertools.takewhile(lambda token: token not in model.stop_tokens, tokens))


def _array(rows: Tensor) -> np.ndarray:
    return rows.float().cpu().numpy()
