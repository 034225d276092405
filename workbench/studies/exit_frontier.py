"""How many layers exits save, and what of the answers' wording that costs: one point for each setting.

Source
------
ROUGE-L lost against layers skipped: Sun, Du, Song, Li, When Neural Code Completion Models Size up the Situation, 2024,
arXiv 2401.09964, section 5, there on completions of ten tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from workbench import trace
from workbench.engine.generate import generate
from workbench.engine.step import Step
from workbench.errors import SettingError
from workbench.metrics import mean_interval, rouge_l, rouge_l_tokens
from workbench.models import Model
from workbench.settings import spell
from workbench.studies.cases import Case, cases
from workbench.studies.quality import until_stop
from workbench.trace import variable

By = Literal["words", "tokens"]

FULL = "full depth"
"""The first setting of a frontier: the model alone."""

_BOUNDED = {
    "layers_saved": "share of the layers that a decoded token leaves out",
    "flops_saved": "share of a decoded token's operations that is saved, counted",
    "rouge_l": "ROUGE-L with the full model's answer",
    "rouge_l_reference": "ROUGE-L with the reference",
    "reference_lost": "share of the full model's ROUGE-L with the reference that is lost",
    "written": "tokens written, of the full model's",
    "stopped": "share of answers that end before the full model's",
    "stopped_reference": "ROUGE-L with the reference of the full model's answers where these end before",
    "kept_reference": "ROUGE-L with the reference of the full model's answers where these do not",
}


def exit_frontier(
    model: Model,
    settings: Mapping[str, Any] | Sequence[Any],
    prompts: Iterable[Any],
    max_new_tokens: int = 64,
    by: By = "words",
    within: float = 0.02,
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Answer prompts greedily at full depth and with every setting of an exit.

    Parameters
    ----------
    model : Model
    settings : mapping of str to technique or list of techniques, or sequence of techniques
        What is compared, by name; without names each is called what it is spelled.
    prompts : iterable
        As :func:`workbench.compare` takes them. Where they have references, those are compared with too, as far as
        ``max_new_tokens`` reach.
    max_new_tokens : int
    by : {"words", "tokens"}
        What ROUGE-L counts: words as in summaries, or tokens, for code.
    within : float
        Share of ROUGE-L that may be lost by what counts as best.
    cancel : threading.Event, optional
        Looked at before every answer.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Group ``exit_frontier``, over ``setting``, the first being the model alone:
        ``layers_saved``, ``flops_saved``, ``rouge_l`` (with the full model's answers), ``rouge_l_reference``,
        ``reference_lost``, ``written`` and ``stopped``, each with its 95 % interval over prompts as ``…_low`` and
        ``…_high``; ``stopped_reference`` and ``kept_reference``: how good the full model's answers are where a setting
        ends early and where it does not; and ``scores`` (setting, prompt), the ROUGE-L of every answer with the full
        model's. Attributes: ``settings``
        (JSON), ``by``, ``within``, ``prompts``, ``references`` (how many), and ``best`` and ``best_reference``, the
        places of the settings that save most layers while ``rouge_l``, or that with the references, stays within; 0
        where none but the full model does. A token that is decoded counts, the prompt's pass does not.

    Raises
    ------
    SettingError
        If nothing is to be compared, or no token to be decoded.
    """
    named = _named(settings)
    if not named or max_new_tokens < 2:
        raise SettingError("give at least one setting of an exit, and two tokens to write")
    if by not in ("words", "tokens"):
        raise SettingError(f"by is 'words' or 'tokens', not {by!r}")
    given = cases(model, prompts, None)
    answers: list[list[list[Step]]] = []
    for techniques in ([], *named.values()):
        answers.append([])
        for case in given:
            if cancel is not None and cancel.is_set():
                return None
            answers[-1].append(list(generate(model, case.tokens, techniques, max_new_tokens=max_new_tokens)))
    data = _dataset(model, given, answers, max_new_tokens, by)
    data.attrs |= {"settings": json.dumps([FULL, *named]), "by": by, "within": within, **_best(data, within)}
    recipe = {name: [spell(each) for each in techniques] for name, techniques in named.items()}
    groups = {"tokens": trace.tokens(given[0].tokens), "exit_frontier": data}
    return trace.build(
        groups, model=model, kind="observe", recipe={**recipe, "max_new_tokens": max_new_tokens},
        used=set(given[0].tokens),
    )  # fmt: skip


def _named(settings: Mapping[str, Any] | Sequence[Any]) -> dict[str, list[Any]]:
    pairs = settings.items() if isinstance(settings, Mapping) else ((spell(each), each) for each in settings)
    return {name: list(each) if isinstance(each, list | tuple) else [each] for name, each in pairs}


def _dataset(model: Model, given: list[Case], answers: list[list[list[Step]]], most: int, by: By) -> xr.Dataset:
    texts = [[until_stop(model, [token for step in steps for token in step.tokens]) for steps in row]
             for row in answers]  # fmt: skip
    due = [_reference(model, case, most) for case in given]
    decoded = np.array([[sum(len(step.tokens) for step in steps[1:]) for steps in row] for row in answers])
    layers = np.array([[sum(len(step.layers) for step in steps[1:]) for steps in row] for row in answers])
    flops = np.array([[sum(step.flops for step in steps[1:]) for steps in row] for row in answers], dtype=float)
    full = np.array([[_alike(model, one, whole, by) for one, whole in zip(row, texts[0])] for row in texts])
    real = np.array([[np.nan if want is None else _alike(model, one, want, by) for one, want in zip(row, due)]
                     for row in texts])  # fmt: skip
    # What full depth takes for as many tokens of the same answers.
    each = np.divide(flops[0], decoded[0], where=decoded[0] > 0, out=np.full(len(given), np.nan))
    found = {
        "layers_saved": [mean_interval(model.layers * count - ran, model.layers * count, -np.inf, 1)
                         for count, ran in zip(decoded, layers)],
        "flops_saved": [mean_interval(each * count - took, each * count, -np.inf, 1)
                        for count, took in zip(decoded, flops)],
        "rouge_l": [mean_interval(row, None, 0, 1) for row in full],
        "rouge_l_reference": [mean_interval(row, None, 0, 1) for row in real],
        "reference_lost": [mean_interval(real[0] - row, real[0], -np.inf, 1) for row in real],
        "written": [mean_interval(count, decoded[0], 0) for count in decoded],
        "stopped": [mean_interval(count < decoded[0], None, 0, 1) for count in decoded],
        "stopped_reference": [mean_interval(np.where(count < decoded[0], real[0], np.nan), None, 0, 1)
                              for count in decoded],
        "kept_reference": [mean_interval(np.where(count < decoded[0], np.nan, real[0]), None, 0, 1)
                           for count in decoded],
    }  # fmt: skip
    data = {"scores": variable("setting prompt", full, "1", "ROUGE-L with the full model's answer")}
    for name, bounds in found.items():
        for end, values in zip(("", "_low", "_high"), np.array(bounds).T):
            data[name + end] = variable("setting", values, "1", _BOUNDED[name] + end.replace("_", ", "))
    places = {"setting": variable("setting", np.arange(len(answers)), "1", "setting")}
    references = sum(want is not None for want in due)
    return xr.Dataset(data, places, {"prompts": len(given), "references": references})


def _reference(model: Model, case: Case, most: int) -> list[int] | None:
    """Tokens of a reference, as many as an answer may have; None without one."""
    if case.source is None or not case.source.reference or model.tokenizer is None:
        return None
    return model.encode(case.source.reference, start=False)[:most]


def _alike(model: Model, one: list[int], other: list[int], by: By) -> float:
    return rouge_l_tokens(one, other) if by == "tokens" else rouge_l(model.decode(one), model.decode(other))


def _best(data: xr.Dataset, within: float) -> dict[str, int]:
    saved = data["layers_saved"].values
    fits = {"best": data["rouge_l"].values >= 1 - within, "best_reference": data["reference_lost"].values <= within}
    return {name: int(np.where(fit, saved, -np.inf).argmax()) if fit.any() else 0 for name, fit in fits.items()}
