"""What every benchmark needs: refuse on red, pair the timings, write the table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench.metrics import Interval, median_interval
from workbench.metrics.intervals import spell_interval

ROOT = Path(__file__).resolve().parents[2]


def passing(*tests: str) -> None:
    """Run the tests of what is timed; stop here if one fails."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *tests], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"no report: {' '.join(tests)} failed")


def ratio(baseline: Sequence[float], other: Sequence[float]) -> str:
    """Median of ``baseline / other`` over paired rounds, with its interval from five rounds on."""
    return spelled(median_interval(np.divide(baseline, other)[:, None]))


def spelled(found: Interval) -> str:
    """A median with its interval, and what it comes from where something is missing."""
    return spell_interval(found) + (f" (n {found.n})" if 0 < found.n < found.of else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(name: str, note: str, text: str) -> None:
    """Print a report and keep it under ``reports/``, or where ``WORKBENCH_REPORTS`` says."""
    folder = Path(os.environ.get("WORKBENCH_REPORTS", ROOT / "reports"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"# {name}\n\n{note}\n\n{text}\n", "utf-8")
    print(f"\n{note}\n\n{text}")
