"""Studies as the page has them: which prompts, what is said of the outcome, and the report to save."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import workbench as wb
from workbench_app import loaded
from workbench_app.plain import note, problem

KEPT_REPORTS = 20


def prompts_of(text: str, chat: bool, more: int) -> list[wb.tasks.Prompt]:
    """The prompt of the page and as many bundled ones, tasks in turn."""
    first = loaded.as_prompt(text, chat)
    others = [prompt for prompt in loaded.examples().values() if prompt.id != first.id]
    return [first, *others[: max(0, more)]]


def outcome(study: Any) -> str:
    """What came of a study, failures by their message."""
    failed = "".join(problem(f"{run['name']} failed: {run['failed']}") for run in study.runs if run["failed"])
    prompts = len(study.prompts)
    kind = "Partial: cancelled, and only what was finished is shown" if study.partial else "Finished"
    summary = f"{kind}. {len(study.runs)} runs on {prompts} prompt{'s' * (prompts != 1)}."
    return failed + note(summary) + "".join(map(note, study.remarks))


def write(study: Any, files: Path) -> Path:
    """Write a study's report under a name that nobody can guess; only the newest reports are kept."""
    folder = files / "reports"
    folder.mkdir(exist_ok=True)
    path = study.save_html(folder / f"report-{secrets.token_hex(8)}.html")
    for old in sorted(folder.glob("report-*.html"), key=lambda file: file.stat().st_mtime)[:-KEPT_REPORTS]:
        old.unlink(missing_ok=True)
    return path
