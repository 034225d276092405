"""Whether sampling with techniques has plain sampling's distribution: by every outcome of a model of few tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.engine import Step, VerifyCost
from workbench.engine.enumeration import Distribution, text_distribution, total_variation
from workbench.engine.verify_cost import assume
from workbench.models import Model
from workbench.models.tiny import tiny
from workbench.techniques import Technique

ROUNDING = 1e-6
"""A smaller total variation is none."""

# One token from the prefill, two levels of drafts and the token after them; some drafters need a step to get going.
_NEWS = (4, 5)
# Longer texts only where few outcomes were seen.
_FEW = 80
# A second drafted token is nearly free, and a third dear, so that what a draft is worth hangs on its shape.
COST = (1.0, 1.05, 1.06, 1.6, 1.65, 1.7, 2.2)
# Where nothing weighs it, all that is drafted is verified.
_FREE = (1.0,) * 81


@dataclass(frozen=True)
class Distance:
    """How far the distribution of a text is from plain sampling's.

    Attributes
    ----------
    variation : float
        Total variation, from 0 to 1.
    levels : int
        Of the deepest draft that was verified; 0 where nothing was drafted, so that little was shown.
    """

    variation: float
    levels: int


def model_of(vocabulary: int) -> Model:
    """A random Llama of so many tokens, in float64, so that rounding stays far below 1e-6."""
    return tiny("llama", seed=1, dtype=torch.float64, vocabulary=vocabulary)


def prompt_of(vocabulary: int) -> list[int]:
    """Tokens whose second half repeats the first, so that there is something to look up."""
    return torch.randint(vocabulary, (15,), generator=torch.Generator().manual_seed(5)).tolist() * 2


def distance(
    techniques: Sequence[Technique],
    vocabulary: int = 4,
    cost: Sequence[float] | None = None,
    news: Sequence[int] = _NEWS,
    **sampling: Any,
) -> Distance:
    """Compare a run with techniques to one without, given the first token, which no technique drafts.

    Parameters
    ----------
    techniques : sequence of Technique
        Such that the number of outcomes stays small, see :meth:`workbench.techniques.Technique.smallest`.
    vocabulary : int
        Tokens of the model.
    cost : sequence of float, optional
        What a forward of one row, two and so on is taken to last, see :func:`workbench.engine.verify_cost.assume`; if
        left out :data:`COST` beside a technique of the slot ``draft_length``, and else nothing for further rows.
    news : sequence of int
        Tokens to be generated; the next of them if drafts of two levels did not fit in, and outcomes were few.
    **sampling
        ``temperature``, ``top_p`` and ``top_k``.

    Raises
    ------
    TooManyOutcomes
    SettingError
        If a technique does not fit the model.
    """
    model, prompt = model_of(vocabulary), prompt_of(vocabulary)
    if cost is None:
        cost = COST if any("draft_length" in technique.slots for technique in techniques) else _FREE
    assume(model, VerifyCost(range(1, len(cost) + 1), cost))
    levels = walks = 0

    def see(step: Step) -> None:
        nonlocal levels, walks
        walks += step.index == 0
        depths: list[int] = []
        for _, parent, *_ in step.nodes:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        levels = max([levels, *depths])

    for new in news:
        sampled = text_distribution(model, prompt, techniques, new, given=1, see=see, **sampling)
        plain = _plain(vocabulary, new, tuple(sorted(sampling.items())))
        if levels > 1 or walks > _FEW:
            break
    return Distance(total_variation(sampled, plain), levels)


@functools.cache
def _plain(vocabulary: int, new: int, sampling: tuple[tuple[str, Any], ...]) -> Distribution:
    return text_distribution(model_of(vocabulary), prompt_of(vocabulary), (), new, given=1, **dict(sampling))
