"""Draft heads that read the tokens speculated before them.

Paper
-----
Ankner et al., Hydra: Sequentially-Dependent Draft Heads for Medusa Decoding, 2024, arXiv 2402.05109.

Formula
-------
row_d = h + U_d SiLU(W_d [h; e_1; ...; e_d] + b_d): h the model's last feature, e_i the normed embeddings of the tokens
known by then, inside W_d h normed too; the model's unembedding makes logits of it.

Deviates
--------
A head is one hidden layer over the feature and all embeddings side by side, as in the paper's plain Hydra, but 256 wide
rather than as wide as the model, and inputs are brought to the same size first; Hydra++'s deeper heads and prefix
attention are left out. Of its recipe the training on the model's own distributions is used. Trimmed draft vocabulary,
tree and training are those of all four kinds of heads here: see :class:`~workbench.techniques.MedusaHeads`. As a head
depends on the path, a tree is grown level by level, for the six likeliest paths of each level.
"""

from __future__ import annotations

from workbench.parts.heads import DependentHeads
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._draft_heads import DraftHeadsTechnique


@register
@settings
class HydraHeads(DraftHeadsTechnique):
    """Sequentially dependent draft heads."""

    kind = DependentHeads
    paper = DependentHeads.paper
