"""The processors of transformers' ``generate`` that shape the next-token distribution, in its order.

Paper
-----
``repetition_penalty``: Keskar et al., CTRL: A Conditional Transformer Language Model for Controllable Generation, 2019,
arXiv 1909.05858; the logit of a token that stands in the text is divided by it, or multiplied where it is negative.
``no_repeat_ngram``: Paulus et al., A Deep Reinforced Model for Abstractive Summarization, 2017, arXiv 1705.04304; no
n-gram comes twice. ``min_p``: Nguyen et al., Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs,
2024, arXiv 2407.01082; tokens less probable than that share of the most probable one are left out.
``epsilon_cutoff``: Hewitt et al., Truncation Sampling as Language Model Desmoothing, 2022, arXiv 2210.15191; tokens
less probable than it are left out. What never comes (``suppress_tokens``, ``begin_suppress_tokens`` as the first token,
``bad_words`` as a sequence) is transformers' own.

Source
------
``transformers.generation.logits_process``, with the same settings and, greedy, the same text.

Formula
-------
With z the logits, x a token and p the probabilities at the temperature:

    repetition_penalty r:  z_x <- z_x / r if z_x >= 0, else z_x r, for every x in the text
    no_repeat_ngram n:     z_x <- -inf where (the last n - 1 tokens, x) stands in the text
    min_p m:               z_x <- -inf where p(x) < m max p
    epsilon_cutoff e:      z_x <- -inf where p(x) < min(e, max p)

Deviates
--------
As in transformers, prompt and output count for the first two (CTRL and Paulus et al. look at the output), and the last
two act after temperature and only where tokens are drawn. transformers cuts by top-k and top-p before them; here they
are the sampler's and come last, so that top-p beside min-p reaches its share of what min-p has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.slots import LogitsPolicy
from workbench.errors import SettingError
from workbench.models.device import numbers
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


def _ids(separator: str, description: str) -> Any:
    return Field(pattern=rf"^(\d{{1,9}}({separator}\d{{1,9}})*)?$", description=description)


@register
@settings
class LogitsProcessors(Technique):
    """Repetition penalty, no repeated n-grams, tokens that never come, min-p and epsilon cutoff; all off by default.

    Parameters
    ----------
    repetition_penalty : float
        1 is none.
    no_repeat_ngram : int
        Length of the n-grams that may come only once; 0 is off.
    min_p : float
        Least probability of a token as a share of the most probable one's; 0 is off.
    epsilon_cutoff : float
        Least probability of a token; the most probable one always stays. 0 is off.
    suppress_tokens, begin_suppress_tokens : str
        Ids of tokens that never come, and of those that do not come first: ``5-17``.
    bad_words : str
        Sequences of ids that never come: ``5-17/9`` is two of them.
    """

    repetition_penalty: Annotated[float, Field(ge=0.01, le=10, description="divides logits of known tokens")] = 1.0
    no_repeat_ngram: Annotated[int, Field(ge=0, le=64, description="n-grams of that length come only once")] = 0
    min_p: Annotated[float, Field(ge=0, le=1, description="least share of the best token's probability")] = 0.0
    epsilon_cutoff: Annotated[float, Field(ge=0, lt=1, description="least probability of a token")] = 0.0
    suppress_tokens: Annotated[str, _ids("-", "ids of tokens that never come, as 5-17")] = ""
    begin_suppress_tokens: Annotated[str, _ids("-", "ids of tokens that do not come first, as 5-17")] = ""
    bad_words: Annotated[str, _ids("[-/]", "sequences of ids that never come, as 5-17/9")] = ""

    slots = ("logits",)
    exact = False
    paper = (
        "Keskar et al., CTRL, 2019, arXiv 1909.05858; Paulus et al., 2017, arXiv 1705.04304; Nguyen et al., Min-p "
        "Sampling, 2024, arXiv 2407.01082; Hewitt et al., Truncation Sampling, 2022, arXiv 2210.15191"
    )

    def start(self, run: Run) -> _Processors:
        return _Processors(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(repetition_penalty=1.3, min_p=0.1), cls(no_repeat_ngram=2, epsilon_cutoff=0.02)


class _Processors(LogitsPolicy):
    def __init__(self, technique: LogitsProcessors, run: Run) -> None:
        self._settings, self._temperature, self._prompt = technique, run.sampler.temperature, len(run.prompt)
        self._never, self._first = _tokens(technique.suppress_tokens), _tokens(technique.begin_suppress_tokens)
        self._words = [_tokens(word) for word in filter(None, technique.bad_words.split("/"))]
        largest = max(self._never + self._first + [token for word in self._words for token in word], default=0)
        if largest >= run.model.anatomy.vocabulary:
            raise SettingError(f"{technique.name}: {run.model.name} has no token {largest}")

    def adjust(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        chosen, drawn = self._settings, self._temperature > 0
        if chosen.repetition_penalty != 1:
            logits = _penalised(logits, tokens, chosen.repetition_penalty)
        gone = self._never + (self._first if len(tokens) == self._prompt else [])
        gone = gone + [word[-1] for word in self._words if _ends_with(tokens, word[:-1])]
        if chosen.no_repeat_ngram:
            gone = gone + _completing(tokens, chosen.no_repeat_ngram)
        if gone:
            logits = _without(logits, gone)
        for share, least in ((True, chosen.min_p), (False, chosen.epsilon_cutoff)):
            if drawn and least:
                probabilities = (logits.float() / self._temperature).softmax(-1)
                best = probabilities.max()
                bound = least * best if share else torch.minimum(best, best.new_tensor(least))
                logits = _without(logits, probabilities < bound)
        return logits


def _tokens(text: str) -> list[int]:
    return [int(token) for token in filter(None, text.split("-"))]


def _ends_with(tokens: Sequence[int], end: list[int]) -> bool:
    return list(tokens[len(tokens) - len(end) :]) == end


def _penalised(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    places = numbers(sorted(set(tokens)), logits.device)
    scores = logits[places]
    return logits.index_copy(0, places, torch.where(scores < 0, scores * penalty, scores / penalty))


def _completing(tokens: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of that size which the text has already."""
    prefix = list(tokens[len(tokens) - size + 1 :])
    starts = range(len(tokens) - size + 1)
    return [tokens[start + size - 1] for start in starts if list(tokens[start : start + size - 1]) == prefix]


def _without(logits: Tensor, gone: Tensor | list[int]) -> Tensor:
    """Logits with those at ``gone`` (a mask or places) at minus infinity."""
    logits = logits.clone()
    logits[gone if isinstance(gone, Tensor) else numbers(gone, logits.device)] = float("-inf")
    return logits
