"""Drafting beside verification: chains of tokens that may come next, drafted by a worker, and what that saves.

Source
------
Liu et al., PEARL: Parallel Speculative Decoding with Adaptive Draft Length, 2024, arXiv 2408.11850.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from workbench.engine import Sampler
from workbench.techniques.draft._model_drafter import Chain, ModelDrafter

Exit = Callable[[Tensor], Tensor]


class Ahead:
    """Drafts the continuations of a draft that is being verified.

    Parameters
    ----------
    drafter : ModelDrafter
        Used by the worker alone between :meth:`begin` and :meth:`ready`.
    sampler : Sampler
        With chance of its own, as the worker draws beside the run.
    branches : int
        Most probable tokens of the model's early exit that are followed where the exit contradicts the draft.
    threaded : bool
        Whether the work is done by a thread while the caller goes on, or in :meth:`ready`; the result is the same.
    """

    def __init__(self, drafter: ModelDrafter, sampler: Sampler, branches: int = 0, threaded: bool = True) -> None:
        self._drafter, self._sampler, self._branches = drafter, sampler, branches
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="draft") if threaded else None
        self._hints: queue.SimpleQueue[tuple[Tensor, Exit] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._job: Callable[[], list[Chain]] | None = None
        self._running: Future[list[Chain]] | None = None

    def begin(self, text: Sequence[int], drafted: Chain, count: int) -> None:
        """Start drafting ``count`` tokens after ``text`` and all of ``drafted``."""

        def job() -> list[Chain]:
            with torch.inference_mode():
                return self._work(list(text), drafted, count)

        self._job = job
        self._running = None if self._pool is None else self._pool.submit(job)

    def hint(self, hidden: Tensor, leave: Exit) -> None:
        """Tell the worker what the model thinks so far: features [1 + drafted, width] after the last token of the text
        and after every drafted one, and how to get logits from them. At most once for each :meth:`begin`."""
        self._hints.put((hidden, leave))

    def ready(self) -> list[Chain]:
        """Chains after the text that :meth:`begin` was told, each longer than the draft it was told; waits for them.

        Raises
        ------
        Exception
            Whatever went wrong in the worker.
        """
        if self._job is None:
            return []
        # No hint comes any more.
        self._hints.put(None)
        try:
            return self._job() if self._running is None else self._running.result()
        finally:
            self._job = self._running = None
            self._hints = queue.SimpleQueue()

    def close(self) -> None:
        """End the worker, and wait for its end."""
        self._stop.set()
        self._hints.put(None)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def draft(self, text: Sequence[int], count: int) -> Chain:
        """``count`` tokens after ``text``, here and now."""
        return self._drafter.chain(self._drafter.follow(text), self._sampler, count, stop=self._stop.is_set)

    def _work(self, text: list[int], drafted: Chain, count: int) -> list[Chain]:
        chains = [_joined(drafted, self.draft(text + drafted.tokens, count))]
        hint = self._hints.get() if self._branches else None
        if hint is None or self._stop.is_set():
            return chains
        hidden, leave = hint
        logits = leave(hidden)
        guessed = logits.argmax(-1).tolist()
        # Where the exit has no objection, what it doubts is the worker's own guess of the token after the draft.
        differ = (place for place, (ours, its) in enumerate(zip(drafted.tokens, guessed)) if ours != its)
        agreed = next(differ, len(guessed) - 1)
        taken = chains[0].tokens[agreed]
        others = [token for token in logits[agreed].topk(self._branches + 1).indices.tolist() if token != taken]
        for token in others[: self._branches]:
            # The token is the model's own to choose; what follows it is the drafter's.
            start = [*drafted.tokens[:agreed], token]
            chains.append(_joined(Chain(start), self.draft(text + start, count)))
        return chains


def _joined(one: Chain, other: Chain) -> Chain:
    # A token that was not drawn has no distribution; it is only compared, and anything may stand in its place.
    missing = len(one.tokens) - len(one.distributions)
    distributions = one.distributions + other.distributions[:1] * missing + other.distributions
    confidence = one.confidence + [1.0] * (len(one.tokens) - len(one.confidence)) + other.confidence
    return Chain(one.tokens + other.tokens, distributions, confidence)


def modelled_overlap(
    ahead_seconds: Sequence[float], verify_seconds: Sequence[float], waiting_seconds: Sequence[float] | None = None
) -> tuple[float, float]:
    """Time of a run with both models on one device, and modelled with a device for each.

    Parameters
    ----------
    ahead_seconds : sequence of float
        For each step the drafting that can go on beside its verification [s].
    verify_seconds : sequence of float
        For each step its forward [s].
    waiting_seconds : sequence of float, optional
        For each step the drafting that its forward has to wait for [s].

    Returns
    -------
    apart : float
        One after the other: the sum of all [s].
    at_once : float
        Beside each other: of every step what it waits for and the longer of the two [s].
    """
    waiting = [0.0] * len(verify_seconds) if waiting_seconds is None else waiting_seconds
    apart = sum(waiting) + sum(ahead_seconds) + sum(verify_seconds)
    at_once = sum(wait + max(ahead, verify) for wait, ahead, verify in zip(waiting, ahead_seconds, verify_seconds))
    return apart, at_once
