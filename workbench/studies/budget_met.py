"""What exits with budgets promise, and what a run on other text meets."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from workbench import trace
from workbench.engine.generate import generate, teacher_force
from workbench.engine.step import Step
from workbench.errors import SettingError
from workbench.models import Model
from workbench.settings import spell
from workbench.techniques import BudgetedExit
from workbench.techniques.depth.budgeted_exit.costs import held
from workbench.trace import variable

KINDS = ("average", "peak", "memory")
"""What there is a budget of."""

_MEANS = {
    "average": "operations of a token, mean, counted",
    "peak": "operations of the token that took most, counted",
    "memory": "weights of the layers that are there",
}


@dataclass(frozen=True)
class _Met:
    """What a technique took on all prompts, of the full model's, and what became of the text."""

    average: float
    peak: float
    memory: float
    layers: float
    agreement: float


def budget_met(
    model: Model,
    techniques: BudgetedExit | Sequence[BudgetedExit],
    prompts: Sequence[str | Sequence[int]],
    max_new_tokens: int = 64,
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Run exits with budgets on text that their thresholds have not seen.

    Parameters
    ----------
    model : Model
    techniques : BudgetedExit or sequence of them
        One for each budget.
    prompts : sequence of str or token ids
        Answered greedily, by the full model too.
    max_new_tokens : int
    cancel : threading.Event, optional
        Looked at before every answer.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Group ``budget``, over ``budget``, one for each technique: for each of ``average``,
        ``peak`` and ``memory`` what was asked, promised and met, as ``average_asked``, …; ``layers``, the mean that a
        token ran; and ``agreement``, the share of the full model's tokens that are its first choice in their place.
        Costs are shares of the full model's on its own answers to the same prompts, without the prompts' own.

    Raises
    ------
    SettingError
        If a technique is another, or its budget cannot be met; or there is nothing to run.
    """
    given = [techniques] if isinstance(techniques, BudgetedExit) else list(techniques)
    others = [type(each).__name__ for each in given if not isinstance(each, BudgetedExit)]
    if others or not given or not prompts or max_new_tokens < 2:
        raise SettingError(
            f"{others[0]} has no budgets: give BudgetedExit" if others else "give a technique, a prompt and two tokens"
        )
    plans = [each.plan(model) for each in given]
    ids = [model.encode(prompt) for prompt in prompts]
    full: list[list[Step]] = []
    for prompt in ids:
        if cancel is not None and cancel.is_set():
            return None
        full.append(list(generate(model, prompt, max_new_tokens=max_new_tokens)))
    met = []
    for technique in given:
        found = _met(model, technique, ids, full, max_new_tokens, cancel)
        if found is None:
            return None
        met.append(found)
    data: dict[str, Any] = {}
    for kind in KINDS:
        for what, objects in (("asked", given), ("promised", [each.promised for each in plans]), ("met", met)):
            values = [getattr(each, kind) for each in objects]
            data[f"{kind}_{what}"] = variable("budget", values, "1", f"{_MEANS[kind]}, {what}")
    data["layers"] = variable("budget", [each.layers for each in met], "layers", "layers run for a token, mean")
    data["agreement"] = variable("budget", [each.agreement for each in met], "1", "top-1 agreement with the full model")
    names = [spell(each) for each in given]
    coordinates = {"budget": variable("budget", np.arange(len(given)), "1", "budget")}
    groups = {"tokens": trace.tokens(ids[0]), "budget": xr.Dataset(data, coordinates)}
    recipe = {"budgets": names, "prompts": len(ids), "max_new_tokens": max_new_tokens}
    return trace.build(groups, model=model, kind="observe", recipe=recipe, used=set(ids[0]), budgets=names)


def _met(
    model: Model,
    technique: BudgetedExit,
    ids: Sequence[list[int]],
    full: Sequence[list[Step]],
    max_new_tokens: int,
    cancel: threading.Event | None,
) -> _Met | None:
    steps: list[Step] = []
    same, said, deepest = 0, 0, 0
    for prompt, whole in zip(ids, full):
        if cancel is not None and cancel.is_set():
            return None
        reading, *answering = generate(model, prompt, [technique], max_new_tokens=max_new_tokens)
        deepest, steps = max(deepest, *reading.layers), steps + answering
        answer = [token for step in whole for token in step.tokens]
        chosen = [row for rows in teacher_force(model, prompt, answer, [technique]) for row in rows.argmax(-1).tolist()]
        same, said = same + sum(map(int.__eq__, chosen, answer)), said + len(answer)
    plain = np.array([step.flops for whole in full for step in whole[1:]], dtype=float)
    took = np.array([step.flops for step in steps], dtype=float)
    if not len(plain) or not len(took):
        raise SettingError("no answer has two tokens: give other prompts")
    return _Met(
        average=float(took.mean() / plain.mean()),
        peak=float(took.max() / plain.max()),
        memory=held(model.anatomy, deepest + 1),
        layers=float(np.mean([len(step.layers) for step in steps])),
        agreement=same / said,
    )
