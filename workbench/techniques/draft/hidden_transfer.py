"""Hidden states of the next tokens, guessed linearly at a middle layer, run through the rest with the verification.

Paper
-----
Wu et al., Parallel Decoding via Hidden Transfer for Lossless Large Language Model Acceleration, 2024, arXiv 2404.12022.

Formula
-------
The row of order k enters layer m as h_k = x + D_k x, x the residual stream of its root there, and passes the layers
above; the token it says has order k + 1 after the root. Training adds ``match`` |h_k - h|^2 / |h|^2, h the true state,
to the distillation.

Deviates
--------
All orders enter before the same layer. The maps begin at the identity. Which nodes carry guessed states with them, and
how large the tree is, follows from chances and from what a verification costs here, as for
:class:`~workbench.techniques.ParallelPrompt`. Training distils the model's later distributions and pulls the guessed
states to the true ones.
"""

from __future__ import annotations

from workbench.parts.lookahead import HiddenMaps
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._lookahead import LookaheadTechnique


@register
@settings
class HiddenTransfer(LookaheadTechnique):
    """Pseudo hidden states through the upper layers, in the same forward as the tree."""

    kind = HiddenMaps
    paper = HiddenMaps.paper
