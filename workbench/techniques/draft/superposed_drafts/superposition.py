"""Several continuations from the forwards of one: each pass reads a weighted sum of the drafts' last embeddings.

Source
------
Shen et al., Superposed Decoding: Multiple Generations from a Single Autoregressive Inference Pass, 2024, arXiv
2405.18400.

github.com/RAIVNLab/SuperposedDecoding (``params/p15_d3_mixed.json``, ``superpose.py``): n-grams after one to five
tokens with the weights 0.01, 0.04, 0.15, 0.18 and 0.12, exponent 0.54, three candidates for every draft.

Deviates
--------
The paper interpolates with n-grams counted in billions of tokens and lets only what stands there follow a draft (its
code takes 200 nats from a draft that nothing follows); here they come from the text itself and, if given, a small
corpus, so the share that they leave open, half and more, is the model's own. The candidates' probabilities are the
model's over all tokens, where the paper's code normalises them over the candidates, the same for all drafts. It sets a
draft that ended aside; here a draft goes on past an end token, which the verifying model stops at. It tunes exponent
and temperature for each number of drafts; here the exponent is that of three, and the temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.engine import Decoder
from workbench.errors import PromptError
from workbench.models import Model
from workbench.models.device import numbers, put, read

_WEIGHTS = (0.01, 0.04, 0.15, 0.18, 0.12)
_CANDIDATES = 3


@dataclass
class Superposed:
    """One of the drafts that were carried along.

    Attributes
    ----------
    tokens : list of int
    score : float
        Log probability [nats] under the interpolated distributions.
    chances : list of float
        Probability of each token there, given the draft before it.
    """

    tokens: list[int]
    score: float
    chances: list[float]


class Ngrams:
    """How often tokens followed the last one, two and so on up to five.

    Parameters
    ----------
    corpus : sequence of int
        Text to count first.
    """

    def __init__(self, corpus: Sequence[int] = ()) -> None:
        self._counts: dict[tuple[int, ...], dict[int, int]] = {}
        self._tail: list[int] = []
        self.add(corpus)
        self._tail = []

    def add(self, tokens: Sequence[int]) -> None:
        """Count what is new in a text that goes on."""
        for token in tokens:
            for size in range(1, min(len(_WEIGHTS), len(self._tail)) + 1):
                counts = self._counts.setdefault(tuple(self._tail[-size:]), {})
                counts[token] = counts.get(token, 0) + 1
            self._tail = [*self._tail, token][-len(_WEIGHTS) :]

    def interpolated(self, context: Sequence[int], tokens: Sequence[int], model: Sequence[float]) -> list[float]:
        """Probabilities of ``tokens`` after a context: every n-gram length that knows the context has its share, and
        the model's own probabilities have the rest."""
        mixed, rest = [0.0] * len(tokens), 1.0
        for size, weight in enumerate(_WEIGHTS, 1):
            counts = self._counts.get(tuple(context[-size:])) if size <= len(context) else None
            if counts:
                total = sum(counts.values())
                mixed = [chance + weight * counts.get(token, 0) / total for token, chance in zip(tokens, mixed)]
                rest -= weight
        return [chance + rest * own for chance, own in zip(mixed, model)]


def superpose(
    decoder: Decoder,
    logits: Tensor,
    k: int,
    length: int,
    filter_weight: float,
    ngrams: Ngrams,
    context: Sequence[int],
    token: Callable[[int], int] = int,
) -> list[Superposed]:
    """``k`` drafts of ``length`` tokens from ``length - 1`` forwards of one row.

    Parameters
    ----------
    decoder : Decoder
        It holds the text; the rows that are run here stay in its cache.
    logits : Tensor [vocabulary]
        After the text.
    k, length : int
    filter_weight : float
        Exponent of the interpolated n-gram distribution against the model's own; 0 leaves n-grams out.
    ngrams : Ngrams
    context : sequence of int
        The last tokens of the text.
    token : callable
        Token id of a place among the logits.

    Returns
    -------
    list of Superposed
        Best first. The tokens of a draft are not those that the model would choose after it alone: from the second on
        it saw a blend of all drafts.
    """
    drafts = [Superposed([], 0.0, [])]
    for step in range(length):
        best = logits.float().softmax(-1).topk(min(_CANDIDATES * k, logits.shape[-1]))
        places, own = read(best.indices, best.values)
        candidates = list(map(token, places))
        grown = []
        for draft in drafts:
            mixed = ngrams.interpolated([*context, *draft.tokens], candidates, own) if filter_weight else own
            chances = [p ** (1 - filter_weight) * q**filter_weight for p, q in zip(own, mixed)]
            logs = torch.tensor(chances).log().tolist()
            grown += [(draft.score + log, draft, *each) for log, each in zip(logs, zip(candidates, chances))]
        grown.sort(key=lambda each: -each[0])
        drafts = [
            Superposed([*draft.tokens, chosen], score, [*draft.chances, chance])
            for score, draft, chosen, chance in grown[:k]
        ]
        if step < length - 1:
            logits = decoder.forward([0], inputs=blend(decoder, drafts))[0]
    return drafts


def blend(decoder: Decoder, drafts: Sequence[Superposed]) -> Tensor:
    """The drafts' last tokens as one row [1, width]: their embeddings, weighted with the drafts' probabilities."""
    anatomy = decoder.anatomy
    last = numbers([draft.tokens[-1] for draft in drafts], anatomy.device)[None]
    positions = torch.full((len(drafts),), decoder.cache.length, device=anatomy.device)
    weights = put(torch.tensor([draft.score for draft in drafts]), anatomy.device).softmax(0)
    return (weights[None].to(anatomy.dtype) @ anatomy.embed(last, positions)[0]).reshape(1, -1)


@torch.inference_mode()
def superposed_continuations(
    model: Model,
    prompt: str | Sequence[int],
    k: int = 3,
    length: int = 10,
    filter_weight: float = 0.54,
    corpus: str | Sequence[int] = (),
) -> list[tuple[list[int], float]]:
    """Auto-complete: ``k`` different continuations for about the price of one.

    Parameters
    ----------
    model : Model
    prompt : str or token ids
    k, length : int
        Continuations, and their tokens.
    filter_weight : float
        From 0 to 1; see :func:`superpose`.
    corpus : str or token ids
        Text like the one that is to be completed, for the n-gram filter besides the prompt.

    Returns
    -------
    list of (tokens, score)
        Best first; the score is the log probability [nats] under the interpolated distributions.

    Raises
    ------
    PromptError
        If the prompt does not fit the model.

    Notes
    -----
    Counted once with the bundled model, 3 continuations of 8 tokens for 64 tokens of each of 20 training passages: a
    token costs the model 2.03 nats without the filter and 2.02 with it, against 2.51 for as many nucleus samples (top-p
    0.9) and 1.17 for the greedy continuation, which is one; the best of three agrees with the passage for 0.4 tokens
    on average, the best of three samples for 0.5, the greedy one for 0.4. So few n-grams hardly better the likelihood;
    the paper's come from a large corpus.
    """
    tokens = model.encode(prompt)
    room = model.anatomy.positions - len(tokens) + 1
    if length > room:
        raise PromptError(
            f"{len(tokens):,} prompt tokens and continuations of {length:,} exceed the {model.anatomy.positions:,} "
            f"positions of {model.name}: ask for at most {room:,} tokens or shorten the prompt"
        )
    ngrams = Ngrams(model.encode(corpus) if len(corpus) else ())
    ngrams.add(tokens)
    decoder = Decoder(model, length)
    logits = decoder.prefill(tokens)[0]
    drafts = superpose(decoder, logits, k, length, filter_weight, ngrams, tokens[-len(_WEIGHTS) :])
    return [(draft.tokens, draft.score) for draft in drafts]
