"""Routers decide once, from the prompt, what every layer does; a layer that is skipped is not there."""

import dataclasses
import math
import random

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from safetensors.torch import load_file

from workbench import artifacts
from workbench.engine import teacher_force
from workbench.engine.decoder import Decoder
from workbench.engine.ledger import Ledger
from workbench.errors import ArtifactError
from workbench.models.tiny import tiny
from workbench.parts.layer_router import REPEAT, RUN, SKIP, FixedChoices, load_routers, stretches, windows_of
from workbench.techniques import LayerRouter, PromptLookup
from workbench.techniques._technique import Technique
from workbench.training import train
from workbench.training.data import DataSettings
from workbench.training.writing import write_texts

PROMPT = tuple(random_tokens(11) * 2)
UNTRAINED = LayerRouter(weights="untrained")


class _Run:
    def __init__(self, model):
        self.model, self.ledger = model, Ledger()


class Watched(Technique):
    """The technique, with what its policies were shown and chose."""

    slots, exact, paper, name = ("depth",), False, "none", "watched"

    def __init__(self, technique=UNTRAINED):
        self.technique, self.seen, self.policy = technique, [], None

    def start(self, run):
        self.policy = self.technique.start(run)
        choose = self.policy.choose

        def watched(layer, x):
            self.seen.append((layer, x.clone()))
            return choose(layer, x)

        self.policy.choose = watched
        return self.policy

    @classmethod
    def neutral(cls):
        return cls()


def choices_of(model, technique=UNTRAINED, prompt=PROMPT):
    watched = Watched(technique)
    run(model, prompt, [watched], 1)
    return watched.policy.choices


def slow_windows(x, windows):
    """Token by token."""
    rows, count = x.tolist(), min(windows, len(x))
    size, found = len(rows) // count, []
    for first in range(0, count * size, size):
        mean = [sum(row[i] for row in rows[first : first + size]) / size for i in range(len(rows[0]))]
        scale = math.sqrt(sum(value * value for value in mean) / len(mean) + 1.1920929e-07)
        found.append([value / scale for value in mean])
    return found


@pytest.mark.parametrize("tokens", [1, 3, 8, 22, 23])
def test_windows_are_means_of_equal_stretches(tokens):
    x = torch.randn(tokens, 5, generator=torch.Generator().manual_seed(tokens))
    torch.testing.assert_close(windows_of(x, 8), torch.tensor(slow_windows(x.double(), 8)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("lean", [0.0, 0.1, -0.1])
def test_a_choice_is_the_papers_of_the_stream_before_the_layer(family, lean):
    model = tiny(family, layers=8)
    watched = Watched(LayerRouter(weights="untrained", lean=lean))
    run(model, PROMPT, [watched], 3)
    tensors = load_routers(model, "untrained")._tensors
    assert [layer for layer, _ in watched.seen] == list(range(8)), "each is asked once in a run"
    for layer, x in watched.seen:
        inner, first, outer, last = (tensors[key][layer] for key in ("inner", "inner_bias", "outer", "outer_bias"))
        odds = []
        for window in torch.tensor(slow_windows(x, 8)):
            inside = inner @ window + first
            inside = 0.5 * inside * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inside + 0.044715 * inside**3)))
            odds.append(outer @ inside + last)
        chance = (sum(odds) / len(odds)).exp()
        chance = (1 - abs(lean)) * chance / chance.sum()
        chance[RUN if lean > 0 else SKIP] += abs(lean)
        assert watched.policy.choices[layer] == int(chance.argmax())
        assert x.shape == (len(PROMPT), model.anatomy.width)
    for (layer, x), (_, after) in zip(watched.seen, watched.seen[1:]):
        assert torch.equal(x, after) == (watched.policy.choices[layer] == SKIP)


def test_one_set_of_choices_stands_for_the_whole_answer():
    """Also for drafted tokens, verified several at once."""
    model = tiny("llama", layers=8)
    choices = choices_of(model)
    assert set(choices) == {SKIP, RUN, REPEAT}
    layers = tuple(layer for layer, times in enumerate(choices) for _ in range(times))
    alone, drafted = run(model, PROMPT, [UNTRAINED]), run(model, PROMPT, [UNTRAINED, PromptLookup(ngram=1)])
    assert all(step.layers == layers for step in alone + drafted) and any(step.drafted for step in drafted)
    assert tokens_of(alone) == tokens_of(drafted) != tokens_of(run(model, PROMPT))
    held = len(PROMPT) + len(tokens_of(alone)) - 1
    assert alone[-1].keys_kept == drafted[-1].keys_kept == tuple(held * times for times in choices)


def test_other_prompts_have_other_choices():
    model = tiny("llama", layers=8)
    assert len({tuple(choices_of(model, prompt=tuple(random_tokens(20, seed=seed)))) for seed in range(6)}) > 1


def test_what_is_skipped_costs_nothing_and_the_routers_are_counted():
    model = tiny("llama", layers=8)
    steps, plain = run(model, PROMPT, [UNTRAINED], 3), run(model, PROMPT, [], 3)
    tokens, width, hidden = len(PROMPT), model.anatomy.width, 128
    assert steps[0].policy_flops == 8 * (tokens * width + 2 * 8 * hidden * (width + 3))
    assert steps[0].policy_bytes == 8 * 4 * (tokens * width + hidden * width + hidden + 3 * hidden + 3)
    assert steps[0].policy_seconds > 0
    assert all(step.policy_flops == step.policy_bytes == 0 for step in steps[1:])
    choices = choices_of(model)
    blocks = [step.flops - 2 * model.anatomy.head.weight.numel() for step in (steps[1], plain[1])]
    # A token of few more keys: of a layer that runs twice, it reads both entries of every token.
    assert blocks[0] == pytest.approx(blocks[1] * sum(choices) / 8, rel=0.1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_it_leans_from_no_layer_at_all_to_every_layer(family):
    model = tiny(family, layers=6)
    choices = [choices_of(model, LayerRouter(weights="untrained", lean=lean)) for lean in (-1.0, 0.0, 0.6, 1.0)]
    assert choices[0] == [SKIP] * 6 != choices[1] != choices[2] == choices[3] == [RUN] * 6
    bare = run(model, PROMPT, [LayerRouter(weights="untrained", lean=-1)], 3)
    assert all(step.layers == () for step in bare) and len(tokens_of(bare)) == 3
    assert tokens_of(run(model, PROMPT, [LayerRouter.neutral()])) == tokens_of(run(model, PROMPT))


def test_stretches_end_before_something_else_comes_than_the_next_layer():
    for seed in range(20):
        choices = torch.randint(0, 3, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
        policy = FixedChoices(choices)
        follows = {}
        for layer in range(9):
            policy.next_layer(-1, torch.zeros(1, 1, 1))
            follows[layer] = policy.next_layer(layer, torch.zeros(1, 1, 1))
        for layer in (place for place, times in enumerate(choices) if times):
            end = layer
            while end < 8 and follows[end] == end + 1:
                end += 1
            assert stretches(choices)[layer] == policy.stretch(layer) == end


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_run_in_one_call_give_what_they_give_one_by_one(dtype):
    model, choices = tiny("llama", layers=8, dtype=dtype), [1, 1, 0, 1, 1, 1, 0, 1]

    class OneByOne(FixedChoices):
        def stretch(self, layer):
            return layer

    rows = [Decoder(model, policies={"depth": kind(choices)}).prefill(PROMPT, logits="all")
            for kind in (FixedChoices, OneByOne)]  # fmt: skip
    assert torch.equal(*rows)


def texts(model):
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 96, (12,), generator=generator).tolist() for _ in range(30)]
    return write_texts(model, prompts, prompts, DataSettings(new_tokens=12, length=40, sampled=0, continued=0))


SMALL = {"batch": 8, "length": 40, "bottleneck": 8, "windows": 3, "simulations": 60, "tolerance": 0.02, "keep": False}


def test_what_was_trained_is_what_a_run_chooses_with(tmp_path):
    """On a tiny model some of whose layers do nothing: they are what is skipped, and the text hardly suffers."""
    model = _with_idle_layers(tiny("llama", seed=12, layers=6), (1, 4))
    card = train("layer_router", model, tmp_path, texts(model), steps=120, learning_rate=3e-3, **SMALL)
    curve, result = card["curve"], card["result"]
    assert curve["held_out_accuracy"][-1] > curve["held_out_accuracy"][0]
    assert result["held_out_skips_found"] > 0.75 and result["held_out_lost"] <= 0.02
    routed = LayerRouter(weights=str(tmp_path / "layer_router.safetensors"))
    losses, idle, said = [0.0, 0.0], 0, random_tokens(10, seed=3)
    for seed in range(6):
        prompt = tuple(random_tokens(12, seed=seed))
        choices = choices_of(model, routed, prompt)
        idle += choices[1] == choices[4] == SKIP
        full = torch.cat(list(teacher_force(model, prompt, said))).log_softmax(-1)
        others = [SKIP if layer in (2, 3) else RUN for layer in range(6)]
        for place, technique in enumerate((routed, _Fixed(others))):
            rows = torch.cat(list(teacher_force(model, prompt, said, [technique]))).log_softmax(-1)
            losses[place] += float((full.exp() * (full - rows)).sum(-1).mean())
    assert idle >= 5 and losses[0] < 0.5 * losses[1]


class _Fixed(Technique):
    slots, exact, paper, name = ("depth",), False, "none", "fixed"

    def __init__(self, choices):
        self.choices = choices

    def start(self, run):
        return FixedChoices(self.choices)

    @classmethod
    def neutral(cls):
        raise NotImplementedError


def _with_idle_layers(model, idle):
    """A model whose other layers do much; it is changed for good, and nobody else asks for its seed."""
    for layer, block in enumerate(model.hf.model.layers):
        for linear in (block.self_attn.o_proj, block.mlp.down_proj):
            with torch.no_grad():
                linear.weight.mul_(1e-3 if layer in idle else 3.0)
    return model


def test_foreign_and_missing_parts_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="workbench train layer_router"):
        LayerRouter(weights=str(tmp_path / "layer_router.safetensors")).start(_Run(tiny("llama")))
    model = tiny("gpt2")
    train("layer_router", model, tmp_path, texts(model), steps=1, **{**SMALL, "simulations": 2})
    weights = str(tmp_path / "layer_router.safetensors")
    with pytest.raises(ArtifactError, match="trained for tiny-gpt2, not for tiny-llama"):
        LayerRouter(weights=weights).start(_Run(tiny("llama")))
    deeper = dataclasses.replace(tiny("gpt2", layers=6), name="tiny-gpt2")
    with pytest.raises(ArtifactError, match="does not fit"):
        LayerRouter(weights=weights).start(_Run(deeper))
    bare = {name: tensor for name, tensor in load_file(weights).items() if name != "outer"}
    artifacts.save("layer_router", bare, {"model": {"name": "tiny-gpt2"}}, tmp_path)
    with pytest.raises(ArtifactError, match="does not fit"):
        LayerRouter(weights=weights).start(_Run(model))
    artifacts.save("layer_router", {"outer": bare["inner"]}, {"model": {"name": "tiny-gpt2"}}, tmp_path)
    with pytest.raises(ArtifactError, match="no tensor inner"):
        LayerRouter(weights=weights).start(_Run(model))


@pytest.mark.bundled(seconds=6)
def test_the_bundled_model_misses_routed_layers_less_than_any_others(bundled):
    """Layers that the routers skip cost its own answer less than as many others, drawn by chance from all but the first
    three and the last, which nothing can do without."""
    if not artifacts.place("layer_router").is_file():
        pytest.skip("no routers have been trained for the bundled model yet: workbench train layer_router")
    prompt = bundled.encode(bundled.chat("What should I look for when I buy a used bicycle?"))
    answer = tokens_of(run(bundled, prompt, [], 20))
    watched = Watched(LayerRouter())
    steps = run(bundled, prompt, [watched], 4)
    choices, layers = watched.policy.choices, bundled.layers
    assert all(len(step.layers) == sum(choices) for step in steps) and steps[1].policy_flops == 0
    skipped = choices.count(SKIP)
    assert skipped > 0 and sum(choices) < layers
    chance = random.Random(0)

    def loss(choices):
        said = Decoder(bundled, policies={"depth": FixedChoices(choices)}).prefill([*prompt, *answer], logits="all")
        return float(torch.nn.functional.cross_entropy(said[len(prompt) - 1 : -1].float(), torch.tensor(answer)))

    others = []
    for _ in range(6):
        left_out = chance.sample(range(3, layers - 1), skipped)
        others.append(loss([SKIP if layer in left_out else RUN for layer in range(layers)]))
    assert loss([RUN] * layers) < loss(choices) < sum(others) / len(others)
