"""The tab where probes ride one forward pass over a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

import workbench.probes  # noqa: F401 (fills the registry)
from workbench.errors import SettingError
from workbench.registry import PROBES
from workbench_app import loaded
from workbench_app.compare_tab import halt, one_run, settle
from workbench_app.controls import QUICK, Settings
from workbench_app.plain import note, problem, words
from workbench_app.progress import progress_line
from workbench_app.request_controls import prompt_box
from workbench_app.runs import Runs, Stop
from workbench_app.worker import Worker
from workbench_app.worker.recipes import plain

FIRST_PROMPT = "The capital of France is Paris, and the capital of Italy is"
FIRST_PROBE = "logit_lens"  # what is ticked when the page opens, if it is registered


def render(
    model: gr.Dropdown,
    dtype: gr.Dropdown,
    scheme: gr.Textbox,
    status: gr.HTML,
    worker: Worker,
    shared: dict[str, Any],
) -> None:
    """Make the tab in the layout that is open, and wire it; arguments as in `compare_tab.render`."""
    runs, boxes, settings = gr.State(Runs()), [], []
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt, chat = prompt_box("observe-prompt", FIRST_PROMPT, False)
        with gr.Column(scale=3, min_width=360, elem_id="probes"):
            first = FIRST_PROBE if FIRST_PROBE in PROBES else next(iter(PROBES), "")
            for name, probe in PROBES.items():
                box, own = _probe(probe, name == first)
                boxes.append(box)
                settings.append(own)
    with gr.Row(elem_classes="bar"):
        button = gr.Button("Observe", variant="primary", elem_id="observe", min_width=140, scale=0)
        cancel = gr.Button(
            "Cancel", variant="stop", elem_id="observe-cancel", interactive=False, min_width=110, scale=0
        )  # fmt: skip
    trouble, figures = gr.HTML(elem_id="observe-trouble"), gr.HTML(elem_id="observe-figures")
    controls = [component for own in settings for component in own.components]

    def observe(own: Runs, name: str, kind: str, ink: str, text: str, is_chat: bool, *values: Any) -> Iterator[Any]:
        def work(stop: Stop) -> Iterator[tuple[Any, ...]]:
            probes = chosen(settings, values[: len(boxes)], values[len(boxes) :])
            loaded.as_prompt(text, is_chat)
            arguments = {
                "model": name, "dtype": kind, "prompt": text, "chat": is_chat,
                "probes": [plain(each) for each in probes], "scheme": ink or "auto",
            }  # fmt: skip
            yield from _observe(worker, stop, name, arguments)

        yield from one_run(own, work, lambda text: (gr.skip(), problem(text), gr.skip()))

    inputs = [runs, model, dtype, scheme, prompt, chat, *boxes, *controls]
    outputs = [button, cancel, status, trouble, figures]
    ended = button.click(observe, inputs, outputs, show_progress="minimal", show_progress_on=trouble, **shared)
    ended.then(settle, runs, [button, cancel], **QUICK)
    cancel.click(halt, runs, cancel, **QUICK)


def _observe(worker: Worker, stop: Stop, name: str, arguments: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    yield gr.skip(), note("Starting …"), gr.skip()
    drawn = False
    with closing(worker.run("observe", arguments, stop)) as events:
        for event in events:
            if event["kind"] == "figures":
                drawn = True
                yield gr.skip(), "", event["html"]
            elif event["kind"] == "model":
                yield note(event["about"]), gr.skip(), gr.skip()
            else:
                line = progress_line(event, name)
                yield gr.skip(), gr.skip() if line is None else line, gr.skip()
    if not drawn:
        yield gr.skip(), note("Cancelled before there was anything to draw."), gr.skip()


def _probe(probe: type, on: bool) -> tuple[gr.Checkbox, Settings]:
    with gr.Group():
        box = gr.Checkbox(value=on, label=words(probe.name), info=probe.paper, elem_id=f"probe-{probe.name}")
        with gr.Group(visible=on) as group:
            own = Settings.render(probe)
    box.change(_show, box, group, trigger_mode="always_last", **QUICK)
    return box, own


def _show(ticked: bool) -> Any:
    return gr.update(visible=bool(ticked))


def chosen(settings: list[Settings], ticks: tuple[Any, ...], values: tuple[Any, ...]) -> list[Any]:
    """Probes that are ticked, with their settings.

    Raises
    ------
    SettingError
        If none is, or a setting is not allowed.
    """
    probes, place = [], 0
    for own, tick in zip(settings, ticks, strict=True):
        count = len(own.components)
        if tick:
            probes.append(own.build(values[place : place + count]))
        place += count
    if not probes:
        raise SettingError("No probe is chosen: tick at least one.")
    return probes
