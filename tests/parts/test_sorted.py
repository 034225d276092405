"""Sorted models: the change against weights changed by hand, what sub-models cost, and files that are none."""

import dataclasses

import pytest
import torch
from helpers import random_tokens

from workbench import artifacts
from workbench.engine import Decoder
from workbench.errors import ArtifactError, SettingError
from workbench.models.tiny import tiny
from workbench.models.variant import named_weights
from workbench.parts.exits.sorted import KINDS, NAME, SortedAdapter, load_sorted, shapes_of
from workbench.parts.exits.submodels import merged, sorted_blocks, sorted_view, submodels

PROMPT = random_tokens(12)


def by_hand(model, part, width, strength):
    """All weights: those of the change, and of the neurons that are left out their columns of ``down`` at nought."""
    weights = {}
    for name, weight in named_weights(model.anatomy).items():
        place, _, kind = name.removeprefix("layers.").removesuffix(".weight").partition(".")
        if kind in KINDS and name.endswith("weight") and int(place) >= part.first:
            low, high = (part.state_dict()[f"{place}/{kind}/{end}"] for end in ("in", "out"))
            weights[name] = weight + strength * sum(
                torch.outer(high[:, each], low[each]) for each in range(low.shape[0])
            )
            if kind == "down":
                left_out = part.order[int(place) - part.first].tolist()[round(width * weight.shape[1]) :]
                weights[name][:, left_out] = 0
    return weights


@pytest.mark.parametrize(("width", "strength"), [(1.0, 1.0), (0.5, 1.0), (0.5, 0.4)])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_a_sub_model_has_the_change_and_the_first_neurons(family, width, strength):
    model = tiny(family)
    part = load_sorted(model, "untrained")
    part.order.copy_(part.order.flip(1))
    view = dataclasses.replace(model)
    view.anatomy = sorted_view(model.anatomy, part, width, strength)
    found = Decoder(view).prefill(PROMPT, logits="all")
    expected = Decoder(model.variant(weights=by_hand(model, part, width, strength))).prefill(PROMPT, logits="all")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, Decoder(model).prefill(PROMPT, logits="all"), atol=1e-2)


def test_what_training_multiplies_is_what_runs_and_costs_what_it_says():
    model = tiny("llama")
    part = load_sorted(model, "untrained")
    x = torch.randn(3, model.anatomy.width, generator=torch.Generator().manual_seed(0))
    for block in sorted_blocks(model.anatomy, part, 0.5).values():
        dense = merged(block)
        torch.testing.assert_close(block.up(x), dense.up(x))
        torch.testing.assert_close(block.up.weight, dense.up.weight)
        rank = block.up.low.shape[0]
        assert block.up.flops(3) - dense.up.flops(3) == 2 * 3 * rank * sum(dense.up.weight.shape)
        assert block.up.bytes(3) - dense.up.bytes(3) == 4 * rank * sum(dense.up.weight.shape)


def test_what_does_not_change_is_shared():
    model = tiny("llama")
    part = load_sorted(model, "untrained")
    view = sorted_view(model.anatomy, part, 1, 1)
    for layer, (one, other) in enumerate(zip(view.blocks, model.anatomy.blocks)):
        assert (one.up.weight is other.up.weight) == (layer < part.first)
    assert view.head is model.anatomy.head


def test_shares_are_those_of_layers_and_of_operations():
    model = tiny("gpt2")
    part = load_sorted(model, "untrained")
    part.acceptance.copy_(torch.arange(6.0).view(2, 3) / 10)
    assert part.depths.tolist() == [2, 3, 4] and part.widths.tolist() == [1.0, 0.5] and part.first == 2
    block, head = model.anatomy.blocks[0], model.anatomy.head.flops(1)
    narrow = block.flops(1) - (block.up.flops(1) + block.down.flops(1)) / 2
    whole = 4 * block.flops(1) + head
    found = submodels(model, part)
    assert [(each.depth, each.width, each.layers) for each in found] == [
        (depth, width, depth / 4) for width in (0.5, 1.0) for depth in (2, 3, 4)
    ]
    assert found[1].flops == pytest.approx((2 * block.flops(1) + narrow + head) / whole)
    assert found[4].flops == pytest.approx((3 * block.flops(1) + head) / whole) and found[5].flops == 1
    assert [round(each.accuracy, 6) for each in found] == [0.3, 0.4, 0.5, 0.0, 0.1, 0.2]


def test_other_models_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(SettingError, match="dense and attends; layer 0 of tiny-mixtral"):
        load_sorted(tiny("mixtral"), "untrained")
    model = tiny("llama")
    good = load_sorted(model, "untrained").state_dict()
    assert SortedAdapter.of(good, model).first == 2
    with pytest.raises(ArtifactError, match=r"of 4 layers .* does not fit tiny-llama, which has 6"):
        SortedAdapter.of(good, tiny("llama", layers=6))
    for key, value, said in (
        ("depths", torch.tensor([3, 2, 4], dtype=torch.int32), "damaged"),
        ("depths", torch.tensor([0, 2, 4], dtype=torch.int32), "damaged"),
        ("widths", torch.tensor([0.5, 1.0]), "damaged"),
        ("order", torch.zeros_like(good["order"]), "damaged"),
        ("order", good["order"][:, :-1], "does not fit"),
        ("2/up/in", good["2/up/in"][:, :-1], "2/up/in has shape"),
    ):
        with pytest.raises(ArtifactError, match=said):
            SortedAdapter.of({**good, key: value}, model)
    for gone in ("widths", "2/up/in", "3/down/out"):
        with pytest.raises(ArtifactError, match=gone):
            SortedAdapter.of({key: value for key, value in good.items() if key != gone}, model)
    path = tmp_path / f"{NAME}.safetensors"
    artifacts.save(NAME, good, {"model": {"name": "tiny-gpt2", "revision": "tiny"}}, tmp_path)
    with pytest.raises(ArtifactError, match="trained for tiny-gpt2, not for tiny-llama"):
        load_sorted(model, str(path))
    assert set(shapes_of(model, 3)) == {f"3/{kind}" for kind in KINDS}
