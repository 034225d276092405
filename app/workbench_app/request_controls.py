"""The controls that both columns share: prompt, chat format, length and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench_app import loaded
from workbench_app.controls import QUICK


@dataclass
class RequestControls:
    """What is asked of every column alike."""

    prompt: gr.Textbox
    chat: gr.Checkbox
    length: gr.Slider
    sampling: list[gr.components.Component]

    @classmethod
    def render(cls) -> RequestControls:
        """Make the controls in the layout that is open."""
        first = next(iter(loaded.examples().values()))
        first = next((each for each in loaded.examples().values() if each.task == "copy_editing"), first)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                prompt, chat = prompt_box("prompt", first.prompt, first.chat)
            with gr.Column(scale=2, min_width=260):
                length = gr.Slider(
                    1, loaded.MOST_NEW_TOKENS, value=64, step=1, label="max new tokens", elem_id="max-new-tokens"
                )
                with gr.Row():
                    temperature = gr.Slider(
                        0, 2, value=0, step=0.05, label="temperature", info="0 is greedy", min_width=180
                    )
                    seed = gr.Number(value=0, precision=0, minimum=0, maximum=2**31 - 1, label="seed", min_width=180)
                with gr.Row():
                    top_p = gr.Slider(0.01, 1, value=1, step=0.01, label="top-p", min_width=180)
                    top_k = gr.Slider(0, 200, value=0, step=1, label="top-k", info="0 is off", min_width=180)
        return cls(prompt, chat, length, [temperature, top_p, top_k, seed])

    @property
    def inputs(self) -> list[gr.components.Component]:
        """All controls, in the order that :meth:`read` takes their values."""
        return [self.prompt, self.chat, self.length, *self.sampling]

    @staticmethod
    def read(values: Sequence[Any]) -> tuple[str, bool, dict[str, Any]]:
        """Prompt, whether it is a chat message, and the options of :func:`workbench.generate`."""
        prompt, chat, length, temperature, top_p, top_k, seed = values
        options = {
            "max_new_tokens": max(1, min(int(length or 1), loaded.MOST_NEW_TOKENS)),
            "temperature": float(temperature or 0),
            "top_p": float(top_p or 1),
            "top_k": int(top_k or 0),
            "seed": int(seed or 0),
        }
        return prompt or "", bool(chat), options


def prompt_box(name: str, text: str, chat: bool) -> tuple[gr.Textbox, gr.Checkbox]:
    """A prompt with its chat-format box and a list of examples that fills both."""
    choices = [(f"{each.task.replace('_', ' ')}: {' '.join(each.prompt.split())[:90]}", id_)
               for id_, each in loaded.examples().items()]  # fmt: skip
    box = gr.Textbox(
        value=text,
        label="prompt",
        # Said, and checked when it is run: a box with a length of its own would cut what is pasted without a word.
        info=loaded.limits(),
        lines=6,
        max_lines=14,
        autoscroll=False,
        elem_id=name,
        autofocus=True,
    )
    with gr.Row():
        pick = gr.Dropdown(
            choices, value=None, label="take an example", elem_id=f"{name}-example", scale=3, min_width=220
        )
        tick = gr.Checkbox(value=chat, label="chat format", info="as a message to be answered", scale=1, min_width=190)

    def take(chosen: str | None) -> tuple[Any, Any]:
        example = loaded.examples().get(chosen or "")
        return (gr.skip(), gr.skip()) if example is None else (example.prompt, example.chat)

    pick.input(take, pick, [box, tick], trigger_mode="always_last", **QUICK)
    return box, tick
