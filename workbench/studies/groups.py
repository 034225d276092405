"""A study split by what its prompts are: their task or their category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import SettingError
from workbench.metrics import Interval
from workbench.metrics.intervals import spell_interval

BY = ("task", "category")

# key of a summary -> what the columns of a run and a group say
SPLIT = {
    "speedup": "measured speed-up",
    "mean_accepted_tokens": "mean accepted tokens",
    "top1_agreement": "top-1 agreement",
    "score": "task score",
}


def groups(prompts: Sequence[dict[str, Any]], by: str) -> dict[str, list[int]]:
    """Places of the prompts of every task or category, in order of appearance; empty where no prompt has one.

    Raises
    ------
    SettingError
        If ``by`` is neither "task" nor "category".
    """
    if by not in BY:
        raise SettingError(f"by={by!r} is none of {', '.join(BY)}")
    names = [str(prompt.get(by) or "") for prompt in prompts]
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name or f"no {by}", []).append(place)
    return places if any(names) else {}


def matrix(summaries: dict[str, list[dict[str, Any]]], key: str) -> pd.DataFrame:
    """One number of every run (down) in every group (across, with its prompts), as text; blank where it is not known.

    A speed-up is a median over prompts, with its interval from five prompts on; ``n`` is there where it comes from
    fewer prompts than the group has.

    Parameters
    ----------
    summaries : dict of str to list of dict
        Group -> summary of every run.
    key : str
        Of :data:`SPLIT`.
    """
    columns = {
        f"{group} ({rows[0]['prompts']})": [_text(row[key]) for row in rows] for group, rows in summaries.items()
    }
    names = [row["name"] for row in next(iter(summaries.values()))]
    return pd.DataFrame(columns, index=pd.Index(names, name="run"))


def matrices(summaries: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    """Every :func:`matrix` that says something, by its title; none where there is only one group."""
    if len(summaries) < 2:
        return {}
    frames = {title: matrix(summaries, key) for key, title in SPLIT.items()}
    return {title: frame for title, frame in frames.items() if (frame != "").any(axis=None)}


def _text(value: Interval | float) -> str:
    if not isinstance(value, Interval):
        return "" if np.isnan(value) else f"{value:.2f}"
    return spell_interval(value) + (f" n {value.n}" if 0 < value.n < value.of else "")
