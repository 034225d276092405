"""What the model would say after each layer, each read through an affine map that was trained for it.

Paper
-----
Belrose et al., Eliciting Latent Predictions from Transformers with the Tuned Lens, 2023, arXiv 2303.08112.

Deviates
--------
See :class:`workbench.parts.exits.TunedLens`: the maps have a low rank.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.parts.exits import LensName, load_lens
from workbench.probes._lens import LensReader
from workbench.probes._probe import Probe, register
from workbench.settings import settings


@register
@settings
class TunedLens(Probe):
    """A trained affine map for every layer, the final norm and the unembedding.

    Parameters
    ----------
    lens : str
        ``bundled``, ``untrained``, or the path of a trained file; ``logit`` is the same as the logit lens.
    top_k : int
        Candidates kept per layer and token.
    first_layer : int
        Where to begin; -1 is the embedding.
    positions : int or None
        How many positions are read, counted from the end of the prompt; all by default.

    Notes
    -----
    Writes what :class:`workbench.probes.LogitLens` writes, of the mapped streams; the last layer has no map.
    """

    lens: LensName = "bundled"
    top_k: Annotated[int, Field(ge=1, le=32, description="candidates per layer and token")] = 5
    first_layer: Annotated[int, Field(ge=-1, description="first layer read; -1 is the embedding")] = -1
    positions: Annotated[int, Field(ge=1, description="positions read, from the end; all if none")] | None = None

    sites = ("embedding", "residual")
    paper = "Belrose et al., Tuned Lens, 2023, arXiv 2303.08112"

    def start(self, model: Model, tokens: Tensor) -> LensReader:
        return LensReader(self, model, len(tokens), load_lens(model, self.lens))

    @classmethod
    def examples(cls) -> tuple[TunedLens, ...]:
        return cls(lens="untrained"), cls(lens="untrained", top_k=2, first_layer=1, positions=3)
