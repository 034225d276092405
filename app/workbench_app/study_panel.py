"""The part of the page that compares the two recipes properly: warmed up, in turns, repeated, on several prompts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

import workbench as wb
from workbench.errors import SettingError
from workbench.settings import spell
from workbench_app import charts, loaded
from workbench_app.background import watched
from workbench_app.compare_tab import CompareTab, begin, end, split
from workbench_app.controls import QUICK
from workbench_app.plain import caught, note, problem, safe
from workbench_app.race import Stop
from workbench_app.request_controls import RequestControls

_KEPT_REPORTS = 20


def render(
    tab: CompareTab, model: gr.Dropdown, dtype: gr.Dropdown, scheme: gr.Textbox, files: Path, shared: dict[str, Any]
) -> None:
    """Make the panel in the layout that is open, and wire it.

    Parameters
    ----------
    tab : CompareTab
        Whose recipes and prompt are compared.
    model, dtype, scheme
        Of the page.
    files : Path
        Where reports are written, the only folder that the page serves.
    shared : dict
        Arguments of every event that calls a model.
    """
    gr.HTML(
        "<h3>Compare properly</h3><p class='note'>The texts above are one run each. This runs the baseline and both "
        "recipes in turns, warmed up and repeated, and measures quality beside cost. From five prompts on a speed-up "
        "has an interval.</p>"
    )
    with gr.Row(elem_classes="bar"):
        more = gr.Slider(0, 12, value=5, step=1, label="further bundled prompts", elem_id="more-prompts", min_width=180)
        repeats = gr.Slider(1, 5, value=2, step=1, label="repeats", elem_id="repeats", min_width=140)
        compare = gr.Button("Compare properly", variant="primary", elem_id="compare", min_width=190, scale=0)
        report = gr.DownloadButton("Save the report", elem_id="report", interactive=False, min_width=180, scale=0)
    progress, table, figures = (
        gr.HTML(elem_id="study-progress"),
        gr.HTML(elem_id="study-table"),
        gr.HTML(elem_id="figures"),
    )
    inputs = [tab.stop, model, dtype, scheme, more, repeats, *tab.request.inputs]
    inputs += [*tab.recipes[0].inputs, *tab.recipes[1].inputs]

    def study(stopper: Stop, *values: Any) -> Iterator[tuple[Any, ...]]:
        problems: list[str] = []
        with caught(problems):
            yield from _study(tab, stopper, files, *values)
        if problems:
            yield problem(problems[0]), gr.skip(), gr.skip(), gr.skip()

    buttons = [compare, tab.cancel]
    started = compare.click(begin, tab.stop, buttons, **QUICK)
    ended = started.then(
        study, inputs, [progress, table, figures, report], show_progress="minimal", show_progress_on=progress, **shared
    )
    ended.then(end, None, buttons, **QUICK)


def _study(
    tab: CompareTab,
    stopper: Stop,
    files: Path,
    name: str,
    kind: str,
    scheme: str,
    more: int,
    repeats: int,
    *values: Any,
) -> Iterator[tuple[Any, ...]]:
    asked, chosen = split(tab, values)
    text, chat, options = RequestControls.read(asked)
    prompts, recipes = prompts_of(text, chat, int(more)), recipes_of(chosen)
    said = note(f"Loading {name} …" if not loaded.MODELS.holds(name, kind) else "Starting …")
    yield said, gr.skip(), gr.skip(), gr.skip()
    model = loaded.MODELS.get(name, kind)
    loaded.encode(model, text, chat)

    def work(report: Any, stop: Any) -> Any:
        return wb.compare(model, prompts, recipes, repeats=int(repeats), progress=report, cancel=stop, **options)

    steps, shown = watched(work, stopper.event), None
    with closing(steps):
        while True:
            try:
                at = next(steps)
            except StopIteration as finished:
                study = finished.value
                break
            if at != shown:
                shown = at
                yield bar(*at), gr.skip(), gr.skip(), gr.skip()
            else:
                yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
    if study.partial and not study.measured:
        yield note("Cancelled before anything was measured."), gr.skip(), gr.skip(), gr.skip()
        return
    yield note("Drawing …"), charts.table(study.table(text=True)), gr.skip(), gr.skip()
    drawn = charts.figures(study.tree, [run["name"] for run in study.runs], scheme or "auto")
    yield outcome(study), gr.skip(), drawn, gr.update(value=str(write(study, files)), interactive=True)


def prompts_of(text: str, chat: bool, more: int) -> list[wb.tasks.Prompt]:
    """The prompt of the page and as many bundled ones, tasks in turn."""
    first = loaded.as_prompt(text, chat)
    others = [prompt for prompt in loaded.examples().values() if prompt.id != first.id]
    return [first, *others[: max(0, more)]]


def recipes_of(chosen: list[list[Any]]) -> dict[str, list[Any]]:
    """The recipes by their specification, the baseline left to the study.

    Raises
    ------
    SettingError
        If there is none but the baseline.
    """
    recipes = {"+".join(spell(each) for each in techniques): techniques for techniques in chosen if techniques}
    if not recipes:
        raise SettingError("Both columns are the baseline: choose a technique in one of them.")
    return recipes


def bar(done: int, total: int, said: str) -> str:
    """How far a study has come."""
    return (
        f'<div class="progress" role="status"><progress max="{total}" value="{done}"></progress> '
        f"<span>{done} of {total}: {safe(said)}</span></div>"
    )


def outcome(study: Any) -> str:
    """What came of a study, failures by their message."""
    failed = "".join(problem(f"{run['name']} failed: {run['failed']}") for run in study.runs if run["failed"])
    prompts = len(study.prompts)
    kind = "Partial: cancelled, and only what was finished is shown" if study.partial else "Finished"
    said = f"{kind}. {len(study.runs)} runs on {prompts} prompt{'s' * (prompts != 1)}."
    return failed + note(said) + "".join(map(note, study.remarks))


def write(study: Any, files: Path) -> Path:
    """Write a study's report under a name that nobody can guess; only the newest reports are kept."""
    folder = files / "reports"
    folder.mkdir(exist_ok=True)
    path = study.save_html(folder / f"report-{secrets.token_hex(8)}.html")
    for old in sorted(folder.glob("report-*.html"), key=lambda file: file.stat().st_mtime)[:-_KEPT_REPORTS]:
        old.unlink(missing_ok=True)
    return path
