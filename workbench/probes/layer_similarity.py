"""How alike the layers' residual streams are, and what dropping a run of blocks would skip.

Paper
-----
Linear CKA: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019, arXiv 1905.00414. Block
influence: Men et al., ShortGPT, 2024, arXiv 2403.03853. Angular distance: Gromov et al., The Unreasonable
Ineffectiveness of the Deeper Layers, 2024, arXiv 2403.17887.

Deviates
--------
All measures are taken over a sample of positions of one text, evenly spaced: CKA's examples are positions, the angular
distance is averaged over them where Gromov et al. look at the last token only.
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

    - ``cka`` (layer, other_layer), where layer -1 is the embedding, and ``cka_directions``, the same with every
      position's vector scaled to unit length, which is about what the next norm reads. Many models park a vector
      hundreds of times longer than the others on one token (Sun et al., Massive Activations, 2024, arXiv 2402.17762);
      plain CKA is dominated by it and then calls all layers in between equal;
    - ``input_output_cosine`` and ``block_influence`` (one minus it) of every block;
    - ``angular_distance`` (start_layer, span): arccos(cosine) / pi between the input of block ``start_layer`` and the
      input of the block ``span`` further on, which is what dropping that run of blocks would skip; NaN beyond the last.

    A prompt of one token has no variation: CKA is NaN.
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
            "cka": variable("layer other_layer", linear_cka(self._kept), "1", "linear CKA"),
            "cka_directions": variable("layer other_layer", linear_cka(directions), "1", "linear CKA of directions"),
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
    """Linear CKA between all pairs of representations of the same examples.

    Parameters
    ----------
    streams : Tensor [representations, examples, width]

    Returns
    -------
    Tensor [representations, representations]
        ``<K, L> / (|K| |L|)`` of the Gram matrices K and L of the centred representations; NaN where a representation
        does not vary. Gram matrices are made a few rows at a time and never held whole.
    """
    centred = streams - streams.mean(1, keepdim=True)
    centred = centred / centred.flatten(1).norm(dim=1)[:, None, None]
    products = torch.zeros(len(streams), len(streams), dtype=torch.float64, device=streams.device)
    for start in range(0, streams.shape[1], _CHUNK):
        gram = (centred[:, start : start + _CHUNK] @ centred.transpose(1, 2)).flatten(1)
        products += (gram @ gram.t()).double()
    scale = products.diagonal().sqrt()
    return products / (scale[:, None] * scale)
