"""The decode loop itself: a stream of steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from workbench.engine.loop import Loop
from workbench.engine.recipe import Recipe
from workbench.engine.sampling import Chance, Sampler, entropy
from workbench.engine.slots import Run, TechniqueLike
from workbench.engine.step import Step
from workbench.errors import PromptError
from workbench.models import Model


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
        Use torch's compiled single-token step, whose sums have another order than those of the tokens that a draft is
        verified with.
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
    return Loop(run, Recipe(techniques), ends, prefill_chunk, compiled).steps(cancel)


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
    loop = Loop(run, Recipe(techniques).without("draft", "draft_length", "accept", "stop"), ())
    with loop.open():
        text, entropies = list(run.prompt), []
        while len(text) < len(run.prompt) + len(continuation):
            done = len(text) - len(run.prompt)
            decoder = loop.decoder(entropies)
            whole = done == 1 and not loop.recipe.stepwise
            with torch.inference_mode():
                if whole:
                    logits = decoder.forward(continuation[:-1], logits="all")
                else:
                    logits = loop.advance(decoder, text)
                if decoder.cache_policy is not None:
                    decoder.cache_policy.settled(decoder.cache)
                entropies = [entropy(logits[-1])] if loop.switch is not None else []
                if loop.logits:
                    fed = list(run.prompt) + list(continuation)
                    logits = torch.stack(
                        [loop.adjusted(fed[: len(text) + row], logits[row]) for row in range(len(logits))]
                    )
            text += continuation[done : done + len(logits)]
            yield logits
