"""Arguments of a run, checked one by one before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from workbench.errors import SettingError

MOST_SEED = 2**63 - 1


def whole(name: str, value: Any, least: int = 0, note: str = "", error: type[Exception] = SettingError) -> int:
    """An argument as a whole number of at least ``least``.

    Parameters
    ----------
    name : str
    value : int or whatever was given
    least : int
    note : str
        What the least one means, as " (none)".
    error : type
        What is raised if it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise error(f"{name} must be a whole number, not {value!r:.80}") from None
    if number < least:
        raise error(f"{name} must be at least {least}{note}, not {number}")
    return number


def seed_of(value: Any) -> int:
    """A seed as a whole number that every store can keep."""
    number = whole("seed", value)
    if number > MOST_SEED:
        raise SettingError(f"seed must be at most 2**63 - 1 ({MOST_SEED:,}), not {number!s:.40}")
    return number


def real(name: str, value: Any) -> float:
    """An argument as a number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(f"{name} must be a number, not {value!r:.80}") from None


def tokens_of(name: str, value: Any) -> tuple[int, ...]:
    """An argument as token ids."""
    if isinstance(value, str) or (not isinstance(value, Sequence | set | frozenset) and not hasattr(value, "tolist")):
        raise SettingError(f"{name} must be a sequence of token ids, not {value!r:.80}")
    return tuple(whole(f"a token of {name}", each, least=-(2**63)) for each in value)
