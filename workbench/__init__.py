"""Dynamic-inference workbench: one instrumented decode loop, techniques and probes on it, and what they say.

>>> import workbench as wb                                               # doctest: +SKIP
>>> model = wb.load("smollm2-135m")                                      # doctest: +SKIP
>>> seen = wb.observe(model, "The capital of France is", [wb.probes.LogitLens(top_k=5)])      # doctest: +SKIP
>>> study = wb.compare(model, prompts, {"lookup": [wb.techniques.PromptLookup()]})            # doctest: +SKIP

Public names arrive when they are first asked for: importing this package runs nothing and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench import cost, figures, metrics, models, probes, tasks, techniques, trace, training
    from workbench.engine.generate import generate, teacher_force
    from workbench.engine.verify_cost import verify_cost
    from workbench.models.load import load
    from workbench.studies.budget_met import budget_met
    from workbench.studies.compare import compare
    from workbench.studies.compatibility import compatibility
    from workbench.studies.exit_calibration import exit_calibration
    from workbench.studies.exit_frontier import exit_frontier
    from workbench.studies.layer_maps import layer_maps
    from workbench.studies.layers_right import layers_right
    from workbench.studies.observe import observe
    from workbench.studies.routing_gap import routing_gap
    from workbench.studies.run import run
    from workbench.studies.study import Study

    __version__: str

_OBJECTS = {
    "Study": "workbench.studies.study",
    "budget_met": "workbench.studies.budget_met",
    "compare": "workbench.studies.compare",
    "compatibility": "workbench.studies.compatibility",
    "exit_calibration": "workbench.studies.exit_calibration",
    "exit_frontier": "workbench.studies.exit_frontier",
    "generate": "workbench.engine.generate",
    "layer_maps": "workbench.studies.layer_maps",
    "layers_right": "workbench.studies.layers_right",
    "load": "workbench.models.load",
    "observe": "workbench.studies.observe",
    "routing_gap": "workbench.studies.routing_gap",
    "run": "workbench.studies.run",
    "teacher_force": "workbench.engine.generate",
    "verify_cost": "workbench.engine.verify_cost",
}
_MODULES = ("cost", "figures", "metrics", "models", "probes", "tasks", "techniques", "trace", "training")

__all__ = [
    "Study",
    "__version__",
    "budget_met",
    "compare",
    "compatibility",
    "cost",
    "exit_calibration",
    "exit_frontier",
    "figures",
    "generate",
    "layer_maps",
    "layers_right",
    "load",
    "metrics",
    "models",
    "observe",
    "probes",
    "routing_gap",
    "run",
    "tasks",
    "teacher_force",
    "techniques",
    "trace",
    "training",
    "verify_cost",
]


def __getattr__(name: str) -> Any:
    if name in _OBJECTS:
        value = getattr(importlib.import_module(_OBJECTS[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"workbench.{name}")
    elif name == "__version__":
        from importlib import metadata

        try:
            value = metadata.version("dynamic-inference-workbench")
        except metadata.PackageNotFoundError:  # a source tree on the path that was never installed
            value = "0+unknown"
    else:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
