"""A light draft model: a trigram encoder below, an encoder over all of the model's features above, residual heads.

Paper
-----
Zeng et al., Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by Fusing all Tokens,
2024, arXiv 2402.15758.

Formula
-------
With t_i = U SiLU(T [e_(i-2); e_(i-1); e_i]) the trigram of token i (e its normed embedding) and f the features of
verified tokens, head d, told the tokens up to i = t + d, gives

    r_d(f_t + B t_i + Attention(t_i; f_1 ... f_t, t_(t+1) ... t_i)),    r_d(x) = x + SiLU(W_d x + b_d),

and the model's unembedding makes logits of it.

Deviates
--------
The full-context encoder is an attention of 256 dimensions without an MLP, which the residual heads stand in for; a
head also reads the newest feature itself, so that it begins where Medusa's heads do. Trigrams are encoded when they
come rather than looked up in a table of all that training saw. The loss on hidden states is left out: training, trimmed
draft vocabulary and tree are those of all four kinds of heads here (see :class:`~workbench.techniques.MedusaHeads`).
"""

from __future__ import annotations

from workbench.parts.heads import LightDraftModel
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._draft_heads import DraftHeadsTechnique


@register
@settings
class Chimera(DraftHeadsTechnique):
    """Short-range tokens fused with the model's features of the whole text."""

    kind = LightDraftModel
    paper = LightDraftModel.paper
