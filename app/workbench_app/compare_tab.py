"""The tab where two recipes run side by side on one prompt, beside the baseline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

import workbench as wb
from workbench_app import loaded, tokens_view
from workbench_app.controls import QUICK, RecipeControls
from workbench_app.plain import caught, note, problem
from workbench_app.race import Column, Race, Stop
from workbench_app.request_controls import RequestControls

SIDES = ("left", "right")
FIRST_RIGHT = "prompt_lookup"  # what is chosen when the page opens, if it is registered
_EVERY = 0.1  # s between two pictures of the texts
_COLOUR = "(name) => { document.documentElement.dataset.tokenColour = name; return []; }"


@dataclass
class CompareTab:
    """The parts of the tab that others need."""

    request: RequestControls
    recipes: list[RecipeControls]
    stop: gr.State
    run: gr.Button
    cancel: gr.Button
    trouble: gr.HTML


def render(model: gr.Dropdown, dtype: gr.Dropdown, status: gr.HTML, shared: dict[str, Any]) -> CompareTab:
    """Make the tab in the layout that is open, and wire its run.

    Parameters
    ----------
    model, dtype, status
        Of the page.
    shared : dict
        Arguments of every event that calls a model.
    """
    stop = gr.State(Stop())
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
    tab = CompareTab(request, recipes, stop, run, cancel, trouble)
    inputs = [stop, model, dtype, *request.inputs, *recipes[0].inputs, *recipes[1].inputs]

    def stream(stopper: Stop, name: str, kind: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        problems: list[str] = []
        with caught(problems):
            yield from _stream(tab, stopper, name, kind, values)
        if problems:
            yield gr.skip(), problem(problems[0]), gr.skip(), gr.skip()

    outputs = [status, trouble, *views]
    started = run.click(begin, stop, [run, cancel], **QUICK)
    ended = started.then(stream, inputs, outputs, show_progress="minimal", show_progress_on=trouble, **shared)
    ended.then(end, None, [run, cancel], **QUICK)
    cancel.click(halt, stop, cancel, **QUICK)
    return tab


def begin(stopper: Stop) -> tuple[Any, Any]:
    """Forget an earlier wish to stop, and let only Cancel be pressed."""
    stopper.event.clear()
    return gr.update(interactive=False), gr.update(interactive=True)


def end() -> tuple[Any, Any]:
    """Let Run be pressed again."""
    return gr.update(interactive=True), gr.update(interactive=False)


def halt(stopper: Stop) -> Any:
    """Wish that the run at hand, or the one that still waits its turn, should end."""
    stopper.event.set()
    return gr.update(interactive=False)


def _stream(tab: CompareTab, stopper: Stop, name: str, kind: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    asked, chosen = split(tab, values)
    prompt, chat, options = RequestControls.read(asked)
    loaded.as_prompt(prompt, chat)
    if not loaded.MODELS.holds(name, kind):
        yield note(f"Loading {name} …"), "", "", ""
    model = loaded.MODELS.get(name, kind)
    ids, context = loaded.parts(model, prompt, chat)
    yield note(f"{loaded.about(model)} · cache: {wb.tasks.question_view(context)}"), "", "", ""
    race = Race(model, ids, columns_of(chosen), {**options, "context_tokens": context}, stopper.event)
    shown = sides_of(race, chosen)
    drawn = 0.0
    with closing(race.turns()) as turns:
        for _ in turns:
            if time.monotonic() - drawn >= _EVERY:
                yield gr.skip(), "", *pictures(race, shown)
                drawn = time.monotonic()
    yield gr.skip(), "", *pictures(race, shown)


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
