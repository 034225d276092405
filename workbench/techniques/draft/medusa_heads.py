"""Independent heads on the model's last hidden state each say a later token; their likeliest tokens make a tree.

Paper
-----
Cai et al., Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads, 2024, arXiv 2401.10774.

Formula
-------
row_d = h + SiLU(W_d h + b_d), h the model's last feature; the model's unembedding makes logits p_d of it, for the token
d after the next. Of nodes with path chance prod_i p_i those are verified, the likeliest first, that maximise

    (1 + sum of path chances) / (cost(1 + n) / cost(1)).

Deviates
--------
The heads project with rows of the model's own unembedding, those of a trimmed draft vocabulary, rather than with a
matrix of their own each: these would be larger than the bundled model. They are trained on the model's distributions
(the paper's self-distillation) with the model frozen (Medusa-1). By default a tree is made anew at each step from the
heads' probabilities and is as large as pays on this machine; ``tree="fixed"`` is the paper's, from accuracies on
held-out text. Acceptance is the engine's exact one, not the paper's typical acceptance.
"""

from __future__ import annotations

from workbench.parts.heads import IndependentHeads
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._draft_heads import DraftHeadsTechnique


@register
@settings
class MedusaHeads(DraftHeadsTechnique):
    """Draft heads that know neither one another's tokens nor the model's own next one."""

    kind = IndependentHeads
    paper = IndependentHeads.paper
