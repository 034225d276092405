"""Each row takes what its router says; a big MLP that no row takes is not read; what is taken is counted."""

import dataclasses

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from techniques.trained_parts import needs_artefact

from workbench.engine import generate
from workbench.engine.decoder import Decoder
from workbench.engine.ledger import Ledger
from workbench.errors import ArtifactError, SettingError
from workbench.models.tiny import tiny
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big import BIG, NONE, SMALL, router_maps, small_mlps
from workbench.techniques import PromptLookup, SmallBigRouter
from workbench.training import score, small_big_router, train
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
    plain, said = tokens_of(run(model, PROMPT)), tokens_of(run(model, PROMPT, [never]))
    for block in model.anatomy.blocks:
        for name in ("up", "down"):
            linear = getattr(block, name)
            monkeypatch.setattr(linear, "weight", torch.full_like(linear.weight, float("nan")))
    assert tokens_of(run(model, PROMPT, [never])) == said != plain


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
    first = train("small_mlps", model, place, data, steps=200, neurons=12, learning_rate=1e-2, looked=80, **shared)
    small = str(place / "small_mlps.safetensors")
    second = train(
        "small_big_router", model, place, data, steps=60, small=small, budget=0.5, learning_rate=3e-2, **shared
    )
    return first, second, small, str(place / "small_big_router.safetensors")


def test_a_small_mlp_comes_nearer_to_the_big_one_than_its_best_neurons(taught):
    curve = taught[0]["curve"]["held_out_loss"]
    assert curve[-1] < 0.95 * curve[0] < 1


def test_a_router_keeps_to_its_budget_and_spends_it_better_than_chance(taught, monkeypatch):
    first, card, small, weights = taught
    model = tiny("llama")
    assert card["result"]["held_out_big"] == pytest.approx(0.5, abs=0.25)
    assert card["prepared"]["small_mlps"] == first["sha256"]
    data = texts(model)
    routed = score("small_big_router", model, data, weights, small=small)

    def by_chance(odds, chance):
        return torch.where(torch.rand(odds.shape[:-1]) < routed["big"], BIG, SMALL)

    monkeypatch.setattr(small_big_router, "choose", by_chance)
    random = score("small_big_router", model, data, weights, small=small)
    assert random["big"] == pytest.approx(routed["big"], abs=0.05)
    assert routed["divergence"] < 0.9 * random["divergence"]


def test_a_trained_router_runs(taught):
    *_, small, weights = taught
    model = tiny("llama")
    steps = run(model, PROMPT, [SmallBigRouter(weights=weights, small=small)], 4)
    assert steps[-1].flops < run(model, PROMPT, [], 4)[-1].flops and steps[-1].policy_flops > 0


@pytest.mark.bundled(seconds=8)
@needs_artefact("small_big_router")
def test_the_bundled_router_spends_big_mlps_better_than_chance(bundled):
    """Every token of a text routed: as many big MLPs in layers drawn by chance lose more, and small ones alone most."""
    text = bundled.encode(
        "The capital of France is Paris, and the river that runs through it is the Seine. In 1889 the Eiffel Tower "
        "was opened for the world fair, and for forty years it was the tallest."
    )
    small, generator = small_mlps(bundled), torch.Generator().manual_seed(0)

    def loss(policies):
        rows = Decoder(bundled, 0, policies).prefill(text, logits="all")
        return float(torch.nn.functional.cross_entropy(rows[:-1].float(), torch.tensor(text[1:])))

    class Counting:
        def __init__(self, share=None):
            self.taken = self.asked = 0
            self._share, self._policy = share, SmallBigRouter().start(_Run(bundled))

        def neurons(self, block, x):
            return None

        def stand_in(self, block, x):
            if self._share is None:
                own, added = self._policy.stand_in(block, x)
            else:
                own = (torch.rand(len(x), generator=generator) < self._share).nonzero()[:, 0]
                added = small[block.index](block, read_of(block, x))
            self.taken, self.asked = self.taken + len(own), self.asked + len(x)
            return own, added

    routed = Counting()
    lost = loss({"mlp": routed})
    share = routed.taken / routed.asked
    random, least = loss({"mlp": Counting(share)}), loss({"mlp": Counting(0.0)})
    assert 0.3 < share < 0.9
    assert loss({}) < lost < random - 0.3 and random < least - 0.3, (share, lost, random, least)
