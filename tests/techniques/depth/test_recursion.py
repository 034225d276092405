"""Recursion: what a run gives is the trained part's own forward, whichever way its tokens come."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import generate, teacher_force
from workbench.errors import CorruptModel, IncompatibleTechniques, SettingError
from workbench.models.load import wrap
from workbench.models.recursive import Layout, Recursive, llama_config, recursion_of, unrolled
from workbench.models.tiny import tiny
from workbench.parts.recursive import RecursiveLanguageModel
from workbench.techniques import PromptLookup, Recursion, SelfSpeculative

LAYOUT = Layout(block=2, times=3)
PROMPT = random_tokens(14, seed=4)
routed = pytest.mark.parametrize(
    ("routing", "keys"), [("expert", "recursion"), ("expert", "shared"), ("token", "recursion"), ("token", "shared")]
)


def pair(routing, keys="recursion", seed=3):
    """A random part, and the model that it unrolls to."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    part = RecursiveLanguageModel(LAYOUT, 96, 16, 24, 2, routing, keys, 8).eval().requires_grad_(False)
    for parameter in part.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.4)
    router = [] if part.router is None else part.router.weight.tolist()
    config = llama_config(8, 96, 16, 24, 2, recursion=Recursive(LAYOUT, routing, keys, router).table())
    named = unrolled({name.removeprefix("llama."): each for name, each in part.llama.state_dict().items()}, LAYOUT)
    hf = LlamaForCausalLM(config)
    hf.load_state_dict({**named, "lm_head.weight": named["model.embed_tokens.weight"]})
    return part, wrap(hf, None, f"recursion-{routing}")


def expected(part, tokens):
    """Logits [tokens, vocabulary] of the part's own forward, and recursions run by each token."""
    tokens = torch.tensor([tokens])
    with torch.no_grad():
        streams, how = part(tokens, torch.ones_like(tokens, dtype=torch.bool))
        return part.logits(streams)[0], sum(active[0].int() for active in how.active).tolist()


@routed
def test_a_run_is_the_forward_of_the_trained_part(routing, keys):
    part, model = pair(routing, keys)
    technique = Recursion()
    steps = run(model, PROMPT, [technique], 12)
    text = PROMPT + tokens_of(steps)
    logits, depths = expected(part, text)
    assert logits[len(PROMPT) - 1 : -1].argmax(-1).tolist() == tokens_of(steps)
    assert len(set(depths)) > 1, "tokens of different depths, or nothing is shown"
    for step, depth in zip(steps[1:], depths[len(PROMPT) :]):
        assert step.layers == (*range(1 + 2 * depth), 7), "layers left out are not computed"
    found = torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, tokens_of(steps), [technique])])
    torch.testing.assert_close(found, logits[len(PROMPT) - 1 : -1][: len(found)], rtol=1e-4, atol=1e-4)


@routed
def test_a_token_has_entries_only_where_it_ran(routing, keys):
    part, model = pair(routing, keys)
    steps = run(model, PROMPT, [Recursion()], 8)
    _, depths = expected(part, PROMPT + tokens_of(steps)[:-1])
    own = [sum(depth > recursion for depth in depths) for recursion in range(3)]
    if keys == "shared":
        own[1:] = [0, 0]
    assert steps[-1].keys_kept == (len(depths), own[0], own[0], own[1], own[1], own[2], own[2], len(depths))
    assert own[0] == len(depths), "the first recursion takes every token"


def test_shared_keys_read_those_of_all_tokens_and_cost_no_projection():
    _, model = pair("expert")
    own, shared = (run(model, PROMPT, [Recursion(keys=keys, threshold=0.0)], 4) for keys in ("recursion", "shared"))
    entry = 2 * 8 * 4  # bytes of a key and a value of the one KV head
    kv = 2 * 16 * 16
    for one, other in zip(own[1:], shared[1:]):
        assert one.layers == other.layers == tuple(range(8)) and one.keys_read == other.keys_read
        # Keys and values of four layers are neither multiplied, nor their weights read, nor entries written.
        assert one.flops - other.flops == 4 * kv
        assert one.bytes - other.bytes == 4 * (kv // 2 * 4 + entry)


@routed
def test_tokens_verified_together_are_those_decoded_one_by_one(routing, keys):
    _, model = pair(routing, keys)
    prompt = PROMPT * 3
    alone, drafted = (
        run(model, prompt, techniques, 20) for techniques in ([Recursion()], [Recursion(), PromptLookup()])
    )
    assert tokens_of(drafted) == tokens_of(alone)
    assert sum(step.drafted for step in drafted) > 0


def test_a_prompt_in_chunks_is_the_same_prompt():
    _, model = pair("expert")
    whole, parts = (run(model, PROMPT * 2, [Recursion()], 6, prefill_chunk=size) for size in (None, 5))
    assert tokens_of(whole) == tokens_of(parts) and whole[-1].keys_kept == parts[-1].keys_kept


def test_the_threshold_decides_how_many_go_on():
    _, model = pair("expert")
    layers = [sum(len(step.layers) for step in run(model, PROMPT, [Recursion(threshold=t)], 16)) for t in (0, 0.5, 1)]
    assert layers[0] > layers[1] > layers[2]
    assert {step.layers for step in run(model, PROMPT, [Recursion(threshold=1)], 4)} == {(0, 1, 2, 7)}


def test_what_the_router_multiplies_is_counted():
    _, model = pair("expert")
    step = run(model, PROMPT, [Recursion(threshold=0.0)], 2)[1]
    assert (step.policy_flops, step.policy_bytes) == (3 * 2 * 16, 3 * 16 * 4)


def test_a_model_without_recursions_or_router_is_refused_before_work():
    with pytest.raises(SettingError, match="no recursive model: load recursion-expert"):
        generate(tiny("llama"), PROMPT, [Recursion()])
    with pytest.raises(SettingError, match="has no router; set router=none"):
        generate(pair("fixed")[1], PROMPT, [Recursion()])
    with pytest.raises(SettingError, match="no recursive model"):
        generate(pair("expert")[1].shallow(4), PROMPT, [Recursion()])
    with pytest.raises(SettingError, match="has 2 layers"):
        generate(tiny("llama", layers=2), PROMPT, [Recursion(router="expert")])


def test_a_drafter_that_pauses_between_layers_is_refused():
    with pytest.raises(IncompatibleTechniques, match="recursion"):
        generate(pair("expert")[1], PROMPT, [Recursion(), SelfSpeculative()])


def test_a_table_that_does_not_fit_its_model_is_refused():
    table = Recursive(LAYOUT, "expert", "recursion", [[0.0] * 16] * 3).table()
    right = llama_config(8, 96, 16, 24, 2, recursion=table)
    assert recursion_of(right).layout == LAYOUT
    for wrong in (
        {"times": 2},
        {"routing": "all"},
        {"router": [[0.0] * 15] * 3},
        {"block": "two"},
        {"last": 0},
        {"keys": 1},
    ):
        with pytest.raises(CorruptModel, match="recursion"):
            recursion_of(llama_config(8, 96, 16, 24, 2, recursion={**table, **wrong}))
