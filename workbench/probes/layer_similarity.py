"""How alike the layers' residual streams are, and what dropping a run of blocks would skip.

Paper
-----
Linear CKA: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019, arXiv 1905.00414, with the
unbiased HSIC (Song et al., Feature Selection via Dependence Maximization, 2012, JMLR 13) as in Nguyen et al., Do Wide
and Deep Networks Learn the Same Things?, 2020, arXiv 2010.15327. Block influence: Men et al., ShortGPT, 2024, arXiv
2403.03853. Angular distance: Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, 2024, arXiv
2403.17887.

Deviates
--------
All measures are taken over a sample of positions of one text, evenly spaced: CKA's examples are positions, which are no
independent draws; the angular distance is averaged over them where Gromov et al. look at the last token only.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.probes._probe import Probe, Reader, axis, register, sample
from workbench.settings import settings
from workbench.trace import variable

_CHUNK = 64  # rows of the Gram matrices held together


@register
@settings
class LayerSimilarity(Probe):
    """Similarity of the residual stream at all depths.

    Parameters
    ----------
    positions : int or None
        Evenly spaced positions that are compared; None takes all.
    spans : int or None
        Longest run of blocks for the angular distance; all by default.

    Notes
    -----
    Keeps [layers + 1, positions, width] in float32, the reduction of the stream to the sample. Writes

    - ``cka_directions`` (layer, other_layer), where layer -1 is the embedding: every position's vector is scaled to
      unit length first, which is about what the next norm reads. Unrelated streams score about 0, below as often as
      above; the biased estimator of 2019 gives them 0.69 at 256 positions and width 576 (Murphy et al., 2024, arXiv
      2405.01012);
    - ``cka``, the same without scaling. Many models park a vector hundreds of times longer than the others on one token
      (Sun et al., Massive Activations, 2024, arXiv 2402.17762), which decides this number nearly alone: the biased
      estimator then calls all layers in between equal, and this one has an effective sample of one and says little;
    - ``input_output_cosine`` and ``block_influence`` (one minus it) of every block;
    - ``angular_distance`` (start_layer, span): arccos(cosine) / pi between the input of block ``start_layer`` and the
      input of the block ``span`` further on, which is what dropping that run of blocks would skip; NaN beyond the last.

    The cosines and angles are means over positions, which no number of positions biases. CKA needs four positions and
    is NaN with fewer.
    """

    positions: Annotated[int, Field(ge=2, description="sampled positions; all if none")] | None = 256
    spans: Annotated[int, Field(ge=1, description="longest run of blocks; all if none")] | None = None

    sites = ("embedding", "residual")
    paper = (
        "Kornblith et al., 2019, arXiv 1905.00414; Men et al., ShortGPT, 2024, arXiv 2403.03853; "
        "Gromov et al., 2024, arXiv 2403.17887"
    )

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        return _Reader(self, model, len(tokens))

    @classmethod
    def examples(cls) -> tuple[LayerSimilarity, ...]:
        return cls(), cls(positions=5, spans=2)


class _Reader(Reader):
    def __init__(self, probe: LayerSimilarity, model: Model, tokens: int) -> None:
        self._probe = probe
        self._places = sample(tokens, probe.positions).to(model.device)
        shape = model.layers + 1, len(self._places), model.anatomy.width
        self._kept = torch.empty(shape, device=model.device)

    def see(self, site: str, layer: int, value: Any) -> None:
        self._kept[layer + 1] = value[0, self._places]

    def finish(self) -> xr.Dataset:
        layers = len(self._kept) - 1
        directions = torch.nn.functional.normalize(self._kept, dim=-1)
        by_position = directions.transpose(0, 1)
        cosine = (by_position @ by_position.transpose(1, 2)).clamp_(-1, 1)  # [positions, layers + 1, layers + 1]
        through = cosine.diagonal(1, 1, 2).double().mean(0).cpu().numpy()
        spans = min(self._probe.spans or layers, layers)
        angles = (cosine.acos() / torch.pi).double().mean(0).cpu().numpy()
        distance = np.full((layers, spans), np.nan)
        for span in range(1, spans + 1):
            distance[: layers + 1 - span, span - 1] = angles.diagonal(span)
        depth = np.arange(-1, layers)
        variables = {
            "cka": variable("layer other_layer", linear_cka(self._kept), "1", "debiased linear CKA"),
            "cka_directions": variable(
                "layer other_layer", linear_cka(directions), "1", "debiased linear CKA of directions"
            ),
            "input_output_cosine": variable("block", through, "1", "cosine between a block's input and output"),
            "block_influence": variable("block", 1 - through, "1", "block influence"),
            "angular_distance": variable("start_layer span", distance, "1", "angular distance over a run of blocks"),
        }
        coordinates = {
            **axis("layer", depth, "layer", "layer"),
            **axis("other_layer", depth, "layer", "other layer"),
            **axis("block", np.arange(layers), "layer", "block"),
            **axis("start_layer", np.arange(layers), "layer", "first block of the run"),
            **axis("span", np.arange(1, spans + 1), "blocks", "blocks in the run"),
        }
        return xr.Dataset(variables, coordinates, {"positions": len(self._places)})


def linear_cka(streams: Tensor) -> Tensor:
    """Linear CKA between all pairs of representations of the same examples, by the unbiased HSIC of Song et al.

    Parameters
    ----------
    streams : Tensor [representations, examples, width]

    Returns
    -------
    Tensor [representations, representations]
        ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of the Gram matrices K and L with zeros on their diagonals, where
        ``n (n - 3) HSIC(K, L) = tr(K L) + 1'K1 1'L1 / ((n - 1) (n - 2)) - 2 1'K L1 / (n - 2)``; NaN where a
        representation does not vary or n < 4. Gram matrices are made a few rows at a time and never held whole.
    """
    representations, count, _ = streams.shape
    if count < 4:
        return torch.full((representations, representations), torch.nan, dtype=torch.float64)
    # The estimate does not change with the mean or the scale, but its rounding does.
    centred = streams - streams.mean(1, keepdim=True)
    centred = centred / centred.flatten(1).norm(dim=1)[:, None, None]
    products = torch.zeros(representations, representations, dtype=torch.float64, device=streams.device)
    sums = torch.zeros(representations, count, dtype=torch.float64, device=streams.device)
    for start in range(0, count, _CHUNK):
        gram = centred[:, start : start + _CHUNK] @ centred.transpose(1, 2)
        gram.diagonal(start, 1, 2).zero_()
        sums[:, start : start + _CHUNK] = gram.sum(-1, dtype=torch.float64)
        products += (gram.flatten(1) @ gram.flatten(1).t()).double()
    totals = sums.sum(1)
    products += totals[:, None] * totals / ((count - 1) * (count - 2)) - 2 * sums @ sums.t() / (count - 2)
    scale = products.diagonal().sqrt()
    return products / (scale[:, None] * scale)
