"""Which drafted tokens are kept: greedy match, and rejection that preserves the sampled distribution.

Source
------
Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2022, arXiv 2211.17192; Chen et al.,
Accelerating Large Language Model Decoding with Speculative Sampling, 2023, arXiv 2302.01318; siblings of a tree one
after the other as in Miao et al., SpecInfer, 2023, arXiv 2305.09781.
"""

from __future__ import annotations

from torch import Tensor

from workbench.engine.draft import Draft
from workbench.engine.sampling import Sampler


def accept(draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
    """Walk down a draft as far as the model agrees.

    Parameters
    ----------
    draft : Draft
        A chain or a tree.
    logits : Tensor [1 + nodes, vocabulary]
        The model's logits before the first node (row 0) and after every node.
    sampler : Sampler
        Greedy: a node is kept if it is the most probable token. Sampled: a node drawn from q is kept with probability
        min(1, p / q), otherwise the next sibling is tried against the residual max(0, p - q), normalised; a node chosen
        without chance counts as drawn from a distribution that has only it. The result is distributed as p.

    Returns
    -------
    path : list of int
        Nodes kept.
    next_token : int
        The model's own token after them.
    """
    children = draft.children()
    if sampler.greedy:
        return _greedy(draft, sampler.best(logits), children)
    return _sampled(draft, logits, sampler, children)


def _greedy(draft: Draft, best: list[int], children: dict[int, list[int]]) -> tuple[list[int], int]:
    path: list[int] = []
    here = -1
    while True:
        match = [node for node in children.get(here, ()) if draft.tokens[node] == best[here + 1]]
        if not match:
            return path, best[here + 1]
        here = match[0]
        path.append(here)


def _sampled(draft: Draft, logits: Tensor, sampler: Sampler, children: dict[int, list[int]]) -> tuple[list[int], int]:
    path: list[int] = []
    here = -1
    while True:
        target = sampler.distribution(logits[here + 1])
        kept = None
        for node in children.get(here, ()):
            token = draft.tokens[node]
            drawn_from = draft.drawn_from(node, target)
            if _kept(token, target, drawn_from, sampler):
                kept = node
                break
            target = _residual(target, drawn_from)
        if kept is None:
            return path, next_token(draft, here, target, sampler)
        here = kept
        path.append(here)


def next_token(draft: Draft, node: int, target: Tensor, sampler: Sampler) -> int:
    """The token after a path that ends at ``node``, -1 for the text's end, distributed as ``target`` [vocabulary]: the
    one that the draft has for the place after its last node where that is kept, and else one that is drawn."""
    if draft.following is not None and node == len(draft.tokens) - 1:
        token, drawn_from = draft.following()
        drawn_from = drawn_from.to(target)
        if _kept(token, target, drawn_from, sampler):
            return token
        target = _residual(target, drawn_from)
    return sampler.chance.draw(target)


def _kept(token: int, target: Tensor, drawn_from: Tensor, sampler: Sampler) -> bool:
    return sampler.chance.flip(min(1.0, float(target[token] / drawn_from[token])))


def _residual(target: Tensor, drawn_from: Tensor) -> Tensor:
    residual = (target - drawn_from).clamp_(min=0)
    total = residual.sum()
    # Rounding can leave nothing where p and q are equal; then p itself is the right distribution.
    return residual / total if total > 0 else target
