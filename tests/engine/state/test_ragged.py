"""Heads that hold different numbers of entries, and entries that become one, against loops over one entry at a time."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from toys.four_bit import FourBit
from toys.host import Host

from workbench.engine import Decoder, LayerCache, generate
from workbench.engine.relations import related
from workbench.engine.visibility import Visibility
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup, Technique, TokenRecycling, TokenSelect

HEADS, WIDTH = 2, 4
PROMPT = random_tokens(24) * 2
NEW = 20


def drawn(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, HEADS, count, WIDTH, generator=generator) for _ in range(2))


def filled(count):
    cache = LayerCache(4)
    cache.append(*drawn(count), torch.arange(count))
    return cache


def ragged():
    """One head of four entries and one of two."""
    cache = filled(6)
    index = torch.tensor([[0, 2, 3, 5], [1, 4, 0, 0]])
    cache.keep(index, torch.tensor([[True] * 4, [True, True, False, False]]))
    return cache


def test_a_ragged_layer_says_what_it_holds():
    cache = ragged()
    assert cache.length == 4 and cache.kept == 3.0 and cache.evicted == 3.0 and cache.evictions == 1
    assert cache.valid.tolist() == [[True] * 4, [True, True, False, False]]
    cache.append(*drawn(2, 1), torch.tensor([6, 7]))
    assert cache.valid.tolist() == [[True] * 6, [True, True, False, False, True, True]]
    cache.crop(1)
    assert cache.kept == 4.0
    cache.keep(torch.tensor([[0, 4], [0, 4]]))
    assert cache.valid is None and cache.positions.tolist() == [[0, 6], [1, 6]] and cache.evicted == 5.0


def test_what_is_dropped_twice_stays_padding():
    cache = ragged()
    cache.keep(torch.tensor([[1, 2, 3], [1, 2, 3]]), torch.tensor([[True, True, False], [True, True, True]]))
    assert cache.valid.tolist() == [[True, True, False], [True, False, False]]
    cache.replace([0])
    assert cache.valid.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("window", [None, 3])
def test_padding_is_hidden_from_every_token(window):
    cache = ragged()
    cache.append(*drawn(2, 1), torch.tensor([6, 7]))
    rows = Visibility(related(None, 2), range(2), 6, torch.tensor([6, 7]))
    mask = rows.over(cache, 0, window).mask()
    stands = [[0, 2, 3, 5, 6, 7], [1, 4, None, None, 6, 7]]
    for head, row in ((head, row) for head in range(HEADS) for row in range(2)):
        expected = [
            at is not None and at <= 6 + row and (window is None or 6 + row - at < window) for at in stands[head]
        ]
        assert mask[head, row].tolist() == expected


class Budgets(Technique):
    """Every head keeps a number of its own of the newest entries of the prompt, and its first one."""

    slots = ("evict",)
    exact = False
    paper = "none"
    name = "budgets"

    def __init__(self, *budgets):
        self.budgets = budgets

    def start(self, run):
        return self

    @classmethod
    def neutral(cls):
        return cls(1_000_000)

    def prefilled(self, layer, query, cache):
        held = cache.length
        most = min(held, max(self.budgets))
        index = torch.zeros(cache.heads, most, dtype=torch.long)
        valid = torch.zeros(cache.heads, most, dtype=torch.bool)
        for head in range(cache.heads):
            kept = min(held, self.budgets[head % len(self.budgets)])
            index[head, :kept] = torch.tensor([0, *range(held - kept + 1, held)])
            valid[head, :kept] = True
        cache.keep(index, valid)

    def settled(self, cache):
        pass


class Masked:
    """Slot ``attention``: the same over a whole cache, one head at a time."""

    def __init__(self, budgets, held):
        self.budgets, self.held = budgets, held

    def attend(self, layer, query, cache, mask, scoring):
        keys, values, count = cache.keys[0], cache.values[0], query.shape[2]
        if cache.length == self.held:
            return None
        out = torch.zeros_like(query)
        for head in range(query.shape[1]):
            own = head * len(keys) // query.shape[1]
            kept = self.budgets[own % len(self.budgets)]
            for row in range(count):
                last = cache.length - count + row
                seen = [0, *range(self.held - kept + 1, self.held), *range(self.held, last + 1)]
                weights = scoring.scores(keys[own, seen] @ query[0, head, row]).softmax(0)
                out[0, head, row] = weights @ values[own, seen]
        return out, 0.0


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_heads_of_different_lengths_read_what_they_hold(family):
    model, budgets = tiny(family), (7, 20, 12)
    short, whole = Decoder(model, 8, {"evict": Budgets(*budgets)}), Decoder(model)
    for decoder in (short, whole):
        decoder.prefill(PROMPT)
    whole.attend.policy = Masked(budgets, len(PROMPT))
    for tokens in ([5], [6, 7, 8]):
        short.reset_counts()
        one, other = (decoder.forward(tokens, logits="all") for decoder in (short, whole))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    heads = model.anatomy.blocks[0].kv_heads
    mean = sum(budgets[head % 3] for head in range(heads)) / heads
    assert short.cache.keys_kept() == (round(mean + 4),) * model.layers
    assert short.keys_read == pytest.approx([mean + 1 + 2] * model.layers)


def test_ragged_keys_stay_exact_under_drafts_in_any_form():
    model, evict = tiny("llama"), Budgets(7, 20)
    baseline = tokens_of(run(model, PROMPT, [evict], NEW))
    assert baseline == tokens_of(run(model, PROMPT, [evict, Host()], NEW))
    for drafter in (PromptLookup(), TokenRecycling()):
        assert baseline == tokens_of(run(model, PROMPT, [evict, drafter], NEW))
    packed = tokens_of(run(model, PROMPT, [evict, FourBit()], NEW))
    assert packed == tokens_of(run(model, PROMPT, [evict, FourBit(), PromptLookup()], NEW))


def test_a_ragged_cache_goes_on_and_is_chosen_from():
    model, evict = tiny("llama"), Budgets(7, 20)
    first = generate(model, PROMPT, [evict], max_new_tokens=8, stop_tokens=())
    said = tokens_of(first)
    rest = tokens_of(generate(model, [], [], max_new_tokens=NEW - 8, stop_tokens=(), past=first.state))
    assert [*said, *rest] == tokens_of(run(model, PROMPT, [evict], NEW))
    assert "sha256" in first.state.describe()
    # All that a head holds is chosen, so that nothing changes.
    chosen = tokens_of(run(model, PROMPT, [evict, TokenSelect(k=19, sinks=0, recent=1)], NEW))
    assert chosen == tokens_of(run(model, PROMPT, [evict], NEW))


def slow_merge(keys, groups, weights):
    """Weighted means [heads][groups] by loops."""
    means = []
    for head in range(HEADS):
        row = []
        for group in range(max(map(max, groups)) + 1):
            members = [place for place, own in enumerate(groups[head]) if own == group]
            total = sum(weights[head][place] for place in members)
            row.append([members, sum(weights[head][place] * keys[0, head, place] for place in members) / (total or 1)])
        means.append(row)
    return means


@pytest.mark.parametrize("seed", range(8))
def test_entries_that_become_one_are_the_weighted_mean(seed):
    generator = torch.Generator().manual_seed(seed)
    cache = filled(9)
    keys, values = (each.clone() for each in (cache.keys, cache.values))
    groups = torch.randint(-1, 4, (HEADS, 9), generator=generator)
    weights = torch.rand(HEADS, 9, generator=generator) + 0.1
    cache.merge(groups, weights)
    assert cache.length == int(groups.max()) + 1 and cache.evictions == 1
    for entries, held in ((keys, cache.keys), (values, cache.values)):
        for head, row in enumerate(slow_merge(entries, groups.tolist(), weights.tolist())):
            for place, (members, mean) in enumerate(row):
                assert cache.valid is None or bool(cache.valid[head, place]) == bool(members)
                if members:
                    torch.testing.assert_close(held[0, head, place], mean)
                    assert int(cache.positions[head, place]) == members[-1]
                if len(members) == 1:
                    assert torch.equal(held[0, head, place], entries[0, head, members[0]])
    assert torch.isfinite(cache.keys).all()


def test_a_merge_of_ragged_heads_leaves_padding_out():
    cache = ragged()
    before = cache.values.clone()
    cache.merge(torch.tensor([0, 0, 1, 1]))
    assert cache.valid.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(cache.values[0, 0, 0], before[0, 0, :2].mean(0))
    torch.testing.assert_close(cache.values[0, 1, 0], before[0, 1, :2].mean(0))
    assert cache.positions[0].tolist() == [2, 5] and int(cache.positions[1, 0]) == 4
    assert cache.evicted == 3.0 + 1.5


def test_merging_goes_with_a_store():
    """A merge after the prompt, as a technique of the slot ``evict`` does it."""

    class Pairs(Budgets):
        def prefilled(self, layer, query, cache):
            cache.merge(torch.arange(cache.length) // 2)

    model = tiny("llama")
    steps = run(model, PROMPT, [Pairs(), Host()], NEW)
    alone = run(model, PROMPT, [Pairs()], NEW)
    assert tokens_of(steps) == tokens_of(alone)
    assert alone[0].keys_kept == (len(PROMPT) // 2,) * model.layers
    packed = run(model, PROMPT, [Pairs(), FourBit(tail=0)], NEW)
    assert [step.keys_kept for step in packed] == [step.keys_kept for step in alone]
    assert packed[0].cache_bytes < steps[0].cache_bytes
