"""Trained prompt tokens behind the text and behind likely drafts: the model's own answers to them are the next drafts.

Paper
-----
Chen et al., Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM Inference, 2024, arXiv
2405.18628.

Formula
-------
The row of order k is a trained embedding E_k, k places after its root, and says the token k + 1 on. Nodes and rows of a
verification maximise

    (1 + sum of path chances + sum over rows of P(the step ends at its root) value_k) / (cost(1 + n) / cost(1)),

value_k the expected tokens of the next step with k levels, less those with k - 1.

Deviates
--------
One embedding for each prompt token, not an ensemble. Which nodes get prompt tokens, and how many, is decided for the
verification at hand from the nodes' chances and what a further level of the next tree is worth on average, where the
paper optimises trees for all states of a steady state beforehand. Training inserts prompt tokens at places drawn anew
at every step and distils the model's own distributions over its whole vocabulary, as the paper does.
"""

from __future__ import annotations

from workbench.parts.lookahead import PromptTokens
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._lookahead import LookaheadTechnique


@register
@settings
class ParallelPrompt(LookaheadTechnique):
    """Parallel prompt decoding with a sparse tree for the measured cost of a verification."""

    kind = PromptTokens
    paper = PromptTokens.paper
