"""How often the host waits for an accelerator in a decode step, counted on the stand-in; a file per technique ships.

A step cannot be faster than its waits allow: until the host has read a number it gives the device nothing more to do.
The counts are those of a greedy run of a tiny model, after its prefill, and of torch's own way where a device has a
Triton kernel; they say how a technique is written, not how fast it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from workbench.engine.generate import generate
from workbench.errors import SettingError, TraceError
from workbench.files import write_atomically
from workbench.models import Model
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import spell
from workbench.standin import standin
from workbench.studies.compatibility_trial import NEW, Trial, example

FOLDER = "synchronisations"
_DRAFTING = {"draft_length", "accept"}
_PARTNER = "draft_model"  # of techniques that do nothing but to drafts


@dataclass(frozen=True)
class Waits:
    """What passed between host and device in the steps of a run after its prefill.

    Attributes
    ----------
    recipe : str
        Its techniques and their settings; empty for none.
    steps : int
        Decode steps; with a drafter each is a verification.
    waits, uploads : int
        Sums over them of what :class:`workbench.standin.Counts` counts.
    reason : str
        Why there was no run, if there was none.
    """

    recipe: str
    steps: int = 0
    waits: int = 0
    uploads: int = 0
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """For a list of techniques: means over steps, or the reason why there are none."""
        if not self.steps:
            return {"recipe": self.recipe, "reason": self.reason}
        means = {"waits_per_step": self.waits / self.steps, "uploads_per_step": self.uploads / self.steps}
        return {"recipe": self.recipe, **{name: round(mean, 2) for name, mean in means.items()}}


def walk(model: Model, techniques: Sequence[Any], prompt: Sequence[int]) -> tuple[list[int], Waits]:
    """The greedy text of a recipe on the stand-in, and its waits.

    Parameters
    ----------
    model : Model
        On the host; it is copied to the stand-in.
    techniques : sequence of Technique
    prompt : sequence of int

    Raises
    ------
    SettingError
        If a technique does not fit the model.
    """
    with standin() as device:
        there = model.variant(device="cuda")
        tokens, steps = [], 0
        for index, step in enumerate(generate(there, prompt, techniques, max_new_tokens=NEW, stop_tokens=())):
            tokens += step.tokens
            if not index:
                device.counts.reset()
            steps = index
        counts = device.counts
    return tokens, Waits("+".join(map(spell, techniques)), steps, waits=counts.synchronisations, uploads=counts.uploads)


def recipe(name: str) -> list[Any]:
    """What is counted of a technique: its first example, and beside one that only acts on drafts a drafter."""
    slots = set(TECHNIQUES[name].slots)
    partner = [example(_PARTNER)] if slots & _DRAFTING and "draft" not in slots else []
    technique = example(name)
    if hasattr(technique, "at_once"):
        # A thread that is told to end has read more or less by then; without one the same is done every time.
        technique = dataclasses.replace(technique, at_once=False)
    return [technique, *partner]


def count(name: str) -> Waits:
    """The waits of a technique on the tiny model that the matrix of techniques is made on."""
    trial, techniques = Trial(tiny("llama")), recipe(name)
    try:
        return walk(trial.model, techniques, trial.prompt)[1]
    except SettingError as error:
        return Waits("+".join(map(spell, techniques)), reason=str(error))


def refresh(folder: str | Path, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Waits]:
    """Count all registered techniques anew, and write a file for each; files of others go."""
    import workbench.techniques  # noqa: F401  fills the registry

    folder, counted = Path(folder), {}
    for place, name in enumerate(sorted(TECHNIQUES)):
        if progress is not None:
            progress(place, len(TECHNIQUES), name)
        counted[name] = count(name)
        write_atomically(folder / f"{name}.json", json.dumps(asdict(counted[name]), indent=0) + "\n")
    for file in folder.glob("*.json"):
        if file.stem not in counted:
            file.unlink()
    return counted


def stored(folder: Path | Traversable | None = None) -> dict[str, Waits]:
    """Name -> waits, as a folder has them; that of the package if it is left out.

    Raises
    ------
    TraceError
        If a file is damaged.
    """
    place = files("workbench_data").joinpath(FOLDER) if folder is None else folder
    known = {}
    for file in place.iterdir() if place.is_dir() else ():
        if file.name.endswith(".json") and not file.name.startswith("."):
            try:
                known[file.name.removesuffix(".json")] = Waits(**json.loads(file.read_text("utf-8")))
            except (ValueError, TypeError) as error:
                raise TraceError(f"{file.name} is no file of synchronisations: {error}") from error
    return known
