"""Two recipes beside the baseline on one prompt, in a notebook."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets
from IPython.display import display

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.widgets.recipe import RecipePicker


def side_by_side(
    model: Any, prompt: str = "", max_new_tokens: int = 48, left: str = "prompt_lookup", right: str = "snap_kv"
) -> SideBySide:
    """A panel with a prompt, two recipes, a run and a stop button, and what came of it.

    Parameters
    ----------
    model : Model
    prompt : str
    max_new_tokens : int
    left, right : str
        Techniques chosen at the start.
    """
    return SideBySide(model, prompt, max_new_tokens, left, right)


class SideBySide:
    """See :func:`side_by_side`.

    Attributes
    ----------
    study : Study or None
        Of the last run.
    panel : ipywidgets.Widget
    """

    def __init__(self, model: Any, prompt: str, max_new_tokens: int, left: str, right: str) -> None:
        self._model, self.study, self._cancel = model, None, threading.Event()
        self._prompt = ipywidgets.Textarea(prompt, description="prompt", layout={"width": "100%", "height": "90px"})
        self._new = ipywidgets.BoundedIntText(max_new_tokens, min=1, max=1024, description="new tokens")
        self.left, self.right = RecipePicker("left", left), RecipePicker("right", right)
        self._run = ipywidgets.Button(description="Run", button_style="primary")
        self._stop = ipywidgets.Button(description="Stop", disabled=True)
        self._bar = ipywidgets.IntProgress(layout={"width": "100%"})
        self._message = ipywidgets.Label()
        self._output = ipywidgets.Output()
        self._run.on_click(lambda _: threading.Thread(target=self.run, daemon=True).start())
        self._stop.on_click(lambda _: self._cancel.set())
        self.panel = ipywidgets.VBox(
            [
                self._prompt,
                ipywidgets.HBox([self.left.panel, self.right.panel]),
                ipywidgets.HBox([self._new, self._run, self._stop]),
                self._bar,
                self._message,
                self._output,
            ]
        )

    def _ipython_display_(self) -> None:
        display(self.panel)

    def run(self) -> None:
        """Compare both recipes with the baseline and show table and figures; an error is shown as its message."""
        self._cancel.clear()
        self._run.disabled, self._stop.disabled, self._message.value = True, False, ""
        try:
            recipes = {"left": self.left.recipe(), "right": self.right.recipe()}
            self.study = wb.compare(
                self._model,
                [self._prompt.value],
                {side: techniques for side, techniques in recipes.items() if techniques},
                max_new_tokens=self._new.value,
                progress=self._progress,
                cancel=self._cancel,
            )
            self._show()
        except WorkbenchError as error:
            self._message.value = str(error)
        finally:
            self._run.disabled, self._stop.disabled = False, True

    def _progress(self, done: int, total: int, message: str) -> None:
        self._bar.max, self._bar.value, self._message.value = total, done, message

    def _show(self) -> None:
        self._message.value = "stopped: what was finished is shown" if self.study.partial else ""
        shown = [self.study, wb.figures.show(wb.figures.quality_speed(self.study))]
        self._output.clear_output(wait=True)
        for value in shown:
            self._output.append_display_data(value)
