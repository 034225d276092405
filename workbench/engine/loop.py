"""One run of the decode loop: a turn drafts, verifies and accepts, and says what it did."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.engine.accept import accept
from workbench.engine.decoder import Cancelled, Decoder
from workbench.engine.decoders import Decoders
from workbench.engine.draft import Draft, Verification
from workbench.engine.embedded import only_tokens
from workbench.engine.ledger import DRAFT, MODEL
from workbench.engine.logprobs import top_logprobs
from workbench.engine.memory_errors import plain_memory_errors
from workbench.engine.options import Options
from workbench.engine.recipe import Recipe, check_reach
from workbench.engine.rotation import room
from workbench.engine.run import Run
from workbench.engine.sampling import Check, any_left, entropies, finite, well_adjusted
from workbench.engine.session import State
from workbench.engine.step import Step
from workbench.models.device import numbers, wait


class Loop:
    """One run: its decoders, the text so far, and the policies that act between passes."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        options: Options | None = None,
        past: State | None = None,
    ) -> None:
        self.run, self.recipe, self.past = run, recipe, past
        self.cancel: threading.Event | None = None
        self.options = options or Options()
        self.finished = False
        self.prompt, self.output = list(run.prompt), list[int]()
        self._entropies: list[float] = []
        self._verification: Verification | None = None
        self.logits = [*recipe.policies("logits", run), *self.options.masks(len(run.prompt))]
        stopper = recipe.policy("stop", run)
        if stopper is not None:
            self.options = replace(self.options, stoppers=(*self.options.stoppers, stopper))
        self.acceptor = recipe.policy("accept", run)
        self.drafter = recipe.policy("draft", run)
        self.length = recipe.policy("draft_length", run)
        self.decoders = Decoders(run, recipe, self.options, past)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Weights changed on entry and put back on exit, whatever happens in between."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.recipe.close)
            changing = self.recipe.policies("weights", self.run)
            for model in self.decoders.models if changing else ():
                for policy in changing:
                    stack.enter_context(policy.weights(model))
            yield

    @property
    def cancelled(self) -> bool:
        """Whether somebody wishes that this run should end."""
        return self.cancel is not None and self.cancel.is_set()

    def steps(self, cancel: threading.Event | None) -> Generator[Step, None, None]:
        self.cancel = cancel
        with self.open():
            index = 0
            while not self.finished and not self.cancelled:
                try:
                    with plain_memory_errors():
                        step = self._turn(index)
                except Cancelled:
                    self.decoders.forget_half_read()
                    return
                yield step
                index += 1

    def state(self) -> State:
        """What another run can go on from, once this one is over."""
        return self.decoders.state(self.output)

    @torch.inference_mode()
    def _turn(self, index: int) -> Step:
        start = time.perf_counter()
        text = self.prompt + self.output
        (ledger := self.run.ledger).reset()
        decoder = self.decoders.next(text, self._entropies, self._verification)
        decoder.reset_counts(ledger=False)  # what a switch spent on its choice is part of the step
        reads_text = decoder.cache.length == 0
        draft, draft_seconds = self._propose(text, decoder) if self.output else (Draft(), 0.0)
        forward_start = time.perf_counter()
        logits = self.advance(decoder, text, draft)
        # A step waits for the device here, and where its policies do: the clock is read when the forward is done.
        self.run.sampler.read(logits, [finite(logits, decoder.model.name)])
        verify_seconds = time.perf_counter() - forward_start
        if self.logits:
            texts = [text + draft.path_to(row - 1) for row in range(len(logits))]
            logits = torch.stack([self.adjusted(*each) for each in zip(texts, logits.float())])
            self.run.sampler.read(logits, self.checks(logits))
        accepting = time.perf_counter()
        path, token = self._accept(text, draft, logits)
        if draft.following is not None:
            # What is verified last may have been waited for.
            draft_seconds += time.perf_counter() - accepting
        produced = self._cut([*(draft.tokens[node] for node in path), token])
        # Row of the logits that each token was chosen from.
        rows = [0, *(node + 1 for node in path)]
        if draft.tokens or draft.ahead is not None:
            # What comes after a stop token is no part of the text, nor of the cache that another run goes on from.
            decoder.commit(1 + len(draft.tokens), rows[: len(produced)])
        if decoder.cache_policy is not None:
            decoder.cache_policy.settled(decoder.cache)
        verification = Verification(draft, path, token, logits, decoder.hidden, decoder.ahead, decoder.cache, decoder)
        if self.drafter is not None:
            learning = time.perf_counter()
            self.drafter.verified(verification)
            wait(decoder.anatomy.device)
            draft_seconds += time.perf_counter() - learning
        elif decoder.cache_policy is not None:
            wait(decoder.anatomy.device)
        if self.length is not None and index > 0 and not reads_text:
            self.length.measured(verification, draft_seconds, verify_seconds)
        self.output += produced
        if self.decoders.switch is not None:
            self._entropies = entropies(logits[numbers(rows[: len(produced)], logits.device)])
            self._verification = verification
        ledger.count(DRAFT, draft.flops, draft.bytes, draft_seconds)
        policies = ledger.besides(MODEL, DRAFT)
        return Step(
            index=index,
            phase="decode" if index else "prefill",
            tokens=tuple(produced),
            drafted=len(draft.tokens),
            accepted=min(len(path), len(produced)),
            layers=tuple(decoder.layers_run),
            keys_read=tuple(decoder.keys_read),
            keys_kept=decoder.cache.keys_kept(),
            experts=tuple(decoder.experts_run),
            model=decoder.model.name,
            forwards=decoder.forwards,
            seconds=time.perf_counter() - start,
            draft_seconds=draft_seconds,
            flops=ledger.flops,
            bytes=ledger.bytes,
            cache_bytes=sum(each.cache.note_peak() for each in self.decoders),
            entropy=self._entropies[-1] if self._entropies else None,
            verify_seconds=verify_seconds,
            nodes=draft.nodes(path),
            policy_flops=policies.flops,
            policy_bytes=policies.bytes,
            policy_seconds=policies.seconds,
            **self._reported(logits, rows[: len(produced)], produced),
        )

    def advance(self, decoder: Decoder, text: Sequence[int], draft: Draft | None = None) -> Tensor:
        """Bring a decoder up to ``text`` and return the logits after it, and after every node of a draft."""
        held, chunk = decoder.cache.length, self.options.prefill_chunk
        draft = draft or Draft()
        paused = draft.resumed(decoder, text)
        if held < len(self.prompt):
            # On top of another run's cache, even of one that had to be computed anew, the prompt is a question.
            context = 0 if self.past is not None and self.past.cached else self.options.context_tokens
            logits = decoder.prefill(self.prompt[held:], chunk, context=context, length=len(text), cancel=self.cancel)
            if len(text) == len(self.prompt):
                return logits
        behind = text[decoder.cache.length : -1]
        if behind:
            decoder.prefill(behind, chunk, "none", context=0, length=len(text), cancel=self.cancel, prompt=False)
        parents = None if draft.parents is None else [-1, *(parent + 1 for parent in draft.parents)]
        verifying = paused or decoder.open([text[-1], *draft.tokens], parents)
        return decoder.complete(verifying, "all", draft.ahead, draft.looks)

    def adjusted(self, text: Sequence[int], logits: Tensor) -> Tensor:
        """Logits [vocabulary] after the stack of ``logits`` policies."""
        for policy in self.logits:
            logits = policy.adjust(text, logits)
        return logits

    def checks(self, logits: Tensor) -> list[Check]:
        """Whether a token can be chosen from what the ``logits`` policies left [rows, vocabulary]."""
        return [well_adjusted(logits, self.recipe.names("logits")), any_left(logits[0])]

    def _propose(self, text: list[int], decoder: Decoder) -> tuple[Draft, float]:
        if self.drafter is None:
            return Draft(), 0.0
        # The step itself adds one token, and positions beyond the model's must not be touched.
        limit = min(self.run.max_new_tokens - len(self.output) - 1, self.run.model.anatomy.positions - len(text))
        limit = min(limit, room(decoder, len(text)))
        start = time.perf_counter()
        if self.length is not None and limit > 0:
            most, limit = limit, self.length.limit(text, limit)
            check_reach(limit, most, self.recipe, "draft_length", "a length")
        draft = only_tokens(self.drafter.propose(text, limit)) if limit > 0 else Draft()
        check_reach(draft.reach(), max(limit, 0), self.recipe, "draft", "a draft")
        if self.length is not None and self._may_prune(draft):
            draft = self.length.prune(draft)
        return draft, time.perf_counter() - start

    @staticmethod
    def _may_prune(draft: Draft) -> bool:
        """A draft made by chance may not be cut, see :class:`workbench.engine.slots.DraftLengthPolicy`."""
        return bool(draft.tokens) and not draft.by_chance

    def _accept(self, text: list[int], draft: Draft, logits: Tensor) -> tuple[list[int], int]:
        if not draft.tokens and draft.following is None:
            return [], self.run.sampler.choose_after(logits, -1)
        decide = accept if self.acceptor is None else self.acceptor.accept
        return decide(draft, logits, self.run.sampler)

    def _reported(self, logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> dict[str, Any]:
        """What a step says of the distributions, where it was asked to."""
        options = self.options
        if not (options.logprobs or options.logits):
            return {}
        chosen = logits[rows]
        return {
            "logprobs": top_logprobs(chosen, tokens, options.logprobs) if options.logprobs else None,
            "logits": chosen.cpu() if options.logits else None,
        }

    def _cut(self, tokens: list[int]) -> list[int]:
        for place in range(1, len(tokens) + 1):
            output = self.output + tokens[:place]
            self.finished = len(output) >= self.run.max_new_tokens or self.options.ends(output)
            if self.finished:
                return tokens[:place]
        return tokens
