"""Two drafts become one tree without losing a path or standing twice."""

import pytest
import torch

from workbench.engine import Draft
from workbench.engine.draft import Lookahead
from workbench.techniques.draft.suffix_draft.merged import merged


def paths(draft):
    return {tuple(draft.path_to(node)) for node in range(len(draft.tokens))}


def test_every_path_of_both_is_there_once():
    chain = Draft([5, 6, 7], confidence=[0.9, 0.5, 0.4], flops=3, bytes=4)
    tree = Draft([8, 5, 6, 9, 1], [-1, -1, 1, 1, 0], confidence=[0.1, 0.7, 0.6, 0.2, 0.3], flops=10, bytes=20)
    both = merged(chain, tree)
    assert paths(both) == paths(chain) | paths(tree) and len(both.tokens) == len(paths(both)) == 6
    assert all(both.parent(node) < node for node in range(6))
    assert (both.flops, both.bytes) == (13, 24)
    said = {tuple(both.path_to(node)): each for node, each in enumerate(both.confidence)}
    assert said == {(5,): 0.9, (5, 6): 0.6, (5, 6, 7): 0.4, (8,): 0.1, (5, 9): 0.2, (8, 1): 0.3}


def test_no_view_of_one_is_no_view_of_both():
    assert merged(Draft([1, 2]), Draft([3], confidence=[0.5])).confidence is None


def test_an_empty_draft_adds_nothing():
    chain = Draft([1, 2], confidence=[0.5, 0.4])
    both = merged(Draft(confidence=[]), chain)
    assert both.tokens == [1, 2] and paths(both) == paths(chain) and both.confidence == [0.5, 0.4]


@pytest.mark.parametrize(
    "draft", [Draft([1], probabilities=torch.ones(1, 4) / 4), Draft(ahead=Lookahead([0], [1], lambda x, orders: x))]
)
def test_what_cannot_stand_in_one_tree_is_refused(draft):
    with pytest.raises(ValueError, match="cannot be merged"):
        merged(Draft([2]), draft)
