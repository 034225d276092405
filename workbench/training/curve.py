"""The course of a training as a trace, from the card of what came of it or from a checkpoint's curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

_HELD_OUT = "held_out_"
_LONG = {"loss": "training loss", "learning_rate": "learning rate"}


def trace(card: Mapping[str, Any]) -> xr.DataTree:
    """Groups ``training`` (step) and ``held_out`` (step): the figures of every step that the card kept.

    Parameters
    ----------
    card : mapping
        As :func:`workbench.training.train` returns it and writes it beside the artefact.

    Returns
    -------
    xarray.DataTree
        Every variable has ``units`` and ``long_name``; the root's attributes are name, model and the card as JSON.
    """
    import xarray as xr

    curve = card["curve"]
    groups = {}
    for group, prefix in (("training", ""), ("held_out", _HELD_OUT)):
        named = {
            key.removeprefix(prefix): values
            for key, values in curve.items()
            if key.startswith(prefix) and key.startswith(_HELD_OUT) == bool(prefix)
        }
        step = ("step", named.pop("step"), {"units": "steps", "long_name": "optimiser steps taken"})
        variables = {key: ("step", values, _about(key, bool(prefix))) for key, values in named.items()}
        groups[group] = xr.Dataset(variables, coords={"step": step})
    facts = {key: value for key, value in card.items() if key != "curve"}
    attrs = {"name": card["recipe"], "model": card["model"]["name"], "card": json.dumps(facts)}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})


def _about(key: str, held_out: bool) -> dict[str, str]:
    """Units and long name of a figure."""
    if key == "loss":
        units = "nats"
    else:
        units = "1"
    long_name = _LONG.get(key, key.replace("_", " "))
    return {"units": units, "long_name": f"held-out {long_name.removeprefix('training ')}" if held_out else long_name}
