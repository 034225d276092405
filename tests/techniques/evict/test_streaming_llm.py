"""Sinks and a window: the same attention as keys rotated anew within the cache, and fluency that hangs on the sinks."""

import pytest
import torch
from helpers import random_tokens, run
from torch.nn import functional as F

from workbench.engine import Decoder, Run, Sampler, generate, teacher_force
from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.load import wrap
from workbench.models.rotate import rotate
from workbench.models.tiny import tiny
from workbench.techniques import StreamingLLM

ROTARY = [name for name, family in FAMILIES.items() if family.rotary is not None]


class WithinTheCache:
    """The paper's own way: keys are stored unrotated, and all of them are rotated by their places at every step."""

    def __init__(self, model, sinks, window):
        self.anatomy, self.sinks, self.window = model.anatomy, sinks, window
        self.keys, self.values = [None] * model.layers, [None] * model.layers

    def forward(self, tokens):
        anatomy = self.anatomy
        held = 0 if self.keys[0] is None else self.keys[0].shape[2]
        total = held + len(tokens)
        places = torch.arange(total)
        unturned, turned = anatomy.rope(torch.zeros(len(tokens), dtype=torch.long)), anatomy.rope(places)
        x = anatomy.embed(torch.tensor([tokens]), places[held:])
        for index, block in enumerate(anatomy.blocks):
            query, key, value = block.enter(x, unturned.get(block.rope_kind))
            if held:
                key, value = torch.cat((self.keys[index], key), 2), torch.cat((self.values[index], value), 2)
            self.keys[index], self.values[index] = key, value
            if block.rope_kind is not None:
                cosine, sine = turned[block.rope_kind]
                # The first table row is the factor that some kinds scale attention with, and nothing else.
                factor = unturned[block.rope_kind][0][:1]
                rope = (cosine / factor)[:, 0], (sine / factor)[:, 0]
                key = rotate(key, rope)
                query = rotate(query, (rope[0][held:], rope[1][held:]))
            groups, scoring = block.heads // block.kv_heads, block.scoring
            scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scoring.scale
            if scoring.softcap is not None:
                scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
            distance = places[held:, None] - places
            hidden = (distance < 0) | (distance >= (block.window or total))
            weights = scores.masked_fill(hidden, float("-inf")).exp()
            beside = 0 if scoring.sinks is None else scoring.sinks.exp()[:, None, None]
            weights = weights / (weights.sum(-1, keepdim=True) + beside)
            x = block.leave(x, weights @ value.repeat_interleave(groups, 1))
        self.evict()
        return anatomy.unembed(x)[0, -1]

    def evict(self):
        for buffers in (self.keys, self.values):
            for index, entries in enumerate(buffers):
                if entries.shape[2] > self.sinks + self.window:
                    buffers[index] = torch.cat((entries[:, :, : self.sinks], entries[:, :, -self.window :]), 2)


def expected(model, prompt, continuation, technique):
    paper = WithinTheCache(model, technique.sinks, technique.window)
    rows = [paper.forward(prompt)]
    return torch.stack(rows + [paper.forward([token]) for token in continuation[:-1]])


def streamed(model, prompt, continuation, technique):
    return torch.cat([rows.clone() for rows in teacher_force(model, prompt, continuation, [technique])])


@torch.inference_mode()
@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("length", [3, 30], ids=["short prompt", "prompt beyond the window"])
def test_moving_the_sinks_is_rotating_all_keys_within_the_cache(family, length):
    model, technique = tiny(family), StreamingLLM(sinks=3, window=9)
    prompt, continuation = random_tokens(length), random_tokens(40, seed=2)
    ours = streamed(model, prompt, continuation, technique)
    torch.testing.assert_close(ours, expected(model, prompt, continuation, technique), rtol=2e-4, atol=2e-4)


def llama_with(rope):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = AutoConfig.for_model("llama", **sizes, rope_parameters={"rope_theta": 10_000.0, **rope})
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for parameter in hf.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return wrap(hf, None, "tiny-llama")


@torch.inference_mode()
def test_a_table_that_scales_attention_scales_it_once():
    model = llama_with({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})
    assert float(model.anatomy.rope(torch.tensor([0]))["all"][0].max()) > 1.1, "this table must scale to show anything"
    technique, prompt, continuation = StreamingLLM(sinks=2, window=6), random_tokens(4), random_tokens(30, seed=2)
    ours = streamed(model, prompt, continuation, technique)
    torch.testing.assert_close(ours, expected(model, prompt, continuation, technique), rtol=2e-4, atol=2e-4)


def test_frequencies_that_change_with_the_length_are_refused():
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0}
    model = llama_with({"rope_type": "longrope", "original_max_position_embeddings": 64, **factors})
    run_of = lambda length: Run(model, tuple(random_tokens(length)), 10, Sampler(), 0)  # noqa: E731
    StreamingLLM().start(run_of(20))
    with pytest.raises(SettingError, match="change with the length"):
        StreamingLLM().start(run_of(60))
    # From its first token on it has the long factors.
    StreamingLLM().start(run_of(100))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(ROTARY)))
def test_learned_positions_are_refused_with_the_reason(family):
    with pytest.raises(SettingError, match="rotary positions"):
        StreamingLLM().start(Run(tiny(family), (3, 4), 10, Sampler(), 0))


def test_no_error_adds_up_in_reduced_precision():
    model, technique = tiny("llama", dtype=torch.bfloat16), StreamingLLM(sinks=2, window=8)
    prompt = random_tokens(5)
    policy = technique.start(Run(model, tuple(prompt), 200, Sampler(), 0))
    decoder = Decoder(model, 200, {"evict": policy})
    decoder.prefill(prompt)
    first = [layer.keys[:, :, :2].float() for layer in decoder.cache.layers]
    for token in random_tokens(150, seed=3):
        decoder.forward([token])
        with torch.inference_mode():
            policy.settled(decoder.cache)
    ahead = len(prompt) + 150 - 8 - 2
    cosine, sine = (table.float() for table in model.anatomy.rope(torch.tensor([ahead]))["all"])
    for layer, keys in zip(decoder.cache.layers, first):
        assert layer.positions[0, :2].tolist() == [ahead, ahead + 1]
        assert sorted(layer.positions[0, 2:].tolist()) == list(range(ahead + 2, ahead + 10))
        # One rounding to bfloat16, as if they had been rotated once.
        assert torch.equal(layer.keys[:, :, :2], rotate(keys, (cosine, sine)).bfloat16())


@pytest.mark.parametrize("length", [4, 60])
def test_memory_stays_as_small_as_sinks_window_and_one(length):
    model = tiny("llama")
    steps = run(model, random_tokens(length), [StreamingLLM(sinks=2, window=8)], 60)
    block = model.anatomy.blocks[0]
    entry = 2 * block.kv_heads * block.head_dim * 4 * model.layers
    assert {step.cache_bytes for step in steps} == {11 * entry}
    assert {step.keys_kept for step in steps[8:]} == {(10,) * model.layers}
    assert {step.keys_read for step in steps[8:]} == {(11.0,) * model.layers}


def test_layers_that_were_skipped_stream_by_themselves():
    """A layer that missed tokens keeps as many of its own, and its sinks stand before the first of them."""

    class EveryOther:
        def __init__(self):
            self.passes = 0

        def next_layer(self, layer, x):
            self.passes += layer == -1
            following = layer + 1 if self.passes % 2 else layer + 2 if layer == 0 else layer + 1
            return following if following < 4 else None

    model, technique = tiny("llama"), StreamingLLM(sinks=2, window=6)
    prompt = random_tokens(4)
    policy = technique.start(Run(model, tuple(prompt), 60, Sampler(), 0))
    decoder = Decoder(model, 60, {"evict": policy, "depth": EveryOther()})
    decoder.prefill(prompt)
    for token in random_tokens(41, seed=3):
        decoder.forward([token])
        with torch.inference_mode():
            policy.settled(decoder.cache)
    full, skipped = decoder.cache.layers[0].positions[0].tolist(), decoder.cache.layers[1].positions[0].tolist()
    assert sorted(full) == [37, 38, 39, 40, 41, 42, 43, 44]
    assert sorted(skipped) == [31, 32, 33, 35, 37, 39, 41, 43]


@pytest.mark.slow
@pytest.mark.bundled
def test_it_stays_fluent_beyond_its_window_and_dropping_the_sinks_hurts(bundled):
    from workbench.tasks.needle import haystack

    text = bundled.encode(" ".join(haystack()[:40]))[:620]
    prompt, continuation = text[:420], text[420:]

    def perplexity(*techniques):
        rows = torch.cat([rows.clone() for rows in teacher_force(bundled, prompt, continuation, techniques)])
        return float(F.cross_entropy(rows.float(), torch.tensor(continuation)).exp())

    full = perplexity()
    streaming = perplexity(StreamingLLM(sinks=4, window=124))
    window_alone = perplexity(StreamingLLM(sinks=0, window=128))
    print(f"perplexity: all keys {full:.1f}, sinks and window {streaming:.1f}, window alone {window_alone:.1f}")
    assert streaming < 1.5 * full
    assert window_alone > 2 * streaming


def test_sinks_of_an_earlier_run_are_moved_from_where_they_stood():
    """However often they are moved: keys of the first layer are those of the token at the place where it stands."""
    model, prompt = tiny("llama"), random_tokens(20)
    first = generate(model, prompt, max_new_tokens=4, stop_tokens=())
    list(first)
    second = generate(model, [5], [StreamingLLM(sinks=2, window=8)], 9, stop_tokens=(), past=first.state)
    list(second)
    layer = second.state.caches[second.state.model].layers[0]
    positions = layer.positions[0, :2]
    # Of the 33 tokens that went through, the window begins at position 25.
    assert positions.tolist() == [23, 24]
    x = model.anatomy.embed(torch.tensor([prompt[:2]]), positions)
    block = model.anatomy.blocks[0]
    _, key, _ = block.enter(x, model.anatomy.rope(positions)[block.rope_kind])
    torch.testing.assert_close(layer.keys[:, :, :2], key)
