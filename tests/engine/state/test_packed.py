"""Stores that encode their older entries, against a plain list and the formula of their bytes."""

from collections import deque, namedtuple
from random import Random

import pytest
import torch
from toys.four_bit import FourBitState, quantised, restored
from toys.host import HostState

from workbench.engine import LayerCache

HEADS, WIDTH, BATCH = 2, 8, 1


def entries(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(BATCH, HEADS, count, WIDTH, generator=generator) for _ in range(2))


def filled(state, count, seed=0):
    state.rows = []
    state.append(*entries(count, seed), torch.arange(state.length, state.length + count))
    return state


def four_bit(tail=4, stride=4, by_channel=False):
    return FourBitState(8, tail, stride, 4, by_channel)


def near(one, other):
    """Equal up to half a step of four bits over what these entries span, and once more for being encoded twice."""
    return float((one - other).abs().max()) < 2 * 0.5 * 6 / 15


@pytest.mark.parametrize("seed", range(3))
def test_a_code_is_the_nearest_of_sixteen(seed):
    grouped = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
    grouped[2] = 0.7
    back = restored(quantised(grouped))
    for row, again in zip(grouped, back):
        low, high = float(row.min()), float(row.max())
        levels = [low + level * (high - low) / 15 for level in range(16)]
        for value, found in zip(row.tolist(), again.tolist()):
            assert abs(found - min(levels, key=lambda level: abs(level - value))) < 1e-5


@pytest.mark.parametrize("by_channel", [False, True])
def test_the_newest_are_as_they_came_and_the_others_near(by_channel):
    state = filled(four_bit(by_channel=by_channel), 23)
    keys, values = entries(23)
    assert torch.equal(state.keys, keys), "a pass reads its own entries as they came"
    state.pack()
    assert state.packed == 16 and state.length == 23
    assert torch.equal(state.keys[:, :, 16:], keys[:, :, 16:])
    for held, came in ((state.keys, keys), (state.values, values)):
        assert near(held, came) and not torch.equal(held, came)
    assert torch.equal(state.positions, torch.arange(23)[None])


@pytest.mark.parametrize("by_channel", [False, True])
def test_bytes_are_those_of_the_formula(by_channel):
    state = filled(four_bit(by_channel=by_channel), 23)
    state.pack()
    # Half a byte for a number, and two float32 for each group of four.
    packed = BATCH * HEADS * 16 * WIDTH
    encoded = packed // 2 + packed // 4 * 2 * 4
    tail = BATCH * HEADS * (23 - 16 + 4) * WIDTH * 4  # as much room as the next four need
    assert state.bytes_by() == {
        ("keys 4-bit", "cpu"): encoded,
        ("values 4-bit", "cpu"): encoded,
        ("keys float32", "cpu"): tail,
        ("values float32", "cpu"): tail,
    }
    assert state.bytes == 2 * (encoded + tail)
    assert state.entry_bytes == pytest.approx((2 * encoded + 2 * 7 * BATCH * HEADS * WIDTH * 4) / 23)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("make", [four_bit, lambda: four_bit(by_channel=True), lambda: HostState(8, 3, 4)])
def test_any_sequence_of_changes_leaves_what_the_dense_state_holds(make, seed):
    """The same changes of a dense state, so places, positions, ragged heads and marks agree, and keys and values up to
    what encoding loses; nothing is lost in the host."""
    random = Random(seed)
    state, dense = make(), LayerCache(8)
    text = 0
    for turn in range(12):
        count = random.randint(1, 9)
        key, value = entries(count, 100 * seed + turn)
        change = random.choice(["", "crop", "settle", "keep", "ragged", "replace", "rewrite", "merge", "copy"])
        drawn = random.random()
        for each in (state, dense):
            own = Random(drawn)
            each.rows = []
            each.append(key, value, torch.arange(text, text + count))
            held = each.length
            if change == "crop":
                each.crop(own.randint(0, min(held - 1, count + 3)))
            elif change == "settle":
                each.settle(sorted(own.sample(range(count), own.randint(1, count))))
            elif change in ("keep", "ragged"):
                number = own.randint(1, held)
                index = torch.tensor([own.sample(range(held), number) for _ in range(HEADS)])
                valid = torch.tensor([[True] * number, [True] + [own.random() < 0.5 for _ in range(number - 1)]])
                each.keep(index, valid if change == "ragged" else None)
            elif change == "replace":
                each.replace(own.sample(range(held), own.randint(0, held - 1)))
            elif change == "rewrite":
                places = torch.tensor([own.sample(range(held), min(3, held)) for _ in range(HEADS)])
                each.rewrite(places, *entries(places.shape[1], 7), positions=torch.arange(900, 900 + places.shape[1]))
            elif change == "merge":
                groups = [own.randint(0, held // 2) for _ in range(held)]
                each.merge(torch.tensor(groups))
        if change == "copy":
            state, dense = state.copy(8), dense.copy(8)
        text += count
        assert state.length == dense.length and state.kept == dense.kept
        assert (state.evictions, state.evicted) == (dense.evictions, dense.evicted)
        assert torch.equal(state.positions, dense.positions) and state.contiguous == dense.contiguous
        assert (state.valid is None) == (dense.valid is None)
        assert state.valid is None or torch.equal(state.valid, dense.valid)
        for held, exact in ((state.keys, dense.keys), (state.values, dense.values)):
            marks = slice(None) if dense.valid is None else dense.valid
            held, exact = held[0][marks], exact[0][marks]
            if isinstance(state, HostState):
                assert torch.equal(held, exact)
            else:
                assert float((held - exact).abs().max()) < 2.5
        pieces = [torch.cat(each, 2 if each[0].dim() == 4 else 1) for each in zip(*state.blocks(3))]
        for piece, whole in zip(pieces, (state.keys, state.values, state.positions)):
            assert torch.equal(piece, whole)


def test_entries_that_stand_for_themselves_are_encoded_once():
    """Choosing, moving and gathering leave the codes, so that errors do not add up."""
    state = filled(four_bit(tail=0), 24)
    state.pack()
    before = state.keys
    index = torch.tensor([[3, 9, 20, 21, 1], [8, 2, 4, 23, 0]])
    expected = before.gather(2, index[None, :, :, None].expand(1, -1, -1, WIDTH))
    assert torch.equal(state.gather(index)[0], expected)
    state.keep(index)
    assert torch.equal(state.keys, expected)
    state.crop(2)
    assert torch.equal(state.keys, expected[:, :, :3])


@pytest.mark.parametrize("tail", [0, 3])
def test_room_ends_where_a_token_alone_would_read_something_encoded(tail):
    state = filled(four_bit(tail=tail), 9)
    for turn in range(20):
        room, before = state.room, state.length
        alone = filled(state.copy(8), 1, turn)
        packed = alone.packed
        for ahead in range(1, room + 2):
            filled(alone, 1, turn)
            assert (alone.packed == packed) is (ahead <= room), (before, ahead, room)
        filled(state, 1, turn)


def test_drafted_entries_are_never_encoded_before_they_are_kept():
    state = filled(four_bit(tail=0), 8)
    filled(state, 7, 1)
    assert state.packed == 8
    state.settle([0, 2, 5])
    key = entries(7, 1)[0][:, :, [0, 2, 5]]
    assert torch.equal(state.keys[:, :, 8:], key)
    filled(state, 1, 2)
    assert state.packed == 8
    filled(state, 1, 3)
    assert state.packed == 12


def test_another_form_takes_entries_over():
    dense = LayerCache(4)
    dense.append(*entries(12), torch.arange(12))
    dense.keep(torch.tensor([[0, 4, 5, 6, 11], [1, 2, 3, 4, 9]]), torch.tensor([[True] * 5, [True] * 4 + [False]]))
    state = HostState(8, 0, 2)
    state.take(dense)
    assert state.packed == 4
    for name in ("keys", "values", "positions", "valid"):
        assert torch.equal(getattr(state, name), getattr(dense, name))
    assert (state.evictions, state.evicted, state.kept) == (1, dense.evicted, 4.5)
    back = LayerCache(2)
    back.take(state)
    assert torch.equal(back.keys, dense.keys) and torch.equal(back.positions, dense.positions)


class Noted(FourBitState):
    """A store with things of its own."""

    shared = ("codebook",)

    def __init__(self, reserve):
        super().__init__(reserve, 4, 4, 4, False)
        self.counts, self.seen, self.by_head = torch.zeros(3), [1, [2]], {0: torch.zeros(2), "places": {5}}
        self.recent, self.pair = deque([[1]], maxlen=4), Pair(torch.zeros(1), [torch.Size([2])])
        self.codebook, self.sketch = torch.ones(4), Sketch()
        self.attend = self.at_once

    def at_once(self, query, make_mask, scoring):
        return self

    def copy(self, reserve):
        made = super().copy(reserve)
        made.sketch = Sketch(self.sketch.sums)
        return made

    def change(self):
        self.counts += 1
        self.seen[1].append(3), self.seen.append(4)
        self.by_head[0] += 1
        self.by_head["places"].add(6), self.by_head.update(new=1)
        self.recent[0].append(2), self.recent.append(3)
        self.pair[0].add_(1), self.pair[1].append(1)
        self.sketch.sums.append(1)

    def own(self):
        head, places = self.by_head[0].tolist(), sorted(self.by_head["places"])
        return str([self.counts.tolist(), self.seen, head, places, len(self.by_head), self.recent, self.pair,
                    self.sketch.sums])  # fmt: skip


Pair = namedtuple("Pair", "sums seen")


class Sketch:
    def __init__(self, sums=()):
        self.sums = list(sums)


@pytest.mark.parametrize("changed", ["copy", "original"])
def test_a_copy_has_what_a_subclass_adds_to_itself(changed):
    state = filled(Noted(8), 12)
    state.pack()
    copied = state.copy(8)
    assert type(copied) is Noted and copied.own() == state.own() and torch.equal(copied.keys, state.keys)
    one, other = (copied, state) if changed == "copy" else (state, copied)
    own, keys = other.own(), other.keys.clone()
    one.change()
    one.rewrite(slice(0, 2), *entries(2, 9))
    assert other.own() == own != one.own() and torch.equal(other.keys, keys)
    assert copied.codebook is state.codebook, "it says that nothing changes it"
    assert copied.attend(None, None, None) is copied and state.attend(None, None, None) is state
    assert copied.recent.maxlen == 4 and type(copied.pair) is Pair
