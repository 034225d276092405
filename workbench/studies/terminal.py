"""A study as lines of plain text, narrow enough for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.metrics.intervals import Interval

if TYPE_CHECKING:
    from workbench.studies.study import Study

WIDTH = 120
_GAP = "  "

# column: two lines of heading, and the text of a run
_COLUMNS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("same", "text", lambda run: _share(run["equal_to_baseline"])),
    ("parts", "at", lambda run: "" if run["first_divergence"] == -1 else _number(run["first_divergence"], "{:.0f}")),
    ("kept", "/fwd", lambda run: _number(run["accepted_per_forward"], "{:.2f}")),
    ("layers", "/token", lambda run: _number(run["layers_per_token"], "{:.1f}")),
    ("keys", "kept", lambda run: _number(run["keys_kept"], "{:.0f}")),
    ("cache", "MB", lambda run: _number(run["cache_bytes_peak"] / 1e6, "{:.3g}")),
    ("tokens/s", "measured", lambda run: _number(run["tokens_per_second"].median, "{:.3g}")),
    ("speed-up", "measured, 95 %", lambda run: _interval(run["speedup"])),
    ("TTFT", "ms", lambda run: _number(1e3 * run["time_to_first_token"].median, "{:.0f}")),
    ("KL", "nats", lambda run: _number(run["kl"], "{:.2g}")),
    ("top-1", "", lambda run: _number(run["top1_agreement"], "{:.2f}")),
    ("ROUGE", "-L", lambda run: _number(run["rouge_l"], "{:.2f}")),
)


def lines(study: Study) -> list[str]:
    """The table of a study in at most :data:`WIDTH` columns, and below it what failed or flipped."""
    runs = study.summary
    cells = [[heading for heading, _, _ in _COLUMNS], [second for _, second, _ in _COLUMNS]]
    cells += [[text(run) for _, _, text in _COLUMNS] for run in runs]
    widths = [max(map(len, column)) for column in zip(*cells)]
    room = WIDTH - sum(widths) - len(_GAP) * len(widths)
    name_width = min(room, max(len("run"), *(len(_printable(run["name"])) for run in runs)))
    names = ["run", "", *(_shorten(_printable(run["name"]), name_width) for run in runs)]
    made = [
        _GAP.join([name.ljust(name_width), *(cell.rjust(width) for cell, width in zip(row, widths))]).rstrip()
        for name, row in zip(names, cells)
    ]
    made.insert(2, "-" * max(map(len, made)))
    for run in runs:
        if run["failed"] is not None:
            made.append(_shorten(f"{_printable(run['name'])} failed: {_printable(run['failed'])}", WIDTH))
        if run["flips"]:
            made.append(
                f"{_printable(run['name'])}: {run['flips']:.0f} near ties flipped in half precision, "
                f"margin at most {run['flip_margin']:.3g} logits"
            )
    made.append(f"cache: {study.question}")
    if study.partial:
        made.append("partial: it was stopped before its end")
    return made


def _printable(text: str) -> str:
    """Without control characters, which could move the cursor or colour the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else "yes" if value == 1 else "no" if value == 0 else f"{100 * value:.0f} %"


def _interval(value: Interval) -> str:
    if math.isnan(value.median):
        return "-"
    return f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]"
