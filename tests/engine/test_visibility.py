"""Which keys a row sees, against the rule written out; and no mask where none is asked for."""

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder, LayerCache
from workbench.engine.relations import BothWays, Chain, Segments, Tree, related
from workbench.engine.visibility import Visibility, Visible
from workbench.errors import SettingError
from workbench.models.tiny import tiny

PARENTS = [-1, 0, 0, 2, 1, 3]


def seen_from(relation, text, window=None, rows=None):
    """A layer of ``text`` entries and those of some rows, and what these see of it."""
    layer = LayerCache(0)
    rows = range(relation.count) if rows is None else rows
    positions = torch.tensor([text + relation.depth(row) for row in rows])
    for stands in (torch.arange(text), positions):
        keys = torch.zeros(1, 2, len(stands), 4)
        layer.rows = []
        layer.append(keys, keys, stands, rows if stands is positions else None)
    return layer, Visibility(relation, rows, text, positions).over(layer, 0, window)


def test_a_chain_a_tree_segments_and_both_ways():
    assert Chain(4).matrix.tolist() == torch.ones(4, 4).tril().bool().tolist()
    tree = Tree(PARENTS)
    ways = {0: [0], 1: [0, 1], 2: [0, 2], 3: [0, 2, 3], 4: [0, 1, 4], 5: [0, 2, 3, 5]}
    assert {row: tree.matrix[row].nonzero().flatten().tolist() for row in ways} == ways
    assert tree.depths == [0, 1, 1, 2, 2, 3]
    segments = Segments([2, 3])
    assert segments.depths == [0, 1, 0, 1, 2] and segments.parents == [-1, 0, -1, 2, 3]
    assert segments.matrix.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert BothWays(3).matrix.all() and BothWays(3).sees([0], [2]).all()
    for relation in (Chain(5), tree, segments, BothWays(5)):
        rows = list(range(relation.count))
        assert torch.equal(relation.sees(rows, rows), relation.matrix)


def test_rows_of_the_text_see_it_up_to_themselves_and_every_row_sees_them():
    for relation in (Chain(2), Tree([-1, -1])):
        assert relation.sees([-3, -1, 0], [-3, -2, -1, 0, 1]).int().tolist() == [
            [1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
        ]


def test_a_chain_by_its_parents_is_a_chain_and_stays_one_as_long_as_it_can():
    assert isinstance(related([-1, 0, 1], 3), Chain) and isinstance(related(None, 3), Chain)
    assert isinstance(Chain(2).joined([1, 2]), Chain)
    more = Chain(2).joined([0, 2])
    assert isinstance(more, Tree) and more.parents == [-1, 0, 0, 2]
    assert Tree(PARENTS).of_rows([0, 2, 3]).chain
    with pytest.raises(SettingError, match="both ways"):
        BothWays(2).joined([0])


@pytest.mark.parametrize("window", [None, 6, 2, 20])
@pytest.mark.parametrize("relation", [Chain(6), Tree(PARENTS), Segments([4, 2]), BothWays(6)], ids=str)
def test_the_mask_is_the_rule_written_out(relation, window):
    _, visible = seen_from(relation, 9, window)
    stands = [*range(9), *(9 + relation.depth(row) for row in range(6))]
    expected = torch.zeros(6, 15, dtype=torch.bool)
    for row in range(6):
        for place in range(15):
            known = place < 9 or bool(relation.matrix[row, place - 9])
            expected[row, place] = known and (window is None or abs(stands[9 + row] - stands[place]) < window)
    assert torch.equal(visible.mask(), expected)
    assert visible.keys_read() == float(expected.sum()) / 6


def test_one_row_that_sees_all_needs_no_mask():
    assert seen_from(Chain(1), 9)[1].mask() is None
    assert seen_from(Chain(1), 9, window=10)[1].mask() is None
    assert seen_from(Chain(1), 9, window=9)[1].mask().sum() == 9


def test_heads_that_hold_other_entries_have_masks_of_their_own():
    layer, _ = seen_from(Chain(1), 9)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    layer.keep(torch.tensor([[0, 2, 4, 6, 9], [5, 7, 9, 0, 0]]), valid)
    layer.rows = []
    layer.append(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), torch.tensor([10]), range(1))
    visible = Visibility(Chain(1), range(1), 10, torch.tensor([10])).over(layer, 0, 6)
    assert visible.mask().int().tolist() == [[[0, 0, 0, 1, 1, 1]], [[1, 1, 1, 0, 0, 1]]]
    assert visible.keys_read() == 3.5


class Declining:
    """An attention policy that leaves every layer to the engine."""

    def __init__(self):
        self.asked = 0

    def attend_prompt(self, layer, query, cache, visible, scoring):
        assert isinstance(visible, Visible) and visible.count == query.shape[2]
        self.asked += 1

    attend = attend_prompt


def test_no_mask_of_a_long_prompt_is_made_for_a_policy_that_declines(monkeypatch):
    """16,000 tokens; a mask would have 256 million elements. Attention itself is left out: it is not what is asked."""
    from workbench.engine import layer_attention

    model, policy = tiny("llama"), Declining()
    decoder = Decoder(model, policies={"prefill_attention": policy, "attention": policy})
    tokens = random_tokens(16_000)

    def nothing(query, keys, values, marks, scale, **options):
        assert marks is None
        return query

    monkeypatch.setattr(layer_attention, "native_attention", nothing)
    monkeypatch.setattr(layer_attention.F, "scaled_dot_product_attention", lambda query, *given, **options: query)
    largest = Largest()
    with largest:
        decoder.prefill(tokens, logits="none")
        decoder.forward([5])
    assert policy.asked == 2 * model.layers
    assert 16_000 * 32 <= largest.elements < 16_000**2 / 8


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that an operation gave."""

    elements = 0

    def __torch_dispatch__(self, operation, types, given=(), options=None):
        out = operation(*given, **(options or {}))
        if isinstance(out, torch.Tensor) and operation.namespace == "aten":
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.element_size())
        return out


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_policy_that_declines_changes_nothing_bit_for_bit(family):
    model, tokens = tiny(family), random_tokens(40)
    policy = Declining()
    plain, asked = Decoder(model), Decoder(model, policies={"attention": policy, "prefill_attention": policy})
    for decoder in (plain, asked):
        decoder.prefill(tokens)
    assert torch.equal(plain.forward(PARENTS_TOKENS, PARENTS, "all"), asked.forward(PARENTS_TOKENS, PARENTS, "all"))
    assert plain.keys_read == asked.keys_read


PARENTS_TOKENS = random_tokens(6, seed=2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_segments_of_one_pass_are_read_as_if_each_came_alone(family):
    """A block diagonal: several continuations of one text in one pass."""
    model, text = tiny(family), random_tokens(10)
    parts = [random_tokens(4, seed=5), random_tokens(6, seed=6)]
    decoder = Decoder(model, 16)
    decoder.prefill(text)
    together = decoder.open([*parts[0], *parts[1]], relation=Segments([4, 6])).finish("all")
    for part, rows in zip(parts, together.split([4, 6])):
        alone = Decoder(model, 16)
        alone.prefill(text)
        torch.testing.assert_close(rows, alone.forward(part, logits="all"), rtol=1e-4, atol=1e-4)


def test_rows_that_see_both_ways_are_changed_by_later_ones():
    model, text = tiny("llama"), random_tokens(10)
    found = []
    for last in (5, 6):
        opened = Decoder(model).open([*text, last], relation=BothWays(11))
        found.append(opened.finish("all"))
    assert not torch.allclose(found[0][:10], found[1][:10], atol=1e-3)


@pytest.mark.parametrize("window", [None, 3, 50])
@pytest.mark.parametrize("relation", [Chain(5), Tree(PARENTS), Segments([2, 3]), BothWays(4)], ids=repr)
def test_keys_read_are_those_of_the_mask_whether_one_is_made_or_not(relation, window):
    for rows in (None, [0, 1], [relation.count - 1]):
        _, visible = seen_from(relation, 7, window, rows)
        mask, held = visible.mask(), visible.layer.length
        expected = float(held) if mask is None else float(mask.sum()) / mask.shape[0]
        assert seen_from(relation, 7, window, rows)[1].keys_read() == expected
