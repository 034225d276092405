"""The decode loop itself: a stream of steps."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workbench.engine.accept import accept
from workbench.engine.decoder import Decoder
from workbench.engine.recipe import Recipe
from workbench.engine.sampling import Chance, Sampler, check_finite, entropy
from workbench.engine.slots import Draft, Run, TechniqueLike, Verification
from workbench.engine.step import Step
from workbench.errors import OutOfMemory, PromptError
from workbench.models import Model

_DECODER_SLOTS = ("context", "depth", "experts", "attention", "cache")


def generate(
    model: Model,
    prompt: str | Sequence[int] | Tensor,
    techniques: Sequence[TechniqueLike] = (),
    max_new_tokens: int = 128,
    stop_tokens: Sequence[int] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    prefill_chunk: int | None = None,
    compiled: bool = False,
    cancel: threading.Event | None = None,
) -> Iterator[Step]:
    """Generate tokens, and yield what every turn did.

    Parameters
    ----------
    model : Model
    prompt : str or token ids
    techniques : sequence of Technique
    max_new_tokens : int
    stop_tokens : sequence of int, optional
        Tokens that end the text; by default the model's own. ``()`` never stops early.
    temperature, top_p, top_k
        See :class:`workbench.engine.Sampler`; temperature 0 is greedy.
    seed : int
    prefill_chunk : int, optional
        Run the prompt in chunks of that many tokens, which bounds the memory of its attention.
    compiled : bool
        Use the compiled single-token step.
    cancel : threading.Event, optional
        Ends the stream before the next turn once it is set. Closing the iterator does the same.

    Yields
    ------
    Step
        First the prefill with one token, then one for each decode step.

    Raises
    ------
    PromptError
        Empty or too long a prompt; before anything runs.
    IncompatibleTechniques, SettingError
        Before anything runs.
    NumericalError, OutOfMemory
        In the middle; steps already yielded stay valid and the model is as it was.
    """
    tokens = model.encode(prompt)
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    room = model.anatomy.positions - len(tokens)
    if max_new_tokens > room + 1:
        raise PromptError(
            f"{len(tokens):,} prompt tokens and {max_new_tokens:,} new ones exceed the {model.anatomy.positions:,} "
            f"positions of {model.name}: ask for at most {room + 1:,} new tokens or shorten the prompt"
        )
    sampler = Sampler(temperature, top_p, top_k, Chance(seed))
    run = Run(model, tuple(tokens), max_new_tokens, sampler, seed)
    ends = model.stop_tokens if stop_tokens is None else stop_tokens
    return _Loop(run, Recipe(techniques), ends, prefill_chunk, compiled).steps(cancel)


class _Loop:
    """One run: the models in play, the text so far, and the policies."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        stop_tokens: Sequence[int],
        prefill_chunk: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.run, self.recipe, self.compiled, self.prefill_chunk = run, recipe, compiled, prefill_chunk
        self.ends = frozenset(stop_tokens)
        self.finished = False
        self.prompt, self.output = list(run.prompt), []
        self.switch = recipe.policy("switch", run)
        self.models = (run.model,) if self.switch is None else tuple(self.switch.models)
        self.logits = recipe.policies("logits", run)
        self.stopper = recipe.policy("stop", run)
        self.acceptor = recipe.policy("accept", run)
        self.drafter = recipe.policy("draft", run)
        # A technique that does not fit the model says so now, not at the first token.
        for slot in _DECODER_SLOTS:
            recipe.policies(slot, run)
        self.decoders: dict[int, Decoder] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Weights changed on entry and put back on exit, whatever happens in between."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.recipe.close)
            for policy in self.recipe.policies("weights", self.run):
                for model in self.models:
                    stack.enter_context(policy.weights(model))
            yield

    def steps(self, cancel: threading.Event | None) -> Iterator[Step]:
        with self.open():
            last_entropy = None
            index = 0
            while not self.finished and not (cancel is not None and cancel.is_set()):
                with _plain_memory_errors():
                    step = self._turn(index, last_entropy)
                last_entropy = step.entropy
                yield step
                index += 1

    def decoder(self, last_entropy: float | None) -> Decoder:
        """The decoder that takes the next step."""
        place = 0 if self.switch is None else self.switch.choose_model(last_entropy)
        if place not in self.decoders:
            run = replace(self.run, model=self.models[place])
            policies = {slot: self.recipe.policy(slot, run) for slot in _DECODER_SLOTS}
            reserve = self.run.max_new_tokens + self.recipe.slack
            self.decoders[place] = Decoder(run.model, reserve, policies, compiled=self.compiled)
        return self.decoders[place]

    @torch.inference_mode()
    def _turn(self, index: int, last_entropy: float | None) -> Step:
        start = time.perf_counter()
        decoder = self.decoder(last_entropy)
        decoder.reset_counts()
        text = self.prompt + self.output
        draft, draft_seconds = self._propose(text) if self.output else (Draft(), 0.0)
        logits = self.advance(decoder, text, draft)
        check_finite(logits, decoder.model.name)
        path, token = self._accept(text, draft, logits)
        if draft.tokens:
            decoder.cache.commit(1 + len(draft.tokens), [0, *(node + 1 for node in path)])
        if decoder.cache_policy is not None:
            decoder.cache_policy.settled(decoder.cache)
        verification = Verification(draft, path, token, logits)
        if self.drafter is not None and index > 0:
            self.drafter.verified(verification)
        produced = self._cut(verification.tokens)
        self.output += produced
        uncertainty = entropy(logits[path[-1] + 1 if path else 0]) if self.switch is not None else None
        if decoder.anatomy.device.type == "cuda":
            torch.cuda.synchronize(decoder.anatomy.device)
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
            flops=decoder.flops + draft.flops,
            bytes=decoder.bytes + draft.bytes,
            cache_bytes=sum(each.cache.note_peak() for each in self.decoders.values()),
            entropy=uncertainty,
        )

    def advance(self, decoder: Decoder, text: Sequence[int], draft: Draft | None = None) -> Tensor:
        """Bring a decoder up to ``text`` and return the logits after it, and after every node of a draft."""
        if decoder.cache.length == 0:
            logits = decoder.prefill(self.prompt, self.prefill_chunk)
            if len(text) == len(self.prompt):
                return logits
        behind = text[decoder.cache.length : -1]
        if behind:
            decoder.forward(behind, logits="none")
        if draft is None or not draft.tokens:
            return decoder.forward(text[-1:])
        parents = None if draft.parents is None else [-1, *(parent + 1 for parent in draft.parents)]
        return decoder.forward([text[-1], *draft.tokens], parents, "all")

    def adjusted(self, text: Sequence[int], logits: Tensor) -> Tensor:
        """Logits [vocabulary] after the stack of ``logits`` policies."""
        for policy in self.logits:
            logits = policy.adjust(text, logits)
        return logits

    def _propose(self, text: list[int]) -> tuple[Draft, float]:
        # The step itself adds one token, and positions beyond the model's must not be touched.
        limit = min(self.run.max_new_tokens - len(self.output) - 1, self.run.model.anatomy.positions - len(text))
        if self.drafter is None or limit < 1:
            return Draft(), 0.0
        start = time.perf_counter()
        draft = self.drafter.propose(text, limit)
        return draft, time.perf_counter() - start

    def _accept(self, text: list[int], draft: Draft, logits: Tensor) -> tuple[list[int], int]:
        if self.logits:
            for row in range(len(logits)):
                logits[row] = self.adjusted(text + draft.path_to(row - 1), logits[row])
        if not draft.tokens:
            return [], self.run.sampler.choose(logits[-1])
        decide = accept if self.acceptor is None else self.acceptor.accept
        return decide(draft, logits, self.run.sampler)

    def _cut(self, tokens: list[int]) -> list[int]:
        for place in range(1, len(tokens) + 1):
            output = self.output + tokens[:place]
            self.finished = (
                len(output) >= self.run.max_new_tokens
                or output[-1] in self.ends
                or (self.stopper is not None and self.stopper.stop(output))
            )
            if self.finished:
                return tokens[:place]
        return tokens


@contextlib.contextmanager
def _plain_memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not ("out of memory" in text or "can't allocate memory" in text):
            raise
        raise OutOfMemory(
            "there is not enough memory for this run: shorten the prompt, prefill in chunks (prefill_chunk=256), "
            "use bfloat16, or take a cache technique"
        ) from error


def teacher_force(
    model: Model,
    prompt: str | Sequence[int] | Tensor,
    continuation: Sequence[int],
    techniques: Sequence[TechniqueLike] = (),
    seed: int = 0,
) -> Iterator[Tensor]:
    """Next-token logits of a recipe along a given continuation.

    Parameters
    ----------
    model : Model
    prompt : str or token ids
    continuation : sequence of int
        Tokens to be fed, whatever the recipe itself would have said.
    techniques : sequence of Technique
        Drafting does not change the distribution and is left out; a switch follows the entropies along the
        continuation.

    Yields
    ------
    Tensor [rows, vocabulary]
        Logits for the tokens of ``continuation``, in order: first one row, then all others at once where no technique
        acts between tokens, else one by one.
    """
    run = Run(model, tuple(model.encode(prompt)), len(continuation), Sampler(chance=Chance(seed)), seed)
    loop = _Loop(run, Recipe(techniques).without("draft", "accept", "stop"), ())
    with loop.open():
        text, uncertainty = list(run.prompt), None
        while len(text) < len(run.prompt) + len(continuation):
            done = len(text) - len(run.prompt)
            decoder = loop.decoder(uncertainty)
            whole = done == 1 and not loop.recipe.stepwise
            with torch.inference_mode():
                if whole:
                    logits = decoder.forward(continuation[:-1], logits="all")
                else:
                    logits = loop.advance(decoder, text)
                if decoder.cache_policy is not None:
                    decoder.cache_policy.settled(decoder.cache)
                uncertainty = entropy(logits[-1]) if loop.switch is not None else None
                if loop.logits:
                    fed = list(run.prompt) + list(continuation)
                    logits = torch.stack(
                        [loop.adjusted(fed[: len(text) + row], logits[row]) for row in range(len(logits))]
                    )
            text += continuation[done : done + len(logits)]
            yield logits
