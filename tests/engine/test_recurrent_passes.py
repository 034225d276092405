"""Layers that carry a state instead of keys: read in chunks or one by one, drafted over, paused and taken back."""

import pytest
import torch
from engine.scripted import Scripted
from engine.test_passes import LowerLayers, small_tree
from helpers import random_tokens, run, tokens_of
from toys.recurrent import with_recurrent_layers

from workbench.engine import Decoder, Draft
from workbench.engine.rows import PassError
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup, TokenRecycling

PROMPT = random_tokens(7) * 3
TREE = [-1, 0, 0, 2, 1, 3]
DRAFT = random_tokens(6, seed=3)


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "mixtral"])
def model(request):
    return with_recurrent_layers(tiny(request.param))


def states(decoder):
    return [layer.tensors["memory"].clone() for layer in decoder.cache.layers if layer.recurrent]


def assert_same_states(one, other):
    for mine, its in zip(states(one), states(other), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)


def test_a_prompt_in_chunks_or_token_by_token(model):
    whole = Decoder(model)
    expected = whole.prefill(PROMPT)
    for chunk in (1, 5):
        decoder = Decoder(model)
        torch.testing.assert_close(decoder.prefill(PROMPT, chunk), expected, rtol=1e-4, atol=1e-4)
        assert_same_states(decoder, whole)
    assert sum(layer.recurrent for layer in whole.cache.layers) == 2
    assert whole.cache.keys_kept() == (21, 0, 0, 21)


def test_nodes_of_a_tree_go_on_from_their_parents(model):
    decoder, alone = (Decoder(model) for _ in range(2))
    for each in (decoder, alone):
        each.prefill(PROMPT)
    together = decoder.forward(DRAFT, TREE, "all")
    decoder.commit(6, [0, 2, 3])
    for node in (0, 2, 3):
        torch.testing.assert_close(together[node], alone.forward([DRAFT[node]])[0], rtol=1e-4, atol=1e-4)
    assert_same_states(decoder, alone)


@pytest.mark.parametrize(
    "drafter", [PromptLookup(), TokenRecycling(), Scripted(small_tree), LowerLayers()], ids=lambda each: each.name
)
def test_drafts_over_it_are_exact(model, drafter):
    plain, drafted = run(model, PROMPT), run(model, PROMPT, [drafter])
    assert tokens_of(plain) == tokens_of(drafted) and sum(step.drafted for step in drafted) > 0


def test_a_pass_may_pause_and_be_taken_back(model):
    closed, paused = (Decoder(model) for _ in range(2))
    for each in (closed, paused):
        each.prefill(PROMPT)
    opened = paused.open(DRAFT, TREE)
    opened.run(until=3)
    opened.close()
    assert_same_states(closed, paused)
    opened = paused.open(DRAFT)
    for layer in range(1, model.layers):
        opened.run(until=layer)
    assert torch.equal(opened.finish("all"), closed.forward(DRAFT, logits="all"))
    with pytest.raises(PassError, match="carries a state"):
        paused.open([5]).fill([1])


def test_a_pass_that_was_drafted_with_it_is_pruned_and_committed(model):
    decoder, alone = (Decoder(model) for _ in range(2))
    for each in (decoder, alone):
        each.prefill(PROMPT)
    opened = decoder.open(DRAFT[:1])
    opened.run(until=2)
    opened.more(DRAFT[1:3])
    opened.more(DRAFT[3:5], [0, 3])
    # A tree: 0 -> 1 -> 2 and 0 -> 3 -> 4, of which the second branch stays.
    pruned = Draft(DRAFT[1:5], [-1, 0, -1, 2], paused=opened).pruned([2, 3])
    assert pruned.tokens == DRAFT[3:5]
    found = opened.finish("all")
    expected = [alone.forward([DRAFT[row]])[0] for row in (0, 3)]
    for mine, its in zip(found, expected):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)
    decoder.commit(3, [0, 1])
    assert_same_states(decoder, alone)


def test_what_it_costs_is_its_products_and_its_state():
    model = with_recurrent_layers(tiny("llama"))
    blocks = model.anatomy.blocks
    step = run(model, PROMPT, new=2)[1]
    attention = sum(4 * 22 * block.heads * block.head_dim for block in (blocks[0], blocks[3]))
    assert step.flops == sum(block.flops(1) for block in blocks) + attention + model.anatomy.head.flops(1)
    assert step.keys_read == (22, 0, 0, 22)
    state = 4 * 2 * 6 * 6
    keys = 2 * 4 * 2 * (22 + 1) * blocks[0].kv_heads * blocks[0].head_dim
    weights = sum(block.bytes(1) for block in blocks) + model.anatomy.head.bytes(1)
    assert step.bytes == weights + keys + 2 * 2 * state
