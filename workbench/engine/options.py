"""How a run reads its prompt, when it ends and what it reports, whatever its techniques."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from workbench.engine.arguments import whole
from workbench.engine.slots import LogitsPolicy, StopPolicy
from workbench.errors import PromptError
from workbench.models.device import numbers


@dataclass(frozen=True)
class Options:
    """Options of one run.

    Attributes
    ----------
    stop_tokens : tuple of int
        Tokens that end the text.
    stoppers : tuple of StopPolicy
        Whatever else ends it.
    min_new_tokens : int
        Nothing ends the text before it has so many tokens.
    context_tokens : int or None
        First tokens of the prompt that are its context: they are prefilled and the cache is compressed before the rest
        is read. None reads the prompt as one.
    prefill_chunk : int or None
        Most prompt tokens of one pass.
    compiled : bool
        Whether single tokens go through the compiled step.
    logprobs : int
        How many log-probabilities a step reports for every token.
    logits : bool
        Whether it reports all logits.
    """

    stop_tokens: tuple[int, ...] = ()
    stoppers: tuple[StopPolicy, ...] = ()
    min_new_tokens: int = 0
    context_tokens: int | None = None
    prefill_chunk: int | None = None
    compiled: bool = False
    logprobs: int = 0
    logits: bool = False

    def __post_init__(self) -> None:
        if self.prefill_chunk is not None:
            whole("prefill_chunk", self.prefill_chunk, 1)

    def ends(self, output: Sequence[int]) -> bool:
        """Whether the text ends after ``output``, the tokens generated so far."""
        if len(output) < self.min_new_tokens:
            return False
        return output[-1] in self.stop_tokens or any(stopper.stop(output) for stopper in self.stoppers)

    def masks(self, prompt: int) -> list[LogitsPolicy]:
        """What these options do to the logits after a prompt of so many tokens, after the ``logits`` slot."""
        return [_NoEarlyStop(prompt + self.min_new_tokens, self.stop_tokens)] if self.min_new_tokens else []


class _NoEarlyStop:
    """Takes the stop tokens away while the text is too short, as transformers' MinNewTokensLength does."""

    def __init__(self, length: int, stop_tokens: Sequence[int]) -> None:
        self._length, self._stop_tokens = length, list(stop_tokens)

    def adjust(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        known = [token for token in self._stop_tokens if 0 <= token < len(logits)]
        if len(tokens) < self._length and known:
            logits = logits.clone()
            logits[numbers(known, logits.device)] = float("-inf")
        return logits


def check_context(context_tokens: int | None, prompt_tokens: int) -> None:
    """Refuse a context that is none of the prompt, or all of it.

    Raises
    ------
    PromptError
    """
    if context_tokens is not None:
        context_tokens = whole("context_tokens", context_tokens, least=-(2**63), error=PromptError)
    if context_tokens is not None and not 1 <= context_tokens < prompt_tokens:
        allowed = f"1 … {prompt_tokens - 1}" if prompt_tokens > 1 else "a longer prompt: this one has no two parts"
        raise PromptError(
            f"context_tokens must leave a context and a question of the {prompt_tokens:,} prompt tokens: "
            f"{context_tokens} was given, it takes {allowed}"
        )
