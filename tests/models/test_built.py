"""``smollm2-moe``: the bundled model with all experts on, close to it with half, and cheaper the fewer run."""

import pytest
import torch

import workbench as wb
from workbench.errors import SettingError
from workbench.models import built, split
from workbench.models.bundled import BUNDLED
from workbench.models.walk import causal, walk
from workbench.techniques import DynamicExperts

TEXT = (
    "A glacier is a large mass of ice that moves slowly over land. It forms where snow falls faster than it melts: "
    "layer upon layer, the snow is pressed into ice, and its own weight makes it flow downhill like a very slow river."
)


@pytest.fixture(scope="module")
def moe(bundled):
    """In float32, as the bundled model is."""
    return wb.load("smollm2-moe", dtype="float32", device="cpu")


@torch.no_grad()
def logits(model, experts=None):
    """Of every place of TEXT, with so many experts on."""
    anatomy, tokens = model.anatomy, torch.tensor([model.encode(TEXT)])
    own = anatomy.config.num_experts_per_tok if experts else 0
    try:
        if experts:
            split.choose(model, experts)
        positions = torch.arange(tokens.shape[1])
        return anatomy.unembed(walk(anatomy.blocks, anatomy.embed(tokens, positions), anatomy.rope(positions), causal))[
            0
        ]
    finally:
        if experts:
            split.choose(model, own)


def divergence(one, other):
    one, other = one.log_softmax(-1), other.log_softmax(-1)
    return float((one.exp() * (one - other)).sum(-1).mean())


@pytest.mark.bundled(seconds=12)
def test_all_experts_on_are_the_dense_model_in_float32(bundled, moe):
    """To the trained routers' share in the weights that experts count with."""
    dense, whole = logits(bundled), logits(moe, 32)
    assert (whole - dense).abs().max() / dense.std() < 2e-3
    assert torch.equal(whole.argmax(-1), dense.argmax(-1)) and divergence(dense, whole) < 1e-5


@pytest.mark.bundled(seconds=12)
def test_half_the_experts_say_most_of_it_and_the_routers_know_which(bundled, moe, monkeypatch):
    dense = logits(bundled)
    few, half, most = (divergence(dense, logits(moe, experts)) for experts in (4, 16, 28))
    assert moe.anatomy.blocks[-1].router.chosen == 16 == moe.hf.config.num_experts_per_tok
    assert most < half / 3 and half < few / 1.5 and half < 0.6
    for block in moe.anatomy.blocks[1:]:
        monkeypatch.setattr(block.router.scores, "weight", -block.router.scores.weight)
    assert divergence(dense, logits(moe)) > 1.3 * half, "the experts that the routers think the least of"


@pytest.mark.bundled(seconds=12)
def test_fewer_experts_cost_less_and_all_are_a_setting_away(bundled, moe):
    prompt = moe.encode("The capital of France is")
    counted = {}
    for name, technique in {
        "half": None,
        "all": DynamicExperts(mass=1, most=32),
        "few": DynamicExperts(mass=0.5),
    }.items():
        steps = list(wb.generate(moe, prompt, [technique] if technique else [], max_new_tokens=5, stop_tokens=()))
        counted[name] = steps[-1]
    assert set(counted["half"].experts) == {16} and set(counted["all"].experts) == {32}
    assert len(set(counted["few"].experts)) > 3 and max(counted["few"].experts) <= 16
    order = [counted[name] for name in ("few", "half", "all")]
    assert order == sorted(order, key=lambda step: step.flops) == sorted(order, key=lambda step: step.bytes)


@pytest.mark.bundled(seconds=12)
def test_it_says_what_it_is(moe):
    row = built.BUILT["smollm2-moe"]
    assert moe.name == row.name and moe.revision.startswith(f"{BUNDLED[row.base].revision}, expert_split ")
    assert moe.layers == 30 and moe.anatomy.family.name == "qwen2_moe" and moe.tokenizer is not None
    assert moe.anatomy.blocks[0].router is None and len(moe.anatomy.blocks[1].router.experts) == 32
    assert row.checksum != BUNDLED[row.base].sha256
    assert set(BUNDLED) | set(built.BUILT) == set(built.NAMES)


def test_what_is_not_there_is_refused():
    with pytest.raises(SettingError, match=r"no model 'smollm3-moe' that is built. Known: smollm2-moe"):
        built.build("smollm3-moe", None)
    assert built.base_of("smollm2-moe") == "smollm2-135m" and built.base_of("else") == "else"
