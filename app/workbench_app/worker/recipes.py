"""Techniques and probes on their way to the worker: name, settings, and the file of one that is not the library's."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from workbench.errors import SettingError, WorkbenchError
from workbench.settings import build

_LIBRARY = ("workbench.techniques.", "workbench.probes.")


def plain(instance: Any) -> dict[str, Any]:
    """What JSON can say of a technique or a probe."""
    kind = type(instance)
    settings = TypeAdapter(kind).dump_python(instance, mode="json")
    return {"name": kind.name, "settings": settings, "file": _file(kind)}


def restored(item: Mapping[str, Any], registry: Mapping[str, type]) -> Any:
    """The technique or probe that :func:`plain` was given.

    Raises
    ------
    SettingError
        If this process does not know it.
    """
    name, file = item["name"], item["file"]
    if name not in registry and file is not None:
        with contextlib.suppress(WorkbenchError):  # a script that goes on to serve the page is refused there
            _run(file)
    if name not in registry:
        raise SettingError(
            f"{name} is not known to the model's process: write it into a file of its own, and import it"
        )
    return build(registry[name], dict(item["settings"]))


def _file(kind: type) -> str | None:
    if kind.__module__.startswith(_LIBRARY):
        return None
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):  # typed into a notebook or a prompt
        return None
    return str(Path(file).absolute()) if file and Path(file).is_file() else None


def _run(file: str) -> None:
    """Run somebody's file, which registers what it holds; under a name of its own, as the script that serves the page
    may hold a technique too."""
    name = f"workbench_extension_{hashlib.sha256(file.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or name in sys.modules:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
