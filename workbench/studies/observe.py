"""Many probes on one forward pass, into one trace."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from workbench import trace
from workbench.engine.decoder import Cancelled, Decoder
from workbench.errors import NumericalError, SettingError
from workbench.models import Model
from workbench.probes._probe import Probe
from workbench.settings import several, spell


def observe(
    model: Model,
    prompt: str | Sequence[int] | torch.Tensor,
    probes: Sequence[Probe],
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Run a prompt through the model once and let probes read its sites.

    Parameters
    ----------
    model : Model
    prompt : str or token ids
    probes : sequence of Probe
    cancel : threading.Event, optional
        Looked at whenever a layer says something.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Groups ``tokens`` and ``probes/<name>``; see :mod:`workbench.trace`.

    Raises
    ------
    PromptError
        Empty or too long a prompt.
    SettingError
        What is no probe, or one given twice, or one that does not fit the model.
    NumericalError
        The residual stream or the logits hold NaN or infinity; it says after which layer.
    """
    ids = model.encode(prompt)
    readers = {}
    probes = several(probes, "sites", "probe", "wb.probes.LogitLens()")
    for probe in probes:
        if probe.name in readers:
            raise SettingError(f"{probe.name} is given twice: leave one out")
        readers[probe.name] = probe.start(model, torch.tensor(ids, device=model.device))
    listeners: dict[str, list[Any]] = {}
    for probe in probes:
        for site in probe.sites:
            listeners.setdefault(site, []).append(readers[probe.name])

    def watch(site: str, layer: int, value: Any) -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        if site == "residual" and not value.isfinite().all():
            raise NumericalError(f"the residual stream of {model.name} holds NaN or infinity after layer {layer}")
        for reader in listeners.get(site, ()):
            reader.see(site, layer, value)

    with torch.inference_mode():
        try:
            Decoder(model, watch=watch).prefill(ids, logits="none")
        except Cancelled:
            return None
        try:
            datasets = {f"probes/{name}": reader.finish() for name, reader in readers.items()}
        except FloatingPointError as error:
            raise NumericalError(f"the logits of {model.name} hold NaN or infinity: {error}") from error
    used = set(ids)
    for dataset in datasets.values():
        for variable in dataset.data_vars.values():
            if variable.attrs.get("units") == "token id":
                used |= set(variable.values.ravel().tolist())
    groups = {"tokens": trace.tokens(ids), **datasets}
    return trace.build(groups, model=model, kind="observe", recipe=[spell(probe) for probe in probes], used=used)
