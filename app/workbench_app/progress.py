"""What the page says of a job that has nothing to show yet."""

from __future__ import annotations

from typing import Any

from workbench_app.plain import note

_PHASES = {
    "starting": "Starting the model's process …",
    "reading": "Reading the prompt …",
    "observing": "Observing …",
    "drawing": "Drawing …",
}


def progress_line(event: dict[str, Any], model: str) -> str | None:
    """A line for an event of :meth:`workbench_app.worker.Worker.run`; None where it changes nothing."""
    if event["kind"] == "waiting":
        ahead = event["ahead"]
        return note(f"Waiting: {ahead} {'run is' if ahead == 1 else 'runs are'} before this one.")
    if event["kind"] == "phase":
        name = event["name"]
        return note(f"Loading {model} …" if name == "loading" else _PHASES.get(name, ""))
    return None
