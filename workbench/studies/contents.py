"""What stands behind the names in a recipe, so that a result is kept for as long as it is the same and no longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import workbench
from workbench import artifacts
from workbench.errors import WorkbenchError
from workbench.files import exists
from workbench.models import Model, fingerprint
from workbench.models.bundled import BUNDLED
from workbench.models.companion import is_cut, local_folder, second
from workbench.registry import TECHNIQUES
from workbench.settings import Outside, parse, references


def contents(model: Model, techniques: Sequence[Any]) -> dict[str, Any]:
    """SHA-256 of what decides a run beside its settings.

    Returns
    -------
    dict
        ``model``: see :func:`workbench.models.fingerprint.of_model`; ``techniques``: for each the content of the
        settings that name something (a draft model, trained weights, a corpus), by setting; ``workbench``: its version,
        whose techniques these were.
    """
    return {
        "model": fingerprint.of_model(model),
        "techniques": [_behind(model, technique) for technique in techniques],
        "workbench": workbench.__version__,
    }


def changed(before: Any, now: dict[str, Any], model: Model, techniques: Sequence[Any]) -> list[str]:
    """Names of what differs between two :func:`contents` of one recipe."""
    if not isinstance(before, dict):
        return ["what its names stand for"]
    found = [model.name] if before.get("model") != now["model"] else []
    earlier = before.get("techniques")
    for place, (technique, new) in enumerate(zip(techniques, now["techniques"])):
        old = earlier[place] if isinstance(earlier, list) and place < len(earlier) else None
        old = old if isinstance(old, dict) else {}
        found += [f"{technique.name}'s {setting}" for setting, content in new.items() if old.get(setting) != content]
    return found + ["the workbench's version"] * (before.get("workbench") != now["workbench"])


def _behind(model: Model, technique: Any) -> dict[str, str]:
    found = {setting: _content(model, what, value) for setting, what, value in references(technique)}
    return {setting: content for setting, content in found.items() if content}


def _content(model: Model, what: Outside, value: str) -> str:
    """Content behind a name; empty where there is none, or it is the main model's own."""
    try:
        if what == "technique" and value:
            return str([_behind(model, each) for each in parse(value, TECHNIQUES)])
        if what == "text" and value:
            return fingerprint.of_path(value)
        if value in ("bundled", "auto", "distilled"):
            return fingerprint.of_path(artifacts.folder())
        if what == "part" and value != "untrained":
            return fingerprint.of_path(value)
        if what == "model" and not is_cut(value) and value != "none":
            return _of_name(model, value)
    except (OSError, WorkbenchError):
        return "missing"  # the run says so
    return ""


def _of_name(model: Model, name: str) -> str:
    base = local_folder(name)
    if name.endswith(".safetensors") or exists(base):
        return fingerprint.of_path(base)
    bundled = BUNDLED.get(name.partition("/")[0])
    # A name on the hub is a branch, which moves.
    return bundled.sha256 if bundled else fingerprint.of_model(second(name, model.dtype, str(model.device)))
