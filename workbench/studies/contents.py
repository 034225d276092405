"""What stands behind the names in a recipe, so that a result is kept for as long as it is the same and no longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import workbench
from workbench import artifacts
from workbench.errors import WorkbenchError
from workbench.files import is_there
from workbench.models import Model, fingerprint
from workbench.models.built import BUILT
from workbench.models.bundled import BUNDLED
from workbench.models.load import folder_and_layers
from workbench.models.second_model import is_cut, load_beside
from workbench.registry import TECHNIQUES
from workbench.settings import Outside, parse, references
from workbench.studies import code


def contents(model: Model, techniques: Sequence[Any]) -> dict[str, Any]:
    """SHA-256 of what decides a run beside its settings.

    Returns
    -------
    dict
        ``model``: see :func:`workbench.models.fingerprint.of_model`; ``techniques``: for each the content of the
        settings that name something (a draft model, trained weights, a corpus), by setting; ``code``: for each that of
        its own module, see :func:`workbench.studies.code.of_class`; ``workbench``: its version, whose code the rest is.
    """
    return {
        "model": fingerprint.of_model(model),
        "techniques": [_behind(model, technique) for technique in techniques],
        "code": [code.of_class(type(technique)) for technique in techniques],
        "workbench": workbench.__version__,
    }


def changed(before: Any, now: dict[str, Any], model: Model, techniques: Sequence[Any]) -> list[str]:
    """Names of what differs between two :func:`contents` of one recipe."""
    if not isinstance(before, dict):
        return ["what its names stand for"]
    differing = [model.name] if before.get("model") != now["model"] else []
    for place, (technique, new) in enumerate(zip(techniques, now["techniques"])):
        old = _at(before.get("techniques"), place)
        old = old if isinstance(old, dict) else {}
        differing += [f"{technique.name}'s {setting}" for setting, behind in new.items() if old.get(setting) != behind]
        differing += [f"{technique.name}'s code"] * (_at(before.get("code"), place) != now["code"][place])
    return differing + ["the workbench's version"] * (before.get("workbench") != now["workbench"])


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _behind(model: Model, technique: Any) -> dict[str, str]:
    behind = {setting: _content(model, what, value) for setting, what, value in references(technique)}
    return {setting: content for setting, content in behind.items() if content}


def _content(model: Model, what: Outside, value: str) -> str:
    """Content behind a name; empty where there is none, or it is the main model's own."""
    try:
        if what == "technique" and value:
            return str([_behind(model, each) for each in parse(value, TECHNIQUES)])
        if what == "text" and value:
            return fingerprint.of_path(value)
        if value in ("bundled", "auto", "distilled"):
            return fingerprint.of_path(artifacts.folder())
        if what in ("part", "lens") and value not in ("untrained", "logit"):
            return fingerprint.of_path(value)
        if what == "model" and not is_cut(value) and value != "none":
            return _of_name(model, value)
    except (OSError, ValueError, RuntimeError, WorkbenchError):
        return "missing"  # the run says so
    return ""


def _of_name(model: Model, name: str) -> str:
    base, _ = folder_and_layers(name)
    if name.endswith(".safetensors") or is_there(base):
        return fingerprint.of_path(base)
    whole = name.partition("/")[0]
    if whole in BUILT:
        return BUILT[whole].checksum
    bundled = BUNDLED.get(whole)
    # A name on the hub is a branch, which moves.
    return bundled.sha256 if bundled else fingerprint.of_model(load_beside(name, model.dtype, str(model.device)))
