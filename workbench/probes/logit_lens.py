"""What the model would say after each layer.

Paper
-----
nostalgebraist, interpreting GPT: the logit lens, 2020 (no arXiv id); KL to the last layer as in Belrose et al.,
Eliciting Latent Predictions from Transformers with the Tuned Lens, 2023, arXiv 2303.08112.

Deviates
--------
No vocabulary row is stored, and the divergence follows from means: see :mod:`workbench.probes._lens`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.probes._lens import LensReader
from workbench.probes._probe import Probe, register
from workbench.settings import settings


@register
@settings
class LogitLens(Probe):
    """The final norm and the unembedding, applied to the residual stream after every layer.

    Parameters
    ----------
    top_k : int
        Candidates kept per layer and token.
    first_layer : int
        Where to begin; -1 is the embedding.
    positions : int or None
        How many positions are read, counted from the end of the prompt; all by default.

    Notes
    -----
    Writes ``top_token``, ``top_probability`` (layer, token, candidate), best first and equal logits by token id;
    ``entropy`` and ``kl_to_last`` [nats], ``final_rank`` (0 is best) and ``final_probability`` of the token that the
    last layer puts first (layer, token); that ``final_token`` and ``settle_layer``, the first layer from which on the
    best token stays the final one (token).

    The token to rank is known at the last layer only. This is the one probe that keeps the stream until then, [layers,
    positions, width] in the model's dtype: 146 MB for 2,048 tokens of the bundled model in float32.

    In bfloat16 and float16 logits are rounded as the model's own are, and the divergence is good to about 0.01 nats.
    """

    top_k: Annotated[int, Field(ge=1, le=32, description="candidates per layer and token")] = 5
    first_layer: Annotated[int, Field(ge=-1, description="first layer read; -1 is the embedding")] = -1
    positions: Annotated[int, Field(ge=1, description="positions read, from the end; all if none")] | None = None

    sites = ("embedding", "residual")
    paper = "nostalgebraist, the logit lens, 2020; Belrose et al., Tuned Lens, 2023, arXiv 2303.08112"

    def start(self, model: Model, tokens: Tensor) -> LensReader:
        return LensReader(self, model, len(tokens))

    @classmethod
    def examples(cls) -> tuple[LogitLens, ...]:
        return cls(), cls(top_k=2, first_layer=1, positions=3)
