"""The tab where two recipes run side by side on one prompt, beside the baseline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gradio as gr

from workbench.errors import WorkbenchError
from workbench_app import loaded, tokens_view
from workbench_app.controls import QUICK, RecipeControls
from workbench_app.plain import caught, note, problem
from workbench_app.progress import progress_line
from workbench_app.race import Column, Race
from workbench_app.request_controls import RequestControls
from workbench_app.runs import Runs, Stop
from workbench_app.worker import Worker
from workbench_app.worker.columns import add, fail
from workbench_app.worker.recipes import plain

SIDES = ("left", "right")
FIRST_RIGHT = "prompt_lookup"  # what is chosen when the page opens, if it is registered
_EVERY = 0.1  # s between two pictures of the texts
_COLOUR = "(name) => { document.documentElement.dataset.tokenColour = name; return []; }"


@dataclass
class CompareTab:
    """The parts of the tab that others need."""

    request: RequestControls
    recipes: list[RecipeControls]
    runs: gr.State
    worker: Worker
    run: gr.Button
    cancel: gr.Button
    trouble: gr.HTML


def render(
    model: gr.Dropdown, dtype: gr.Dropdown, status: gr.HTML, worker: Worker, shared: dict[str, Any]
) -> CompareTab:
    """Make the tab in the layout that is open, and wire its run.

    Parameters
    ----------
    model, dtype, status
        Of the page.
    worker : Worker
        Where it runs.
    shared : dict
        Arguments of every event that calls a model.
    """
    runs = gr.State(Runs())
    request, recipes = RequestControls.render(), []
    with gr.Row(elem_classes="sides"):
        for side in SIDES:
            with gr.Column(min_width=320, elem_id=side, elem_classes="side"):
                gr.HTML(f"<h3>{side.capitalize()}</h3>")
                recipes.append(RecipeControls.render(side, FIRST_RIGHT if side == "right" else ""))
    with gr.Row(elem_classes="bar"):
        run = gr.Button("Run", variant="primary", elem_id="run", min_width=140, scale=0)
        cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", interactive=False, min_width=110, scale=0)
        colour = gr.Radio(
            list(tokens_view.COLOURS.items()), value="time", label="colour tokens by", elem_id="colour",
            container=False, min_width=420, scale=1,
        )  # fmt: skip
    trouble = gr.HTML(elem_id="trouble")
    with gr.Row():
        views = [gr.HTML(elem_id=f"{side}-view") for side in SIDES]
    colour.change(None, colour, None, js=_COLOUR, api_visibility="private")
    tab = CompareTab(request, recipes, runs, worker, run, cancel, trouble)
    inputs = [runs, model, dtype, *request.inputs, *recipes[0].inputs, *recipes[1].inputs]

    def stream(own: Runs, name: str, kind: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from one_run(
            own,
            lambda stop: _stream(tab, worker, stop, name, kind, values),
            lambda text: (gr.skip(), problem(text), gr.skip(), gr.skip()),
        )

    outputs = [run, cancel, status, trouble, *views]
    ended = run.click(stream, inputs, outputs, show_progress="minimal", show_progress_on=trouble, **shared)
    ended.then(settle, runs, [run, cancel], **QUICK)
    cancel.click(halt, runs, cancel, **QUICK)
    return tab


def settle(runs: Runs) -> tuple[Any, Any]:
    """Let Run be pressed again, and Cancel where another run of this visitor is left to be cancelled."""
    return gr.update(interactive=True), gr.update(interactive=runs.cancellable)


def halt(runs: Runs) -> Any:
    """Wish that what runs or waits now should end; what is started later is not meant."""
    runs.cancel()
    return gr.update(interactive=False)


def one_run(
    runs: Runs, work: Callable[[Stop], Iterator[tuple[Any, ...]]], failed: Callable[[str], Any]
) -> Iterator[Any]:
    """One run of a visitor from the click to its end: its own button is off and Cancel on while it yields.

    Parameters
    ----------
    runs : Runs
        Of the visitor.
    work : callable
        What to show, given the wish to end.
    failed : callable
        What to show of an error's message.

    Yields
    ------
    tuple
        Values for the run's button, for Cancel, and what ``work`` or ``failed`` gave.
    """
    stop, problems = runs.begin(), []
    on = gr.update(interactive=False), gr.update(interactive=True)
    try:
        with caught(problems), closing(work(stop)) as shown:
            for values in shown:
                yield *on, *values
                on = gr.skip(), gr.skip()
        if problems:
            yield gr.skip(), gr.skip(), *failed(problems[0])
    finally:
        runs.end(stop)


def _stream(
    tab: CompareTab, worker: Worker, stop: Stop, name: str, kind: str, values: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    yield gr.skip(), "", "", ""
    asked, chosen = split(tab, values)
    prompt, chat, options = RequestControls.read(asked)
    loaded.as_prompt(prompt, chat)
    race = Race(None, [], columns_of(chosen), options, stop)
    shown, drawn, lost = sides_of(race, chosen), 0.0, None
    recipes = [[plain(each) for each in column.techniques] for column in race.columns]
    arguments = {
        "model": name, "dtype": kind, "prompt": prompt, "chat": chat, "recipes": recipes, "options": options
    }  # fmt: skip
    try:
        with closing(worker.run("race", arguments, stop)) as events:
            for event in events:
                if event["kind"] == "model":
                    race.model = SimpleNamespace(layers=event["layers"], dtype=event["dtype"])
                    yield note(f"{event['about']} · cache: {event['cache']}"), "", "", ""
                elif event["kind"] == "columns":
                    add(race.columns, event["columns"])
                    if time.monotonic() - drawn >= _EVERY:
                        yield gr.skip(), "", *pictures(race, shown)
                        drawn = time.monotonic()
                else:
                    line = progress_line(event, name)
                    yield gr.skip(), gr.skip() if line is None else line, gr.skip(), gr.skip()
    except WorkbenchError as error:
        fail(race.columns, str(error))
        lost = error
    if race.model is not None:
        # What was written stays, also where the worker was lost in the middle.
        yield gr.skip(), "", *pictures(race, shown)
    elif lost is None:
        yield gr.skip(), note("Cancelled before it began."), gr.skip(), gr.skip()
    if lost is not None:
        raise lost


def split(tab: CompareTab, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[list[Any]]]:
    """Values of the shared controls, and the recipe of each column."""
    first = len(tab.request.inputs)
    second = first + len(tab.recipes[0].inputs)
    recipes = [tab.recipes[0].recipe(values[first:second]), tab.recipes[1].recipe(values[second:])]
    return values[:first], recipes


def columns_of(chosen: list[list[Any]]) -> list[Column]:
    """The baseline, then every chosen recipe that is not empty."""
    return [Column([]), *(Column(techniques) for techniques in chosen if techniques)]


def sides_of(race: Race, chosen: list[list[Any]]) -> list[Column]:
    """The column that each side shows; an empty recipe is the baseline itself."""
    rest = iter(race.columns[1:])
    return [next(rest) if techniques else race.baseline for techniques in chosen]


def pictures(race: Race, shown: list[Column]) -> list[str]:
    """HTML of both sides."""
    return [tokens_view.column_html(column, race, side.capitalize()) for column, side in zip(shown, SIDES, strict=True)]
