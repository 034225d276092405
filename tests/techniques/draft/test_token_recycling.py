"""The matrix and the tree against slow restatements, and what the recycled candidates save on real text."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Chance, Draft, Run, Sampler, Verification
from workbench.models.tiny import tiny
from workbench.techniques import TokenRecycling
from workbench.techniques.draft._top_tokens import top_tokens
from workbench.techniques.draft.token_recycling import _RANKS, template

PROMPT = random_tokens(20)


def started(technique, prompt=PROMPT):
    return technique.start(Run(tiny("llama"), tuple(prompt), 40, Sampler(chance=Chance()), 0))


def verification(draft, path, token, logits):
    return Verification(draft, path, token, logits, torch.zeros(len(logits), 4), None, None)


def filled(matrix, nodes, k, last, limit):
    """The tree as a set of paths of tokens, filled place by place by looking each one up."""
    found = set()
    places = sorted(paths_of(nodes, k), key=len)
    tokens = {(): (last,)}
    for place in places:
        above = tokens.get(place[:-1])
        if above is None or len(place) > limit:
            continue
        candidate = int(matrix[above[-1]][place[-1]])
        if candidate >= 0:
            tokens[place] = (*above, candidate)
            found.add(tokens[place][1:])
    return found


def paths_of(nodes, k):
    """The ``nodes`` paths of ranks with the largest product, by listing far more than are wanted."""
    layer, listed = [((), 1.0)], []
    for _ in range(8):
        layer = [((*path, rank), chance * _RANKS[rank]) for path, chance in layer for rank in range(k)]
        layer = sorted(layer, key=lambda each: -each[1])[: 4 * nodes]
        listed += layer
    return [path for path, _ in sorted(listed, key=lambda each: -each[1])[:nodes]]


@pytest.mark.parametrize("vocabulary", [50, 640, 1000])
def test_top_tokens_are_those_of_a_full_sort(vocabulary):
    logits = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    assert torch.equal(top_tokens(logits, 8), logits.sort(-1, descending=True).indices[:, :8])


@pytest.mark.parametrize(("nodes", "k"), [(1, 3), (16, 8), (40, 4)])
def test_the_template_holds_the_places_with_the_largest_products(nodes, k):
    found, above = [], [()]
    for parent, rank in template(nodes, k):
        above = [(*above[p], r) for p, r in zip(parent.tolist(), rank.tolist())]
        found += above
    chances = [torch.tensor([_RANKS[rank] for rank in path]).prod() for path in paths_of(nodes, k)]
    assert len(found) == nodes and len(set(found)) == nodes
    product = [torch.tensor([_RANKS[rank] for rank in path]).prod() for path in found]
    torch.testing.assert_close(torch.stack(product).sort().values, torch.stack(chances).sort().values)


@pytest.mark.parametrize("limit", [1, 2, 10])
@pytest.mark.parametrize("seed", range(3))
def test_the_tree_is_filled_from_the_matrix(seed, limit):
    recycler = started(TokenRecycling(nodes=14, k=3, pairs=False))
    generator = torch.Generator().manual_seed(seed)
    # About a third is unknown; known successors of a token stand before unknown ones and differ.
    for token in range(96):
        known = int(torch.randint(0, 4, (), generator=generator))
        recycler.matrix[token, :known] = torch.randperm(96, generator=generator)[:known].numpy()
    for last in range(10):
        draft = recycler.propose([5, last], limit)
        assert {tuple(draft.path_to(node)) for node in range(len(draft.tokens))} == filled(
            recycler.matrix, 14, 3, last, limit
        )
        assert all(parent < node for node, parent in enumerate(draft.parents or []))


def test_every_verified_row_overwrites_what_was_known_of_its_token():
    recycler = started(TokenRecycling(nodes=4, k=2, pairs=False), [3, 9])
    rows = torch.randn(4, 96, generator=torch.Generator().manual_seed(1))
    recycler.verified(verification(Draft(), [], 5, rows[:1]))
    assert recycler.matrix[9].tolist() == rows[0].topk(2).indices.tolist()
    # 6 stands twice: once rejected, once kept; the kept row has the last word, wherever it stands.
    draft = Draft([6, 6, 7], [-1, -1, 0])
    recycler.verified(verification(draft, [0], 8, rows))
    assert recycler.matrix[5].tolist() == rows[0].topk(2).indices.tolist()
    assert recycler.matrix[6].tolist() == rows[1].topk(2).indices.tolist()
    assert recycler.matrix[7].tolist() == rows[3].topk(2).indices.tolist()
    assert (recycler.matrix >= 0).any(1).sum() == 4
    recycler.verified(verification(Draft(), [], 2, rows[3:]))
    assert recycler.matrix[8].tolist() == rows[3].topk(2).indices.tolist()


def test_pairs_of_the_prompt_come_latest_first_and_once():
    recycler = started(TokenRecycling(k=2), [4, 5, 4, 6, 4, 6, 4, 7, 9])
    assert recycler.matrix[4].tolist() == [7, 6]
    assert recycler.matrix[6].tolist() == [4, -1]
    assert recycler.matrix[9].tolist() == [-1, -1]
    assert (started(TokenRecycling(k=2, pairs=False)).matrix == -1).all()


def test_confidence_follows_what_is_accepted():
    recycler = started(TokenRecycling(nodes=2, k=2, pairs=False), [3, 4])
    recycler.matrix[4], recycler.matrix[7] = [7, 8], [1, 2]
    before = recycler.propose([3, 4], 1)
    assert before.tokens == [7, 8][: len(before.tokens)]
    expected, weight = before.confidence[0], 8.0
    assert expected == pytest.approx(_RANKS[0])
    rows = torch.zeros(2, 96)
    rows[:, 7], rows[:, 8] = 2.0, 1.0
    for kept in (True, True, False):
        recycler._last = 4
        recycler.verified(verification(Draft([7]), [0] if kept else [], 4, rows))
        recycler.matrix[4] = [7, 8]
    after = recycler.propose([3, 4], 1).confidence[0]
    assert after == pytest.approx((weight * _RANKS[0] + 2) / (weight + 3))


def test_a_text_that_repeats_is_drafted_better_with_time():
    model = tiny("gemma3_text")
    steps = run(model, list(range(3, 23)), [TokenRecycling(nodes=12)], 80)
    assert tokens_of(steps) == tokens_of(run(model, list(range(3, 23)), new=80))
    half = len(steps) // 2
    assert sum(step.accepted for step in steps[half:]) > sum(step.accepted for step in steps[:half])


@pytest.mark.bundled
def test_recycled_candidates_save_forwards_on_open_text(bundled):
    prompt = bundled.chat("Explain how a bicycle stays upright, then explain it again for a child.")
    plain = list(run(bundled, prompt, new=64))
    recycled = list(run(bundled, prompt, [TokenRecycling()], new=64))
    assert tokens_of(recycled) == tokens_of(plain)
    assert len(recycled) < 0.7 * len(plain)
