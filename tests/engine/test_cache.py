"""The layer cache against a plain list of entries, over random sequences of what the loop does to it."""

from dataclasses import dataclass, field
from random import Random

import pytest
import torch

from workbench.engine import KeyValueCache, LayerCache

HEADS, WIDTH, BATCH = 2, 3, 1
BYTES_PER_ENTRY = 2 * BATCH * HEADS * WIDTH * 4


def entries(numbers: list[int]):
    """Keys and values that say which token and which head they are of; the values are the keys' negatives."""
    keys = torch.tensor([[[[100.0 * number + head] * WIDTH for number in numbers] for head in range(HEADS)]])
    return keys.view(BATCH, HEADS, len(numbers), WIDTH), -keys.view(BATCH, HEADS, len(numbers), WIDTH)


@dataclass
class Lists:
    """What a cache must hold: for each KV head a list of token numbers."""

    heads: list[list[int]] = field(default_factory=lambda: [[] for _ in range(HEADS)])
    evicted: bool = False

    @property
    def length(self) -> int:
        return len(self.heads[0])

    def append(self, numbers):
        for head in self.heads:
            head.extend(numbers)

    def crop(self, count):
        self.heads = [head[: len(head) - count] for head in self.heads]

    def keep_newest(self, count, kept):
        self.heads = [head[: len(head) - count] + [head[len(head) - count + i] for i in kept] for head in self.heads]

    def keep(self, index):
        self.heads = [[head[i] for i in chosen] for head, chosen in zip(self.heads, index)]
        self.evicted = True

    def replace(self, places):
        self.heads = [[number for i, number in enumerate(head) if i not in places] for head in self.heads]
        self.evicted = True


def held(cache: LayerCache) -> list[list[int]]:
    """Token numbers by head, after checking that keys, values and positions tell of the same ones."""
    keys, values = cache.keys, cache.values
    assert keys.shape == values.shape == (BATCH, HEADS, cache.length, WIDTH)
    assert torch.equal(values, -keys)
    numbers = [((keys[0, head, :, 0] - head) / 100).round().int().tolist() for head in range(HEADS)]
    positions = cache.positions
    assert positions.shape in ((1, cache.length), (HEADS, cache.length))
    assert positions.expand(HEADS, -1).tolist() == numbers
    return numbers


def add(cache: LayerCache, lists: Lists, first: int, count: int) -> None:
    numbers = list(range(first, first + count))
    cache.rows = []  # a pass begins
    cache.append(*entries(numbers), torch.tensor(numbers))
    lists.append(numbers)
    assert cache.appended == count


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_of_changes_leaves_what_a_list_would_hold(seed):
    random = Random(seed)
    cache, lists = LayerCache(reserve=random.choice([0, 1, 8])), Lists()
    text = random.randint(1, 12)
    add(cache, lists, 0, text)
    for _ in range(30):
        change = random.choice(["append", "append", "crop", "newest", "keep", "keep one index", "replace"])
        count, evictions = cache.length, cache.evictions
        if change == "append":
            new = random.randint(1, 6)
            add(cache, lists, text, new)
            text += new
        elif change in ("crop", "newest"):
            new = random.randint(1, 5)
            add(cache, lists, text, new)
            if change == "crop":
                dropped = random.randint(0, new)
                cache.crop(dropped)
                lists.crop(dropped)
                text += new - dropped
            else:
                kept = sorted(random.sample(range(new), random.randint(1, new)))
                cache.keep_newest(new, torch.tensor(kept))
                lists.keep_newest(new, kept)
                prefix = kept == list(range(len(kept)))
                text += len(kept) if prefix else new
                if cache.contiguous and not prefix:
                    # Places then are positions again, as for a path through a tree; these numbers are not.
                    return
        elif change == "keep":
            number = random.randint(1, count)
            index = [sorted(random.sample(range(count), number)) for _ in range(HEADS)]
            cache.keep(torch.tensor(index))
            lists.keep(index)
        elif change == "keep one index":
            index = sorted(random.sample(range(count), random.randint(1, count)))
            cache.keep(torch.tensor(index))
            lists.keep([index] * HEADS)
        else:
            places = random.sample(range(count), random.randint(0, count - 1))
            cache.replace(places)
            lists.replace(places)
            # The order of what stays is the cache's own affair.
            found = held(cache)
            assert [sorted(head) for head in found] == [sorted(head) for head in lists.heads]
            lists.heads = found
        assert cache.length == lists.length <= cache.capacity
        assert cache.contiguous is not lists.evicted
        assert cache.bytes == cache.capacity * BYTES_PER_ENTRY
        assert cache.evictions == evictions + (change in ("keep", "keep one index", "replace"))
        assert held(cache) == lists.heads


@pytest.mark.parametrize("change", ["replace", "keep"])
def test_what_is_appended_after_an_eviction_can_be_cropped(change):
    cache, lists = LayerCache(reserve=2), Lists()
    add(cache, lists, 0, 10)
    if change == "replace":
        cache.replace([1, 2, 9])
    else:
        cache.keep(torch.tensor([[0, 4, 5, 6, 7, 8, 3]] * HEADS))
    before = held(cache)
    add(cache, lists, 10, 5)
    cache.crop(3)
    assert held(cache) == [[*head, 10, 11] for head in before]


def test_room_is_made_once_for_what_is_to_come():
    cache, lists = LayerCache(reserve=20), Lists()
    add(cache, lists, 0, 30)
    allocated = cache.bytes
    assert cache.capacity == 50
    for number in range(30, 50):
        add(cache, lists, number, 1)
    assert cache.bytes == allocated
    add(cache, lists, 50, 1)
    assert 51 <= cache.capacity <= 64
    assert held(cache) == lists.heads


def test_eviction_gives_memory_back():
    cache, lists = LayerCache(reserve=4), Lists()
    add(cache, lists, 0, 100)
    storage = cache.keys.untyped_storage().nbytes()
    cache.keep(torch.arange(50, 60).expand(HEADS, -1))
    assert cache.bytes == 14 * BYTES_PER_ENTRY
    assert cache.keys.untyped_storage().nbytes() == 14 * BYTES_PER_ENTRY // 2 < storage
    assert not cache.contiguous


def test_replacing_copies_nothing_but_what_moves():
    cache, lists = LayerCache(reserve=0), Lists()
    add(cache, lists, 0, 8)
    memory, allocated = cache.keys.data_ptr(), cache.bytes
    cache.replace([0, 3])
    assert (cache.keys.data_ptr(), cache.bytes) == (memory, allocated)
    assert held(cache) == [[6, 1, 2, 7, 4, 5]] * HEADS
    cache.replace([5])
    assert held(cache) == [[6, 1, 2, 7, 4]] * HEADS


def test_positions_that_were_marked_grow_with_the_buffer():
    cache = LayerCache(reserve=0)
    cache.append(*entries([0, 2]), torch.tensor([0, 2]))
    cache.mark_positions(torch.tensor([0, 2]))
    cache.append(*entries([5, 6, 9]), torch.tensor([5, 6, 9]))
    assert held(cache) == [[0, 2, 5, 6, 9]] * HEADS


def filled(layers: int, tokens: int) -> tuple[KeyValueCache, list[Lists]]:
    cache, lists = KeyValueCache(layers, reserve=4), [Lists() for _ in range(layers)]
    for layer, model in zip(cache.layers, lists):
        add(layer, model, 0, tokens)
    cache.length = tokens
    return cache, lists


@pytest.mark.parametrize("kept", [[0], [0, 1, 2], [0, 2, 3], [0, 1, 2, 3, 4]])
def test_a_verification_keeps_its_path_in_every_layer_that_ran(kept):
    cache, lists = filled(3, 6)
    cache.layers[1].rows = []  # a layer that the verification skipped
    for layer, model in ((cache.layers[0], lists[0]), (cache.layers[2], lists[2])):
        add(layer, model, 6, 5)
    cache.length += 5
    cache.commit(5, kept)
    assert cache.length == 6 + len(kept)
    assert cache.keys_kept() == (6 + len(kept), 6, 6 + len(kept))
    for layer, model in zip(cache.layers, lists):
        tokens = [0, 1, 2, 3, 4, 5] + ([6 + place for place in kept] if model is not lists[1] else [])
        assert ((layer.keys[0, 0, :, 0]) / 100).round().int().tolist() == tokens
        # Places of a path are consecutive positions of the text, whichever branch of a tree it took.
        assert layer.positions[0].tolist() == list(range(len(tokens)))


@pytest.mark.parametrize("kept", [[0], [0, 2]])
def test_of_a_layer_that_ran_twice_both_entries_of_a_token_are_kept_or_dropped(kept):
    cache, lists = filled(1, 6)
    add(cache.layers[0], lists[0], 6, 3)
    cache.layers[0].append(*entries([26, 27, 28]), torch.tensor([26, 27, 28]))
    cache.length += 3
    cache.commit(3, kept)
    assert cache.length == 6 + len(kept)
    numbers = [0, 1, 2, 3, 4, 5, *(6 + row for row in kept), *(26 + row for row in kept)]
    assert (cache.layers[0].keys[0, 0, :, 0] / 100).round().int().tolist() == numbers


def test_the_peak_is_remembered_after_memory_was_given_back():
    cache, _ = filled(2, 40)
    assert cache.note_peak() == cache.bytes == 2 * 44 * BYTES_PER_ENTRY
    for layer in cache.layers:
        layer.keep(torch.arange(10))
    assert cache.note_peak() == cache.bytes == 2 * 14 * BYTES_PER_ENTRY
    assert cache.peak_bytes == 2 * 44 * BYTES_PER_ENTRY


def test_forgetting_from_a_place_on():
    cache, lists = filled(2, 9)
    cache.crop_to(4)
    assert cache.length == 4 and cache.keys_kept() == (4, 4)
    assert held(cache.layers[0]) == [model[:4] for model in lists[0].heads]
