"""What probes share that read the residual stream after every layer as if it were the last one's.

No vocabulary row is stored: :mod:`workbench_kernels.unembed_statistics` reduces logits as they come. The divergence
KL(last || layer) follows without the layer's distribution: logits are linear in the normed stream x, so with the last
layer's distribution p and its mean unembedding row ``e = p W`` it is ``(x_last - x) . e + logsumexp(x) -
logsumexp(x_last)``. Only a model that caps its final logits needs the rows of a chunk a second time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts.exits import Lens, LogitLens
from workbench.probes._probe import Reader, axis
from workbench.trace import variable
from workbench_kernels.unembed_statistics import Norm, UnembedStatistics, unembed_statistics

_CHUNK_BYTES = 48 * 2**20
_CHUNK_ROWS = 128  # up to as many rows the model's product is a measured one


class LensRead(Protocol):
    """The settings of a probe that reads layers through a lens, see :class:`workbench.probes.LogitLens`."""

    @property
    def name(self) -> str: ...

    @property
    def top_k(self) -> int: ...

    @property
    def first_layer(self) -> int: ...

    @property
    def positions(self) -> int | None: ...


class LensReader(Reader):
    """Keeps the stream after every layer, as a lens reads it, and reduces all of them when the last is known.

    Parameters
    ----------
    probe : LensRead
    model : Model
    tokens : int
        Of the text.
    lens : Lens, optional
        By default the logit lens, which reads the stream as it is.

    Raises
    ------
    SettingError
        If the model has no such layers or candidates.
    """

    def __init__(self, probe: LensRead, model: Model, tokens: int, lens: Lens | None = None) -> None:
        if probe.first_layer >= model.layers:
            raise SettingError(
                f"{probe.name}: {model.name} has layers 0 … {model.layers - 1}; first_layer={probe.first_layer} is none"
            )
        if probe.top_k > model.anatomy.vocabulary:
            raise SettingError(
                f"{probe.name}: {model.name} knows {model.anatomy.vocabulary} tokens, top_k={probe.top_k}"
            )
        self._probe, self._anatomy, self._lens = probe, model.anatomy, lens or LogitLens(model)
        self._layers = np.arange(probe.first_layer, model.layers)
        self._tokens = np.arange(max(0, tokens - (probe.positions or tokens)), tokens)
        shape = len(self._layers), len(self._tokens), model.anatomy.width
        self._kept = torch.empty(shape, dtype=model.dtype, device=model.device)
        norm = model.anatomy.final_norm
        self._norm = Norm(norm.kind, norm.weight, norm.bias, norm.eps)

    def see(self, site: str, layer: int, value: Any) -> None:
        if layer >= self._probe.first_layer:
            rows = value[0, -len(self._tokens) :]
            self._kept[layer - self._probe.first_layer] = self._lens.stream(rows, layer)

    def finish(self) -> xr.Dataset:
        last = self._statistics(self._kept[-1], None)
        final = last.top_ids[:, 0]
        last = replace(last, target_logit=last.top_logits[:, 0], target_rank=torch.zeros_like(final))
        read = [*(self._statistics(rows, final) for rows in self._kept[:-1]), last]
        divergence = self._capped_divergence() if self._anatomy.softcap else self._divergence(read)

        def stack(name: str) -> Tensor:
            return torch.stack([getattr(statistics, name) for statistics in read])

        best = stack("top_ids")[..., 0]
        settled = (best == final).flip(0).int().cumprod(0).sum(0)
        every = "layer token"
        variables = {
            "top_token": variable(f"{every} candidate", stack("top_ids").int(), "token id", "best tokens"),
            "top_probability": variable(
                f"{every} candidate", stack("top_probabilities"), "probability", "probability of the best tokens"
            ),
            "entropy": variable(every, stack("entropy"), "nats", "entropy"),
            "kl_to_last": variable(every, divergence, "nats", "KL divergence of the last layer from this one"),
            "final_token": variable("token", final.int(), "token id", "best token of the last layer"),
            "final_rank": variable(every, stack("target_rank").int(), "rank", "rank of the final token"),
            "final_probability": variable(
                every, stack("target_probability"), "probability", "probability of the final token"
            ),
            "settle_layer": variable(
                "token", int(self._layers[-1]) + 1 - settled.int(), "layer", "layer from which on the best token stays"
            ),
        }
        coordinates = {
            **axis("layer", self._layers, "layer", "layer"),
            **axis("token", self._tokens, "tokens", "position"),
            **axis("candidate", np.arange(self._probe.top_k), "rank", "candidate"),
        }
        return xr.Dataset(variables, coordinates, {"backend": last.backend})

    def _statistics(self, rows: Tensor, target: Tensor | None) -> UnembedStatistics:
        anatomy = self._anatomy
        return unembed_statistics(
            rows,
            anatomy.unembedding,
            norm=self._norm,
            bias=anatomy.unembedding_bias,
            scale=anatomy.logit_scale,
            softcap=anatomy.softcap,
            target=target,
            top_k=self._probe.top_k,
        )

    def _chunks(self) -> list[slice]:
        count, fitting = len(self._tokens), _CHUNK_BYTES // (4 * self._anatomy.vocabulary)
        size = max(1, min(_CHUNK_ROWS, fitting))
        return [slice(start, start + size) for start in range(0, count, size)]

    def _divergence(self, read: list[UnembedStatistics]) -> Tensor:
        """KL(last || layer) [layers, tokens] from the last layer's mean unembedding row."""
        weight = self._anatomy.unembedding
        mean = torch.empty(self._kept.shape[1:], device=weight.device)
        for chunk in self._chunks():
            probability = self._anatomy.unembed(self._kept[-1, chunk]).softmax(-1, dtype=torch.float32)
            mean[chunk] = (probability.to(weight.dtype) @ weight).float()
        last = self._norm(self._kept[-1], weight.dtype).float()
        gaps = [((last - self._norm(rows, weight.dtype)) * mean).sum(-1) for rows in self._kept]
        sums = torch.stack([statistics.log_sum_exp for statistics in read])
        return (self._anatomy.logit_scale * torch.stack(gaps) + sums - sums[-1]).clamp_min_(0)

    def _capped_divergence(self) -> Tensor:
        """The same where a cap makes logits non-linear: from whole rows, a chunk of positions at a time."""
        out = self._kept.new_empty(self._kept.shape[:2], dtype=torch.float32)
        for chunk in self._chunks():
            last = self._anatomy.unembed(self._kept[-1, chunk]).float().log_softmax(-1)
            for layer, rows in enumerate(self._kept[:, chunk]):
                here = self._anatomy.unembed(rows).float().log_softmax(-1)
                out[layer, chunk] = F.kl_div(here, last, reduction="none", log_target=True).sum(-1)
        return out.clamp_min_(0)
