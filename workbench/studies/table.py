"""One run of a study as a row of its table."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.metrics.intervals import spell_interval
from workbench.metrics.sample_size import spell_count
from workbench.studies.fact_table import columns
from workbench.studies.summary import WITHIN


def row(run: dict[str, Any], text: bool) -> dict[str, Any]:
    """The columns of :meth:`workbench.Study.table` from a run's summary.

    Parameters
    ----------
    run : dict
    text : bool
        For showing: a speed-up with its interval in one column, other timings as medians, counts of prompts as words.
    """
    speed, early = run["speedup"], run["stopped_early"]
    cells = {
        "run": run["name"],
        "technique": run["technique"] + (" (simulated)" if run["simulated"] else ""),
        "exact declared": run["exact_declared"],
        **{fact.column: fact.cell(run) for fact in (*columns("text"), *columns("counts"))},
    }
    if text:
        written = "" if np.isnan(run["new_tokens"]) else f"{run['new_tokens']:.0f}"
        cells["new tokens"] = written + (f", stopped early on {early}" if early else "")
    else:
        cells["stopped early [prompts]"] = early
    for key, name, scale in (
        ("tokens_per_second", "measured tokens/s", 1),
        ("speedup", "measured speed-up", 1),
        ("time_to_first_token", "measured time to first token [ms]", 1e3),
    ):
        cells[name] = scale * run[key].median
        if not text:
            cells |= {f"{name}, low": scale * run[key].low, f"{name}, high": scale * run[key].high}
    if text:
        cells["measured speed-up"] = spell_interval(speed)
        cells["measured on [prompts]"] = f"{speed.n} of {speed.of}"
    else:
        cells |= {"measured on [prompts]": speed.n, "of prompts": speed.of, "level of the interval": speed.level}
    for key, name in (("prompts_needed", "without 1"), ("prompts_needed_within", f"of ±{100 * WITHIN:.0f} %")):
        cells[f"prompts for an interval {name}"] = spell_count(run[key]) if text else run[key]
    cells |= {fact.column: fact.cell(run) for fact in columns("quality")}
    cells |= {f"modelled speed-up, {name}": value for name, value in run["modelled"].items()}
    return cells | {"failed": run["failed"] or ""}
