"""The decode loop itself: a stream of steps."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from workbench.engine.arguments import tokens_of, whole
from workbench.engine.decoder import Cancelled
from workbench.engine.draft import Draft, Verification
from workbench.engine.embedded import check_reads_embeddings
from workbench.engine.loop import Loop
from workbench.engine.options import Options, check_context
from workbench.engine.recipe import Recipe
from workbench.engine.rotation import room
from workbench.engine.run import Run, TechniqueLike
from workbench.engine.sampling import Chance, Sampler, entropies, refuse
from workbench.engine.session import Generation, State
from workbench.errors import PromptError
from workbench.models import EmbeddingSegment, Model
from workbench.models.prompt import check_length, read_prompt
from workbench.models.segments import NO_IDS, Prompt
from workbench.models.stop_text import stop_texts

PromptLike = str | Sequence[int] | Tensor | EmbeddingSegment | Sequence[Sequence[int] | str | Tensor | EmbeddingSegment]


def generate(
    model: Model,
    prompt: PromptLike,
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
    context_tokens: int | None = None,
    stop_text: str | Sequence[str] = (),
    min_new_tokens: int = 0,
    logprobs: int = 0,
    logits: bool = False,
    past: State | None = None,
) -> Generation:
    """Generate tokens, and yield what every turn did.

    Parameters
    ----------
    model : Model
    prompt : str, token ids, or a sequence of segments
        With ``past`` what comes after its text, which may be nothing. Segments are texts, token ids and
        :class:`workbench.models.EmbeddingSegment`, one of these at least: rows that enter as embeddings. What looks
        tokens up, or gives them to a second model, does not go with such a prompt.
    techniques : sequence of Technique
    max_new_tokens : int
    stop_tokens : sequence of int, optional
        Tokens that end the text; by default the model's own. ``()`` never stops early.
    temperature, top_p, top_k
        See :class:`workbench.engine.Sampler`; temperature 0 is greedy.
    seed : int
    prefill_chunk : int, optional
        Run the prompt in chunks of that many tokens, which bounds the memory of its attention, and lets ``cancel`` end
        a long prompt between two of them.
    compiled : bool
        Use torch's compiled single-token step, whose sums have another order than those of the tokens that a draft is
        verified with.
    cancel : threading.Event, optional
        Ends the stream before the next turn once it is set. Closing the iterator does the same.
    context_tokens : int, optional
        First tokens of the prompt that are its context; the rest is the question. The context is prefilled, the
        ``evict`` slot compresses it without having seen the question, and the question is read after what is left, so
        that even the first token depends on what was evicted. Where nothing is, the text is the same in float32, and
        with the compiled kernels every logit bit for bit. By default the whole prompt is read before anything is
        compressed. The ``context`` slot acts on the context alone; ``prefill_attention`` is asked in both parts.
    stop_text : str or sequence of str
        Texts that end the output: it ends with the token that completes one, wherever in the token that is.
    min_new_tokens : int
        Nothing ends the text before it has so many tokens, and stop tokens have no probability until then.
    logprobs : int
        Let every step report so many log-probabilities for each of its tokens: ``Step.logprobs``.
    logits : bool
        Let every step report the logits of each of its tokens: ``Step.logits``.
    past : State, optional
        ``Generation.state`` of an earlier run. This one goes on after its text and computes only what its caches do not
        hold yet; what was evicted stays evicted, and nothing more of the prompt is: the new tokens are a question. Rows
        that a policy of the slot ``depth`` postponed stay pending, for this run's to take in. Keys
        stay as they were rotated when they came, except where the cache is computed anew, and are kept in the form that
        this run's slot ``store`` gives them.

    Notes
    -----
    Rotary factors that hang on the length of the text are those that transformers generates with. Long-rope of Phi-3: a
    text of up to its original positions is read with the short factors; once it is longer, the cache is computed anew
    with the long ones, in the step that comes to it. Techniques of the slots that act within a model (``context`` to
    ``store``) then start anew: the prompt is compressed once more, and what was written is read after it as a question.
    Long-rope of other families, and dynamic scaling: keys stay as they were rotated. Either way no pass reads a token
    with other factors than if it had come alone, so drafts and ``prefill_chunk`` leave the text as it is.

    Returns
    -------
    Generation
        An iterator of :class:`workbench.engine.Step`: first the prefill with one token, then one for each decode step.
        Once over it has a ``state``.

    Raises
    ------
    PromptError
        Empty or too long a prompt, no such context, a state of another model; before anything runs.
    IncompatibleTechniques, SettingError
        Before anything runs.
    NumericalError, OutOfMemory
        In the middle; steps already yielded stay valid and the model is as it was.
    """
    text = whole_prompt(model, prompt, past)
    tokens = text.tokens
    max_new_tokens = whole("max_new_tokens", max_new_tokens, 1, error=PromptError)
    room = model.anatomy.positions - len(tokens)
    if max_new_tokens > room + 1:
        raise PromptError(
            f"{len(tokens):,} prompt tokens and {max_new_tokens:,} new ones exceed the {model.anatomy.positions:,} "
            f"positions of {model.name}: ask for at most {room + 1:,} new tokens or shorten the prompt"
        )
    min_new_tokens = whole("min_new_tokens", min_new_tokens, least=-(2**63), error=PromptError)
    if not 0 <= min_new_tokens <= max_new_tokens:
        raise PromptError(f"min_new_tokens must lie in 0 … max_new_tokens ({max_new_tokens}), not {min_new_tokens}")
    logprobs = whole("logprobs", logprobs, note=" (none)")
    if past is not None:
        past.check_switch(model, len(tokens), max_new_tokens)
    if context_tokens is not None and past is not None:
        raise PromptError("context_tokens does not go with past: what the state holds is the context")
    check_context(context_tokens, len(tokens))
    options = Options(
        stop_tokens=model.stop_tokens if stop_tokens is None else tokens_of("stop_tokens", stop_tokens),
        stoppers=stop_texts(model, stop_text, max(tokens[-1], 0)),
        min_new_tokens=min_new_tokens,
        context_tokens=context_tokens,
        prefill_chunk=prefill_chunk,
        compiled=compiled,
        logprobs=logprobs,
        logits=logits,
    )
    sampler = Sampler(temperature, top_p, top_k, Chance(seed))
    recipe = Recipe(techniques)
    if text.embeddings is not None:
        check_reads_embeddings(recipe)
    run = Run(model, tuple(tokens), max_new_tokens, sampler, seed, recipe.stepwise, embeddings=text.embeddings)
    return Generation(Loop(run, recipe, options, past), cancel)


def whole_prompt(model: Model, prompt: PromptLike, past: State | None = None) -> Prompt:
    """Tokens and embeddings of a prompt, after those of a state if there is one.

    Raises
    ------
    PromptError
    """
    if past is None:
        return read_prompt(model, prompt)
    past.check(model)
    return read_prompt(model, prompt, start=False, before=Prompt(list(past.tokens), past.embeddings))


def whole_text(model: Model, prompt: str | Sequence[int] | Tensor, past: State | None = None) -> list[int]:
    """Token ids of a prompt, after those of a state if there is one.

    Raises
    ------
    PromptError
        Also if some of its rows have none.
    """
    text = whole_prompt(model, prompt, past)
    if text.embeddings is not None:
        raise PromptError(NO_IDS)
    return text.tokens


def teacher_force(
    model: Model,
    prompt: PromptLike,
    continuation: Sequence[int],
    techniques: Sequence[TechniqueLike] = (),
    seed: int = 0,
    context_tokens: int | None = None,
    prefill_chunk: int | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Tensor]:
    """Next-token logits of a recipe along a given continuation: what likelihoods and divergences are made of.

    Parameters
    ----------
    model : Model
    prompt : str or token ids
    continuation : sequence of int
        Tokens to be fed, whatever the recipe itself would have said.
    techniques : sequence of Technique
        Drafting does not change the distribution and is left out; a switch follows the entropies along the
        continuation.
    seed : int
    context_tokens : int, optional
        As in :func:`workbench.generate`. Without it the first row comes from full attention over the prompt, and what
        is evicted after it was chosen with the question in sight: the likelihood of an answer of one token is then the
        baseline's whatever a cache technique evicts.
    prefill_chunk : int, optional
        As in :func:`workbench.generate`.
    cancel : threading.Event, optional
        Ends the rows before the next one once it is set, in a prompt between two chunks.

    Yields
    ------
    Tensor [rows, vocabulary]
        Logits for the tokens of ``continuation``, in order: first one row, then all others at once where no technique
        acts between tokens, else one by one. They are those that generation would choose from: where rotary factors
        hang on the length of the text, of the text up to each token. (:func:`workbench.engine.score` reads a whole
        text with the factors of its whole length.) Where a cache is computed anew there is a break.

    Raises
    ------
    PromptError
        Empty or too long a text, or no such context; before anything runs.
    IncompatibleTechniques, SettingError
        Before anything runs.

    Examples
    --------
    The log-likelihood of an answer:

    >>> rows = torch.cat([each.clone() for each in wb.teacher_force(model, prompt, answer)])     # doctest: +SKIP
    >>> rows.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()                      # doctest: +SKIP
    """
    text, continuation = read_prompt(model, prompt), list(continuation)
    tokens = text.tokens
    # The last token of the continuation is predicted and never fed.
    check_length(model, tokens, continuation[:-1])
    check_context(context_tokens, len(tokens))
    run = Run(model, tuple(tokens), len(continuation), Sampler(chance=Chance(seed)), seed, embeddings=text.embeddings)
    recipe = Recipe(techniques).without("draft", "draft_length", "accept", "stop")
    if text.embeddings is not None:
        check_reads_embeddings(recipe)
    options = Options(context_tokens=context_tokens, prefill_chunk=prefill_chunk)
    return _forced(Loop(run, recipe, options), continuation, cancel)


def _forced(loop: Loop, continuation: list[int], cancel: threading.Event | None) -> Iterator[Tensor]:
    run, loop.cancel = loop.run, cancel
    with loop.open(), contextlib.suppress(Cancelled):
        text, uncertain, verification = list(run.prompt), list[float](), None
        while len(text) < len(run.prompt) + len(continuation) and not loop.cancelled:
            done = len(text) - len(run.prompt)
            decoder = loop.decoders.next(text, uncertain, verification)
            whole = done > 0 and not loop.recipe.stepwise and decoder.cache.length == len(text) - 1
            with torch.inference_mode():
                if whole:
                    end = min(len(continuation) - 1, done + room(decoder, len(text)))
                    logits = decoder.forward(continuation[done - 1 : end], logits="all")
                else:
                    logits = loop.advance(decoder, text)
                if decoder.cache_policy is not None:
                    decoder.cache_policy.settled(decoder.cache)
                if loop.decoders.switch is not None:
                    uncertain = entropies(logits[-1:])
                    token, hidden = continuation[done + len(logits) - 1], decoder.hidden[-1:]
                    verification = Verification(Draft(), [], token, logits[-1:], hidden, None, decoder.cache)
                if loop.logits:
                    fed = list(run.prompt) + continuation
                    texts = [fed[: len(text) + row] for row in range(len(logits))]
                    logits = torch.stack([loop.adjusted(*each) for each in zip(texts, logits.float())])
                    refuse(loop.checks(logits))
            text += continuation[done : done + len(logits)]
            yield logits
