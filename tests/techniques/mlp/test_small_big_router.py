"""Each row takes what its router says, big MLPs that no row takes are not read; what is taken is counted."""

import dataclasses

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import generate
from workbench.engine.decoder import Decoder
from workbench.engine.ledger import Ledger
from workbench.errors import ArtifactError, SettingError
from workbench.models.tiny import tiny
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big import BIG, NONE, SMALL, router_maps, small_mlps
from workbench.techniques import NeuronGate, PromptLookup, SmallBigRouter
from workbench.training import train
from workbench.training.data import DataSettings
from workbench.training.writing import write_texts

PROMPT = tuple(random_tokens(24) * 2)
UNTRAINED = SmallBigRouter(weights="untrained", small="untrained")


class _Run:
    def __init__(self, model):
        self.model, self.ledger = model, Ledger()


def slow(model, block, row, chance):
    """What one row takes, and what is added to it, written out."""
    normed = read_of(block, row[None])[0]
    router, small = router_maps(model, "untrained")[block.index], small_mlps(model, "untrained")[block.index]
    odds = (router.weight @ normed + router.bias).double()
    none, few, big = (odds.exp() / odds.exp().sum()).tolist()
    if big > chance:
        return BIG, block.mlp_sublayer(row[None, None])[0, 0]
    if none > few:
        return NONE, torch.zeros_like(row)
    inner = block.activation((small.up.weight @ normed + small.up.bias)[None], block.gated)[0]
    return SMALL, small.down.weight @ inner + small.down.bias


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_neox"])
def test_a_row_takes_what_the_router_says(family):
    model = tiny(family)
    block = model.anatomy.blocks[1]
    x = 3 * torch.randn(40, model.anatomy.width, generator=torch.Generator().manual_seed(2))
    chance = 0.45
    policy = dataclasses.replace(UNTRAINED, chance=chance).start(_Run(model))
    own, _ = policy.stand_in(block, x)
    found = block.mlp_sublayer(x[None], choose=_Of(policy, block))[0]
    want = [slow(model, block, row, chance) for row in x]
    kinds = [kind for kind, _ in want]
    assert own.tolist() == [place for place, kind in enumerate(kinds) if kind == BIG] and {BIG, SMALL} <= set(kinds)
    torch.testing.assert_close(found, torch.stack([added for _, added in want]), rtol=1e-4, atol=1e-5)


class _Of:
    def __init__(self, policy, block):
        self.stand_in = lambda x: policy.stand_in(block, x)
        self.neurons = lambda x: policy.neurons(block, x)


def test_what_is_taken_is_counted():
    """By hand: the model's own cost less the big MLPs of rows that go elsewhere, routers and small MLPs beside it."""
    model, rows = tiny("llama"), list(PROMPT[:5])
    taken = []
    given = _Run(model)
    policy = UNTRAINED.start(given)

    class Seen:
        def neurons(self, block, x):
            return policy.neurons(block, x)

        def stand_in(self, block, x):
            own, added = policy.stand_in(block, x)
            taken.append((len(own), int((added != 0).any(1).sum())))
            return own, added

    plain, routed = Decoder(model), Decoder(model, 0, {"mlp": Seen()})
    plain.forward(rows), routed.forward(rows)
    block, small = model.anatomy.blocks[0], small_mlps(model, "untrained")[0]
    big = block.up.weight.numel() + block.down.weight.numel()
    assert any(own == 0 for own, _ in taken) or any(0 < own < 5 for own, _ in taken)
    assert plain.flops - routed.flops == sum(2 * big * (5 - own) for own, _ in taken) > 0
    assert plain.bytes - routed.bytes == sum(4 * big for own, _ in taken if own == 0)
    router = router_maps(model, "untrained")[0]
    fewer = [few for _, few in taken]
    numbers = small.up.weight.numel() + small.down.weight.numel()
    assert given.ledger.of("policy").flops == 2 * router.weight.numel() * 5 * 4 + 2 * numbers * sum(fewer)
    assert given.ledger.of("policy").bytes == 4 * router.weight.numel() * 4 + 4 * numbers * sum(map(bool, fewer))


def test_a_big_mlp_that_no_row_takes_is_not_read(monkeypatch):
    """Its weights may be anything then."""
    model = tiny("llama")
    never = dataclasses.replace(UNTRAINED, chance=0.999)
    said = tokens_of(run(model, PROMPT, [never]))
    for block in model.anatomy.blocks:
        for name in ("up", "down"):
            linear = getattr(block, name)
            monkeypatch.setattr(linear, "weight", torch.full_like(linear.weight, float("nan")))
    assert tokens_of(run(model, PROMPT, [never])) == said != tokens_of(run(tiny("llama"), PROMPT))


@pytest.mark.parametrize("chance", [0.4, 0.5])
def test_drafts_change_nothing(chance):
    """Verified tokens are routed as they would have been alone."""
    model, technique = tiny("llama"), dataclasses.replace(UNTRAINED, chance=chance)
    alone, drafted = run(model, PROMPT, [technique]), run(model, PROMPT, [technique, PromptLookup(ngram=1)])
    assert tokens_of(alone) == tokens_of(drafted) and any(step.drafted for step in drafted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_bit_for_bit_whatever_rows_are_beside_it(dtype):
    model = tiny("llama", dtype=dtype)
    if not model.anatomy.multiply.compiled:
        pytest.skip(f"products of {dtype} are torch's here, whose sums hang on the number of rows")
    block, policy = model.anatomy.blocks[2], UNTRAINED.start(_Run(model))
    x = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.inference_mode():
        together = block.mlp_sublayer(x, choose=_Of(policy, block))
        for row in range(9):
            assert torch.equal(
                block.mlp_sublayer(x[:, row : row + 1], choose=_Of(policy, block))[0, 0], together[0, row]
            )


def test_a_higher_chance_costs_less():
    model = tiny("llama")
    spent = [run(model, PROMPT, [dataclasses.replace(UNTRAINED, chance=chance)], 3)[-1].flops
             for chance in (0, 0.45, 0.6)]  # fmt: skip
    assert spent[0] > spent[1] > spent[2]


def test_models_of_experts_alone_and_foreign_parts_are_refused(tmp_path):
    with pytest.raises(SettingError, match="tiny-mixtral has no dense MLP"):
        next(generate(tiny("mixtral"), PROMPT, [UNTRAINED], max_new_tokens=2))
    data = texts(tiny("gpt2"))
    train("small_mlps", tiny("gpt2"), tmp_path, data, steps=1, neurons=4, batch=2, length=24, looked=24)
    weights = str(tmp_path / "small_mlps.safetensors")
    with pytest.raises(ArtifactError, match="trained for tiny-gpt2, not for tiny-llama"):
        small_mlps(tiny("llama"), weights)
    with pytest.raises(ArtifactError, match="holds a small_mlps, not a small_big_router"):
        router_maps(tiny("gpt2"), weights)
    deeper = dataclasses.replace(tiny("gpt2").variant([0, 1, 0, 1, 0, 1]), name="tiny-gpt2")
    with pytest.raises(ArtifactError, match="does not fit"):
        small_mlps(deeper, weights)


def texts(model):
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 96, (8,), generator=generator).tolist() for _ in range(12)]
    return write_texts(model, prompts, prompts, DataSettings(new_tokens=24, length=40, sampled=1, continued=0))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Small MLPs and a router for a tiny model, and both cards."""
    model, place = tiny("llama"), tmp_path_factory.mktemp("taught")
    data = texts(model)
    shared = {"batch": 8, "length": 40, "evaluations": 1}
    first = train("small_mlps", model, place, data, steps=120, neurons=8, learning_rate=1e-2, looked=80, **shared)
    small = str(place / "small_mlps.safetensors")
    second = train(
        "small_big_router", model, place, data, steps=60, small=small, budget=0.5, learning_rate=3e-2, **shared
    )
    return first, second, small, str(place / "small_big_router.safetensors")


def test_a_small_mlp_comes_nearer_to_the_big_one_than_its_best_neurons(taught):
    curve = taught[0]["curve"]["held_out_loss"]
    assert curve[-1] < 0.8 * curve[0] < 1


def test_a_router_learns_to_spend_its_budget_well(taught):
    _, card, *_ = taught
    curve = card["curve"]
    assert curve["held_out_divergence"][-1] < curve["held_out_divergence"][0]
    assert card["result"]["held_out_big"] == pytest.approx(0.5, abs=0.25)
    assert card["prepared"]["small_mlps"] == taught[0]["sha256"]


def test_a_trained_router_runs(taught):
    *_, small, weights = taught
    model = tiny("llama")
    steps = run(model, PROMPT, [SmallBigRouter(weights=weights, small=small)], 4)
    assert steps[-1].flops < run(model, PROMPT, [], 4)[-1].flops and steps[-1].policy_flops > 0


def test_it_takes_the_place_of_another_choice_of_neurons():
    with pytest.raises(SettingError, match="mlp"):
        run(tiny("llama"), PROMPT, [UNTRAINED, NeuronGate(weights="untrained")], 2)
