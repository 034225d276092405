"""The part of the page that compares the two recipes properly: warmed up, in turns, repeated, on several prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.errors import SettingError
from workbench.settings import spell
from workbench_app import loaded
from workbench_app.compare_tab import CompareTab, one_run, settle, split
from workbench_app.controls import QUICK
from workbench_app.plain import note, problem, safe
from workbench_app.progress import progress_line
from workbench_app.request_controls import RequestControls
from workbench_app.runs import Runs, Stop
from workbench_app.worker.recipes import plain


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
    inputs = [tab.runs, model, dtype, scheme, more, repeats, *tab.request.inputs]
    inputs += [*tab.recipes[0].inputs, *tab.recipes[1].inputs]

    def study(own: Runs, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from one_run(
            own,
            lambda stop: _study(tab, stop, files, *values),
            lambda text: (problem(text), gr.skip(), gr.skip(), gr.skip()),
        )

    outputs = [compare, tab.cancel, progress, table, figures, report]
    ended = compare.click(study, inputs, outputs, show_progress="minimal", show_progress_on=progress, **shared)
    ended.then(settle, tab.runs, [compare, tab.cancel], **QUICK)


def _study(
    tab: CompareTab,
    stop: Stop,
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
    loaded.as_prompt(text, chat)
    recipes = [[plain(each) for each in techniques] for techniques in recipes_of(chosen).values()]
    yield note("Starting …"), gr.skip(), gr.skip(), gr.skip()
    arguments = {
        "model": name, "dtype": kind, "prompt": text, "chat": chat, "more": int(more), "repeats": int(repeats),
        "recipes": recipes, "options": options, "scheme": scheme or "auto", "files": str(files),
    }  # fmt: skip
    over = False
    with closing(tab.worker.run("study", arguments, stop)) as events:
        for event in events:
            if event["kind"] == "progress":
                yield bar(event["done"], event["total"], event["message"]), gr.skip(), gr.skip(), gr.skip()
            elif event["kind"] == "table":
                yield gr.skip(), event["html"], gr.skip(), gr.skip()
            elif event["kind"] == "study":
                over = True
                save = gr.update(value=event["report"], interactive=True)
                yield event["html"], gr.skip(), event["figures"], save
            else:
                line = progress_line(event, name)
                yield gr.skip() if line is None else line, gr.skip(), gr.skip(), gr.skip()
    if not over:
        yield note("Cancelled before anything was measured."), gr.skip(), gr.skip(), gr.skip()


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


def bar(done: int, total: int, message: str) -> str:
    """How far a study has come."""
    return (
        f'<div class="progress" role="status"><progress max="{total}" value="{done}"></progress> '
        f"<span>{done} of {total}: {safe(message)}</span></div>"
    )
