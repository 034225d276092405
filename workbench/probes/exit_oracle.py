"""The earliest layer that each token could have left at, if one knew, and where confidence would have let it go.

Paper
-----
The oracle: Schuster et al., Confident Adaptive Language Modeling (CALM), 2022, arXiv 2207.07061, section 3.2, and
Del Corro et al., SkipDecode, 2023, arXiv 2307.02628, which ask for the first layer that agrees with the last. Lens:
Belrose et al., Tuned Lens, 2023, arXiv 2303.08112.

Formula
-------
For a token, with y_l the first token that the lens has after layer l of L and L - 1 the last:

- ``agrees``: the least l with y_l = y_(L-1), as CALM's oracle;
- ``settled``: the least l with y_m = y_(L-1) for all m >= l;
- ``close``: the least l with KL(last || m) < divergence for all m >= l;
- a measure of confidence: the least l with c_l > threshold, as an exit that checks every layer.

Deviates
--------
All layers are seen of the whole text at once: every token finds the layers before it full, so nothing here tells what
exits do to the tokens after them. Exits in a run are :class:`workbench.techniques.ConfidenceExit`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.parts.exits import LensName, load_lens
from workbench.parts.exits.confidence import saturation
from workbench.probes._lens import LensReader
from workbench.probes._probe import Probe, Reader, axis, register
from workbench.settings import settings
from workbench.trace import variable

CRITERIA = ("agrees", "settled", "close", "probability", "margin", "entropy", "saturation")


@register
@settings
class ExitOracle(Probe):
    """Exit layers of every token by seven criteria, what they save, and how often they are right.

    Parameters
    ----------
    lens : str
        ``bundled``, the tuned lens; ``logit``, the untrained one; ``untrained``; or a trained file.
    threshold : float
        Confidence above which a token leaves.
    divergence : float
        Distance from the last layer that counts as close [nats].
    positions : int or None
        How many positions are read, counted from the end of the prompt; all by default.

    Notes
    -----
    Writes ``exit_layer``, the layer after which a token leaves, and ``right``, whether the lens has the last layer's
    first token there (criterion, token); ``layers_saved``, the share of layers that all tokens together leave out, and
    ``right_share`` (criterion); ``agreement``, the share of tokens on which a layer agrees with the last one (layer).
    The attribute ``criteria`` names them, as JSON, in the order of their dimension.
    Whoever never meets a criterion leaves at the end, saves nothing and is right.
    """

    lens: LensName = "bundled"
    threshold: Annotated[float, Field(ge=0, le=1, description="confidence above which a token leaves")] = 0.9
    divergence: Annotated[float, Field(gt=0, description="nats from the last layer that are close")] = 0.1
    positions: Annotated[int, Field(ge=1, description="positions read, from the end; all if none")] | None = None

    top_k: ClassVar[int] = 2
    first_layer: ClassVar[int] = 0
    sites = ("embedding", "residual")
    paper = "Schuster et al., CALM, 2022, arXiv 2207.07061; Belrose et al., Tuned Lens, 2023, arXiv 2303.08112"

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        return _Reader(self, model, len(tokens))

    @classmethod
    def examples(cls) -> tuple[ExitOracle, ...]:
        return cls(lens="untrained"), cls(lens="logit", threshold=0.3, divergence=1.0, positions=5)


class _Reader(Reader):
    def __init__(self, probe: ExitOracle, model: Model, tokens: int) -> None:
        self._probe, self._vocabulary = probe, model.anatomy.vocabulary
        self._lens = LensReader(probe, model, tokens, load_lens(model, probe.lens))
        self._count = min(tokens, probe.positions or tokens)
        self._before: Tensor | None = None
        self._saturation: list[Tensor] = []

    def see(self, site: str, layer: int, value: Any) -> None:
        self._lens.see(site, layer, value)
        rows = value[0, -self._count :]
        if layer >= 0:
            self._saturation.append(saturation(rows, self._before))
        self._before = rows.clone()

    def finish(self) -> xr.Dataset:
        read = self._lens.finish()
        agrees = read["top_token"].values[..., 0] == read["final_token"].values
        chances = read["top_probability"].values
        met = {
            "agrees": agrees,
            "settled": _from_here_on(agrees),
            "close": _from_here_on(read["kl_to_last"].values < self._probe.divergence),
            "probability": chances[..., 0] > self._probe.threshold,
            "margin": chances[..., 0] - chances[..., 1:].sum(-1) > self._probe.threshold,
            "entropy": 1 - read["entropy"].values / np.log(self._vocabulary) > self._probe.threshold,
            "saturation": torch.stack(self._saturation).cpu().numpy() > self._probe.threshold,
        }
        layers = len(agrees)
        leaves = np.stack([np.where(met[name].any(0), met[name].argmax(0), layers - 1) for name in CRITERIA])
        right = np.take_along_axis(agrees, leaves, 0)
        by_token = "criterion token"
        variables = {
            "exit_layer": variable(by_token, leaves.astype(np.int32), "layer", "layer after which a token leaves"),
            "right": variable(by_token, right.astype(np.int8), "1", "whether it says there what the last layer says"),
            "layers_saved": variable("criterion", 1 - (leaves + 1).mean(1) / layers, "1", "share of layers left out"),
            "right_share": variable("criterion", right.mean(1), "1", "share of tokens that are right"),
            "agreement": variable("layer", agrees.mean(1), "1", "share of tokens on which it agrees with the last"),
        }
        coordinates = {
            **axis("criterion", np.arange(len(CRITERIA)), "place in criteria", "what lets a token leave"),
            **axis("layer", np.arange(layers), "layer", "layer"),
            **axis("token", read["token"].values, "tokens", "position"),
        }
        asked = {"criteria": json.dumps(CRITERIA), "threshold": self._probe.threshold}
        return xr.Dataset(variables, coordinates, {**asked, "divergence": self._probe.divergence})


def _from_here_on(held: np.ndarray) -> np.ndarray:
    """Whether what holds [layers, tokens] holds in all later layers too."""
    return np.flip(np.logical_and.accumulate(np.flip(held, 0), 0), 0)
