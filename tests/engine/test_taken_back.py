"""Passes that are closed, cut or pruned: what they added is gone, and what is left is as it was."""

import pytest
import torch
from engine.test_passes import PROMPT, Twice, read

from workbench.engine import Look, Lookahead
from workbench.engine.rows import PassError
from workbench.models.tiny import tiny


@pytest.mark.parametrize("held", ["whole", "behind"])
def test_a_closed_pass_leaves_its_layers_as_contiguous_as_they_came(held):
    model = tiny("llama")
    decoder = read(model)
    if held == "behind":  # layers from the third on lack a row that is pending
        decoder.forward([7])
        for layer in decoder.cache.layers[2:]:
            layer.crop(1)
    before = [(layer.contiguous, layer.length) for layer in decoder.cache.layers]
    for rows in ([0, 2], [1, 2], [2]):
        opened = decoder.open([5, 6, 8])
        opened.run(until=1)
        opened.keep(rows)
        opened.run()
        assert not any(layer.contiguous for layer in decoder.cache.layers[2:])
        opened.close()
        assert [(layer.contiguous, layer.length) for layer in decoder.cache.layers] == before
    decoder.depth = Twice()
    opened = decoder.open([5])
    opened.run()
    assert decoder.repeated == {1}
    opened.close()
    assert [(layer.contiguous, layer.length) for layer in decoder.cache.layers] == before and not decoder.repeated


def test_what_a_commit_leaves_whole_is_contiguous_again():
    decoder = read(tiny("llama"))
    opened = decoder.open([5, 6, 8])
    opened.run(until=1)
    opened.keep([0, 2])
    opened.finish("all")
    assert not decoder.cache.complete
    decoder.commit(3, [0])
    assert decoder.cache.complete and decoder.cache.length == len(PROMPT) + 1


def test_what_was_evicted_in_a_pass_stays_marked_when_it_is_closed():
    decoder = read(tiny("llama"))
    opened = decoder.open([5, 6, 8])
    opened.run(until=1)
    opened.keep([0, 2])
    opened.run(until=3)
    with torch.inference_mode():
        decoder.cache.layers[2].replace([0])
    opened.close()
    assert [layer.contiguous for layer in decoder.cache.layers] == [True, True, False, True]


class Skips:
    """Layer 2 is left out."""

    def next_layer(self, layer, x):
        return {-1: 0, 0: 1, 1: 3, 3: None}[layer]


@pytest.mark.parametrize("then", ["finish", "revive", "more"])
def test_a_pass_is_pruned_to_rows_that_have_left_it(then):
    """The first token left after two layers, and the draft behind it is cut off a layer later."""
    model = tiny("llama")
    decoder, plain = read(model), read(model)
    opened = decoder.open([5, 6, 8])
    opened.run(until=2)
    opened.keep([1, 2])
    early = model.anatomy.unembed(opened.streams([0]))
    opened.run(until=3)
    opened.prune([0])
    assert list(opened.rows) == [] and opened.tokens == [5] and opened.shelf.rows() == [0]
    if then == "revive":
        opened.revive()
        plain.depth = Skips()
        torch.testing.assert_close(opened.finish("all"), plain.forward([5]), rtol=1e-4, atol=1e-4)
    elif then == "more":
        opened.more([6])
        found = opened.finish("all")
        assert found.shape[0] == 2 and torch.equal(found[:1], early)
    else:
        assert torch.equal(opened.finish("all"), early)
        assert decoder.cache.keys_kept() == (len(PROMPT) + 1,) * 2 + (len(PROMPT),) * 2
    assert decoder.cache.length == len(PROMPT) + len(opened.tokens)


@pytest.mark.parametrize("kept", [[], [3], [-1], [1, 0], [1, 1], [0]])
def test_a_pass_is_pruned_to_rows_that_it_has(kept):
    decoder = read(tiny("llama"))
    opened = decoder.open([5, 6, 8])
    opened.run(until=1)
    opened.keep([1, 2], shelve=False)
    with pytest.raises(PassError, match=r"pruned to some of its rows, \[1, 2\], in order, and not to"):
        opened.prune(kept)


def test_rows_that_are_not_there_have_no_logits():
    opened = read(tiny("llama")).open([5, 6])
    opened.run(until=1)
    with pytest.raises(PassError, match="no row to unembed"):
        opened.unembed([])
    with pytest.raises(PassError, match=r"rows \[2\] neither run nor lie on the shelf"):
        opened.unembed([0, 2])
    opened.keep([1])
    opened.prune([0])
    with pytest.raises(PassError, match="no row to unembed"):
        opened.unembed()


def test_rows_ahead_join_after_roots_that_have_left():
    """Each goes on from its own root, wherever that lies."""
    model, seen = tiny("llama"), []
    decoder = read(model)
    opened = decoder.open([5, 6, 8])

    def see(paused):
        streams = paused.streams([0, 2])
        paused.keep([1, 2])
        seen.append(streams)

    def make(x, orders):
        seen.append(x)
        return x

    decoder.complete(opened, "all", Lookahead([2, 0], [1, 1], make, layer=1), [Look(1, see)])
    assert torch.equal(seen[1], seen[0].flip(0)) and decoder.ahead.shape[0] == 2
