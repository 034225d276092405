"""A state without entries: rows are dropped by going back to what stood before them, in chains and in trees."""

import pytest
import torch

from workbench.engine import KeyValueCache
from workbench.engine.state import LayerCache, RecurrentState
from workbench.errors import WorkbenchError

WIDTH = 3


def mixer(x, state):
    """s ← 0.9 s + xᵀ tanh(x), out = x s: gated linear attention in its smallest form; counts its rows."""
    memory, outs = state.tensors["memory"], []
    for row in x.unbind(1):
        memory = 0.9 * memory + row[:, :, None] * row.tanh()[:, None]
        outs.append((row[:, None] @ memory)[:, 0])
    state.tensors["memory"] = memory
    mixer.rows += x.shape[1]
    return torch.stack(outs, 1)


def new(history=0):
    mixer.rows = 0
    return RecurrentState({"memory": torch.zeros(1, WIDTH, WIDTH)}, history)


def drawn(count, seed=0):
    return torch.randn(1, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def passed(state, x, parents=None, **options):
    state.rows = []
    return state.advance(mixer, x, parents=parents, **options)


def after(*rows):
    """The state after rows that came one by one."""
    state = new()
    for row in rows:
        passed(state, row[None, None])
    return state


PROMPT = drawn(5)


def read(history=0):
    state = new(history)
    passed(state, PROMPT, revocable=False)
    assert mixer.rows == 5
    return state


def same(state, other):
    assert state.length == other.length
    torch.testing.assert_close(state.tensors["memory"], other.tensors["memory"])


@pytest.mark.parametrize("kept", [[], [0], [0, 1], [0, 1, 2, 3]])
def test_a_chain_keeps_the_state_of_its_last_row_kept(kept):
    state, x = read(), drawn(4, 1)
    out = passed(state, x)
    alone = after(*PROMPT[0])
    for row in range(4):
        # Bit for bit: a row goes through as if it had come alone.
        assert torch.equal(passed(alone, x[:, row : row + 1]), out[:, row : row + 1])
    state.settle(kept)
    same(state, after(*PROMPT[0], *x[0, kept]))
    passed(state, x[:, :1])
    same(state, after(*PROMPT[0], *x[0, kept], x[0, 0]))


@pytest.mark.parametrize("kept", [[0], [0, 2], [0, 1, 3], [0, 2, 4]])
def test_a_row_of_a_tree_starts_where_its_parent_ended(kept):
    parents = [-1, 0, 0, 1, 2]
    state, x = read(), drawn(5, 1)
    out = passed(state, x, parents)
    for row in range(5):
        path, node = [], row
        while node >= 0:
            path.insert(0, node)
            node = parents[node]
        alone = after(*PROMPT[0], *x[0, path[:-1]])
        assert torch.equal(passed(alone, x[:, row : row + 1]), out[:, row : row + 1])
    state.settle(kept)
    same(state, after(*PROMPT[0], *x[0, kept]))
    assert state.rows == [list(range(len(kept)))]


def test_nothing_runs_twice():
    state = read()
    passed(state, drawn(4, 1))
    state.settle([0, 1])
    assert mixer.rows == 5 + 4


def test_rows_that_left_before_the_layer_are_no_rows_of_it():
    """Of five rows of a pass three came to the layer: the last of these that is kept says where it stands."""
    state, x = read(), drawn(3, 1)
    passed(state, x, rows=[0, 2, 4])
    state.settle([0, 1, 2, 3])
    same(state, after(*PROMPT[0], *x[0, :2]))
    assert state.rows == [[0, 2]]


def test_a_pass_that_gets_more_rows_goes_on_where_its_rows_ended():
    state, x = read(), drawn(5, 1)
    passed(state, x[:, :2])
    state.advance(mixer, x[:, 2:4], rows=[2, 3])
    state.settle([0, 1, 2])  # pruned in the middle of the pass
    state.advance(mixer, x[:, 4:], rows=[3])
    same(state, after(*PROMPT[0], *x[0, [0, 1, 2, 4]]))
    state.settle([0, 1])
    same(state, after(*PROMPT[0], *x[0, :2]))


def test_a_parent_that_left_before_the_layer_is_passed_over():
    state, x = read(), drawn(3, 1)
    parents = [-1, 0, 1, 1, 2]
    passed(state, x, rows=[0, 3, 4], parents=parents)
    state.settle([0, 1, 2, 4])
    same(state, after(*PROMPT[0], x[0, 0], x[0, 2]))


def test_rows_of_earlier_text_stay():
    state, x = read(), drawn(3, 1)
    passed(state, x, rows=[-1, 0, 1])
    state.settle([])
    same(state, after(*PROMPT[0], x[0, 0]))


def test_a_row_that_comes_again_goes_on_from_where_it_left():
    state, x = read(), drawn(2, 1)
    passed(state, x[:, :1])
    state.advance(mixer, x[:, 1:], rows=[0])
    memory = after(*PROMPT[0], *x[0]).tensors["memory"]
    assert state.length == 7 and state.appended == 2
    torch.testing.assert_close(state.tensors["memory"], memory)
    state.crop(2)
    same(state, after(*PROMPT[0]))


def test_a_prompt_in_one_piece_is_not_taken_apart():
    state = read()
    passed(state, drawn(4, 1), revocable=False)
    with pytest.raises(WorkbenchError, match="revocable"):
        state.settle([0, 1])
    state.settle([0, 1, 2, 3])
    assert state.length == 9


@pytest.mark.parametrize("settled", [False, True])
def test_a_history_goes_back_some_tokens(settled):
    state, x = read(history=4), drawn(6, 1)
    passed(state, x[:, :3])
    if settled:
        state.settle([0, 1, 2])
    for row in range(3, 6):
        passed(state, x[:, row : row + 1])
    assert [count for count in range(12) if state.can_crop(count)] == [0, 1, 2, 3, 4, 11]
    state.crop(2)
    same(state, after(*PROMPT[0], *x[0, :4]))
    with pytest.raises(WorkbenchError, match="history"):
        state.crop(5)
    state.crop(9)
    same(state, new())


def test_snapshots_may_be_restored_again_and_again():
    state, x = read(), drawn(4, 1)
    snapshot = state.snapshot()
    for _ in range(2):
        passed(state, x)
        state.restore(snapshot)
        same(state, after(*PROMPT[0]))
    copied = state.copy(0)
    passed(state, x)
    same(copied, after(*PROMPT[0]))


def test_bytes_are_those_of_the_states_that_are_held():
    state, one = read(), WIDTH * WIDTH * 4
    assert state.bytes_by() == {("recurrent state", "cpu"): one, ("earlier states", "cpu"): one}
    passed(state, drawn(4, 1))
    # The present one, which is the last row's, the three before it, and the one before the pass.
    assert state.bytes_by() == {("recurrent state", "cpu"): one, ("earlier states", "cpu"): 4 * one}
    state.settle([0])
    assert state.bytes_by() == {("recurrent state", "cpu"): one, ("earlier states", "cpu"): one}


def mixed():
    """A cache of a layer with entries and a recurrent one, after the prompt."""
    cache = KeyValueCache(2, 4, lambda index: LayerCache(4) if index == 0 else new())
    advance(cache, PROMPT, revocable=False)
    return cache


def advance(cache, x, parents=None, **options):
    for layer in cache.layers:
        layer.rows = []
    keys = x[:, None]
    cache.layers[0].append(keys, keys, torch.arange(cache.length, cache.length + x.shape[1]))
    cache.layers[1].advance(mixer, x, parents=parents, **options)
    cache.length += x.shape[1]


@pytest.mark.parametrize(("parents", "kept"), [(None, [0, 1]), (None, [0]), ([-1, 0, 0, 2], [0, 2, 3])])
def test_a_cache_commits_both_kinds_of_layers(parents, kept):
    cache, x = mixed(), drawn(4, 1)
    advance(cache, x, parents)
    cache.commit(4, kept)
    assert cache.length == 5 + len(kept) and cache.keys_kept() == (5 + len(kept), 0)
    torch.testing.assert_close(cache.layers[0].keys[0, 0, 5:], x[0, kept])
    same(cache.layers[1], after(*PROMPT[0], *x[0, kept]))
    assert cache.complete


def test_a_cache_that_cannot_stop_where_it_should_begins_anew():
    cache = mixed()
    assert cache.crop_to(5) == 5
    assert cache.crop_to(3) == 0 and cache.length == 0 and cache.keys_kept() == (0, 0)
    same(cache.layers[1], new())
    cache = mixed()
    cache.layers[1].history = 4
    for row in range(3):
        advance(cache, drawn(3, 1)[:, row : row + 1])
    assert cache.crop_to(6) == 6 and cache.keys_kept() == (6, 0)


def test_a_cache_goes_back_to_a_snapshot_until_something_is_evicted():
    cache, x = mixed(), drawn(4, 1)
    snapshot = cache.snapshot()
    advance(cache, x)
    cache.restore(snapshot)
    assert cache.length == 5 and cache.keys_kept() == (5, 0)
    same(cache.layers[1], after(*PROMPT[0]))
    cache.layers[0].keep(torch.arange(3))
    with pytest.raises(WorkbenchError, match="evicted"):
        cache.restore(snapshot)


def test_a_copy_shares_nothing():
    cache = mixed()
    copied = cache.copy(4)
    advance(cache, drawn(2, 1))
    assert copied.length == 5 and copied.keys_kept() == (5, 0)
    same(copied.layers[1], after(*PROMPT[0]))
    assert set(copied.bytes_by()) == {("keys float32", "cpu"), ("values float32", "cpu"), ("recurrent state", "cpu")}
