"""One hidden state passed from head to head, met by each speculated token in an attention decoder.

Paper
-----
Xiao et al., Clover: Regressive Lightweight Speculative Decoding with Sequential Knowledge, 2024, arXiv 2405.00263.

Formula
-------
h_0 = f + Attention(f; f_1 ... f_t), and with e_d the normed unembedding row of the d-th speculated token

    h_d = h_(d-1) + SiLU(Q h_(d-1) * K e_d) * V e_d,    row_d = h_d + SiLU(W_d h_d + b_d),

products element by element, h_(d-1) normed inside Q.

Deviates
--------
The augmenting block is an attention of 256 dimensions that starts at nothing, not a copy of the model's last block, and
has no MLP (which the paper calls optional and finds worth one percent). Attention of one query to one key is taken as
the figure draws it: a product element by element, SiLU, times the value. The new token's row of the unembedding is
normed by its own size. Trimmed draft vocabulary, tree and training are those of all four kinds of heads here: see
:mod:`workbench.techniques.draft.medusa_heads`.
"""

from __future__ import annotations

from workbench.parts.heads import RegressiveHeads
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._draft_heads import DraftHeadsTechnique


@register
@settings
class Clover(DraftHeadsTechnique):
    """Regressive connection, attention decoder and augmenting block."""

    kind = RegressiveHeads
    paper = RegressiveHeads.paper
