"""One run of the decode loop: the models in play, the text so far, and the policies."""

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
from workbench.engine.draft import Draft, Verification
from workbench.engine.embedded import only_tokens
from workbench.engine.ledger import DRAFT, MODEL
from workbench.engine.logprobs import top_logprobs
from workbench.engine.memory_errors import plain_memory_errors
from workbench.engine.options import Options
from workbench.engine.recipe import Recipe, check_place
from workbench.engine.rotation import outgrown, room
from workbench.engine.run import Run
from workbench.engine.sampling import Check, any_left, entropies, finite, well_adjusted
from workbench.engine.session import State, key_of
from workbench.engine.step import Step
from workbench.models.device import numbers, wait

_DECODER_SLOTS = ("context", "depth", "mlp", "experts", "prefill_attention", "attention", "evict", "store")


class Loop:
    """One run: the models in play, the text so far, and the policies."""

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
        self._place = 0
        self.switch = recipe.policy("switch", run)
        self.models = (run.model,) if self.switch is None else tuple(self.switch.models)
        self.logits = [*recipe.policies("logits", run), *self.options.masks(len(run.prompt))]
        stopper = recipe.policy("stop", run)
        if stopper is not None:
            self.options = replace(self.options, stoppers=(*self.options.stoppers, stopper))
        self.acceptor = recipe.policy("accept", run)
        self.drafter = recipe.policy("draft", run)
        self.length = recipe.policy("draft_length", run)
        # A technique that does not fit the model says so now, not at the first token.
        for slot in ("weights", *_DECODER_SLOTS):
            recipe.policies(slot, run)
        self.decoders: dict[int, Decoder] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Weights changed on entry and put back on exit, whatever happens in between."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.recipe.close)
            changing = self.recipe.policies("weights", self.run)
            for model in self.models if changing else ():
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
                    self._forget_half_read()
                    return
                yield step
                index += 1

    def _forget_half_read(self) -> None:
        """A cache with a part of the prompt is none to go on from: policies act on a prompt that was read whole."""
        length = len(self.prompt)
        self.decoders = {place: each for place, each in self.decoders.items() if each.cache.length >= length}

    def decoder(
        self, text: Sequence[int], entropies: Sequence[float] = (), verification: Verification | None = None
    ) -> Decoder:
        """The decoder that takes the next step after ``text``, whose last tokens came from distributions of these
        entropies [nats] in a step that ended so."""
        if self.switch is not None:
            chosen = self.switch.choose_model(entropies, verification)
            self._place = self._place if chosen is None else check_place(chosen, self.models, self.recipe)
        place = self._place
        if place not in self.decoders:
            run = replace(self.run, model=self.models[place])
            # A question has its room beside the context, or beside what an earlier run left.
            first = self.options.context_tokens if self.past is None else self.past.cached
            reserve = self._reserve + (len(self.prompt) - first if first else 0)
            self.decoders[place] = self._new_decoder(run, reserve)
            if self.past is not None:
                cache = self.past.copy_for(run.model, reserve, self.recipe.policy("store", run))
                self.decoders[place].cache = cache or self.decoders[place].cache
        if outgrown(self.decoders[place], len(text)):
            # All is read anew, and policies see the text as it is now: they begin with what was the prompt.
            left = len(self.prompt) + self.run.max_new_tokens - len(text)
            run = replace(self.run, model=self.models[place], prompt=tuple(text), max_new_tokens=left)
            self.recipe.start_anew(_DECODER_SLOTS, run)
            self.decoders[place] = self._new_decoder(run, self._reserve)
        return self.decoders[place]

    @property
    def _reserve(self) -> int:
        return self.run.max_new_tokens + self.recipe.slack

    def _new_decoder(self, run: Run, reserve: int) -> Decoder:
        policies = {slot: self.recipe.policy(slot, run) for slot in _DECODER_SLOTS}
        decoder = Decoder(run.model, reserve, policies, compiled=self.options.compiled, ledger=run.ledger)
        decoder.embeddings = run.embeddings
        return decoder

    def state(self) -> State:
        """What another run can go on from, once this one is over."""
        before = self.past or State((), {}, key_of(self.run.model), ())
        held = before.caches | {key_of(each.model): each.cache for each in self.decoders.values()}
        for each in self.decoders.values():
            each.close_open()  # for a draft that nobody asks for any more
        turn = tuple(map(repr, self.recipe.techniques))
        text = (*self.prompt, *self.output)
        return State(text, held, before.model, (*before.recipes, turn), self.run.embeddings)

    @torch.inference_mode()
    def _turn(self, index: int) -> Step:
        start = time.perf_counter()
        text = self.prompt + self.output
        self.run.ledger.reset()
        decoder = self.decoder(text, self._entropies, self._verification)
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
        if self.switch is not None:
            self._entropies = entropies(logits[numbers(rows[: len(produced)], logits.device)])
            self._verification = verification
        (ledger := decoder.ledger).count(DRAFT, draft.flops, draft.bytes, draft_seconds)
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
            cache_bytes=sum(each.cache.note_peak() for each in self.decoders.values()),
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
            limit = self.length.limit(text, limit)
        draft = only_tokens(self.drafter.propose(text, limit)) if limit > 0 else Draft()
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
