"""Which techniques go together: every pair, and every technique with sampling, stop tokens and cancellation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench import trace
from workbench.engine.slots import SLOTS
from workbench.errors import TraceError
from workbench.models import Model
from workbench.registry import TECHNIQUES
from workbench.settings import spell
from workbench.studies.compatibility_trial import Trial, Verdict, example, model_of

STATUSES = {
    "exact together": "all are exact: greedy, the text is the baseline's, token for token; sampled, every text has the "
    "probability that plain sampling gives it, by enumeration",
    "runs": "the run is whole, repeatable and what its parts promise; one of the two may change the text",
    "excluded": "refused before anything runs: one slot holds one technique, or one of them excludes the other",
    "does not apply": "one of them does not fit this model or this condition, and says why",
    "fails": "an error, or a text that breaks a promise",
}
"""Status -> what it means; a number in a matrix is a place here."""

CONDITIONS = {
    "alone": "greedy, by itself",
    "sampling": "temperature 0.8: one seed gives one text, and an exact one keeps plain sampling's distribution",
    "stop tokens": "the text ends with the first stop token, and is the same up to there",
    "cancellation": "the text ends after the step in which it was told to, and the next run is untouched",
}
"""What every technique is also run under."""

Progress = Callable[[int, int, str], None]
Verdicts = Mapping[tuple[str, str], Verdict]
BOTH = "{} and {} both claim the slot {!r}, which holds one: leave one of them out"


def compatibility(
    model: Model | str = "tiny",
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    known: Verdicts | None = None,
) -> xr.DataTree:
    """Run every pair of techniques, and every technique under all conditions, with its first example's settings.

    Parameters
    ----------
    model : Model or str
        A model, or a name for :func:`model_of`.
    names : sequence of str, optional
        Of techniques; all that are registered if left out.
    progress : callable, optional
        Told how many runs are done, of how many, and which is next.
    known : dict, optional
        (technique, condition) and (technique, technique) -> status and reason: what need not run again.

    Returns
    -------
    xarray.DataTree
        Of kind ``compatibility``: the group of that name has ``status`` (technique, other), symmetric and -1 on its
        diagonal, and ``condition_status`` (technique, condition), both places in :data:`STATUSES`. The root's
        ``techniques``, ``statuses``, ``conditions`` and ``reasons`` are JSON.

    Raises
    ------
    SettingError
        If a name is not registered.
    """
    import workbench.techniques  # noqa: F401  fills the registry

    names = [TECHNIQUES[name].name for name in (TECHNIQUES if names is None else names)]
    trial = Trial(model_of(model) if isinstance(model, str) else model)
    verdicts: dict[tuple[str, str], Verdict] = {}
    for _, judged in judge(trial, names, progress, known):
        verdicts |= judged
    return matrix(about(trial.model), [described(name) for name in names], verdicts)


def judge(
    trial: Trial, names: Sequence[str], progress: Progress | None = None, known: Verdicts | None = None
) -> Iterator[tuple[str, dict[tuple[str, str], Verdict]]]:
    """Techniques one after the other, each with its verdicts under all conditions and with those before it.

    Parameters are those of :func:`compatibility`.
    """
    known = known or {}
    due = {name: _due(name, names[:place]) for place, name in enumerate(names)}
    total, done = sum(key not in known for keys in due.values() for key in keys), itertools.count()
    for name, keys in due.items():
        verdicts = {}
        for key in keys:
            if key in known:
                verdicts[key] = known[key]
                continue
            alone = key[1] in CONDITIONS
            if progress is not None:
                progress(next(done), total, (", " if alone else " with ").join(key))
            verdicts[key] = trial.condition(*key) if alone else trial.pair(*key)
        yield name, verdicts
    if progress is not None and total:
        progress(total, total, "done")


def _due(name: str, before: Sequence[str]) -> list[tuple[str, str]]:
    return [*((name, condition) for condition in CONDITIONS), *((other, name) for other in before)]


def one_slot(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The slot that two techniques both claim and that holds one: they are excluded, and nothing needs to run.

    Both as :func:`described` gives them.
    """
    return next((slot for slot in other["slots"] if slot in one["slots"] and SLOTS.get(slot) == "one"), None)


def matrix(about: dict[str, Any], techniques: Sequence[dict[str, Any]], verdicts: Verdicts) -> xr.DataTree:
    """The trace of what was found.

    Parameters
    ----------
    about : dict
        ``model``, ``revision``, ``dtype``, ``device`` and ``versions``.
    techniques : sequence of dict
        ``name``, ``slots``, ``exact`` and ``example``, in the order of the matrix.
    verdicts : dict
        (technique, condition) and (technique, technique) -> status and reason, each pair once. Two for one slot may be
        left out.

    Raises
    ------
    TraceError
        If a pair or a condition is missing, or a status is none of :data:`STATUSES`.
    """
    names, places = [each["name"] for each in techniques], list(STATUSES)
    status = np.full((len(names), len(names)), -1, dtype=np.int8)
    under = np.full((len(names), len(CONDITIONS)), -1, dtype=np.int8)
    reasons = {}
    try:
        for (row, one), (column, other) in itertools.combinations(enumerate(names), 2):
            key = (one, other) if (one, other) in verdicts else (other, one)
            slot = one_slot(techniques[row], techniques[column])
            verdict = verdicts[key] if key in verdicts or slot is None else ("excluded", BOTH.format(one, other, slot))
            status[row, column] = status[column, row] = places.index(verdict[0])
            reasons[one, other] = verdict[1]
        for (row, name), (column, condition) in itertools.product(enumerate(names), enumerate(CONDITIONS)):
            verdict = verdicts[name, condition]
            under[row, column] = places.index(verdict[0])
            reasons[name, condition] = verdict[1]
    except (KeyError, ValueError) as error:
        raise TraceError(f"the matrix is not whole: {error}") from None
    data = {
        "status": trace.variable("technique other", status, "status", "whether two techniques go together"),
        "condition_status": trace.variable("technique condition", under, "status", "whether it runs under a condition"),
    }
    sizes = zip(("technique", "other", "condition"), (*status.shape, len(CONDITIONS)))
    coords = {name: np.arange(size) for name, size in sizes}
    attrs = {
        "schema": trace.SCHEMA,
        "kind": "compatibility",
        "seed": 0,
        "vocabulary": "{}",
        **{key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()},
        "recipe": json.dumps([each["example"] for each in techniques]),
        "techniques": json.dumps(list(techniques)),
        "statuses": json.dumps(STATUSES),
        "conditions": json.dumps(CONDITIONS),
        "reasons": json.dumps({" + ".join(key): reason for key, reason in reasons.items() if reason}),
    }
    groups = {"/": xr.Dataset(attrs=attrs), "compatibility": xr.Dataset(data, coords=coords)}
    return trace.check(xr.DataTree.from_dict(groups))


def about(model: Model) -> dict[str, Any]:
    """The facts of a model that a matrix is of, and the versions that it was made with."""
    dtype = str(model.dtype).removeprefix("torch.")
    facts = {"model": model.name, "revision": model.revision, "dtype": dtype, "device": str(model.device)}
    return {**facts, "versions": trace.versions()}


def described(name: str) -> dict[str, Any]:
    """What a matrix says of a technique."""
    kind = TECHNIQUES[name]
    return {"name": name, "slots": list(kind.slots), "exact": kind.exact, "example": spell(example(name))}
