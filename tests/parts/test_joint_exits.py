"""Exits trained together: what gates read and say, against the formulas slowly, and files that are none."""

import math

import pytest
import torch

from workbench import artifacts
from workbench.errors import ArtifactError, SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits.joint import (
    NAME,
    SHARPNESS,
    JointExits,
    JointLens,
    exit_distribution,
    exit_layers,
    features,
    load_joint,
)


def slow_features(logits):
    """The four numbers of one row of logits, written out."""
    most = max(logits)
    weights = [math.exp(each - most) for each in logits]
    chances = [each / sum(weights) for each in weights]
    squares = [each**2 / sum(other**2 for other in chances) for each in chances]
    first, second = sorted(chances)[::-1][:2]
    entropies = [-sum(p * math.log(p) for p in each if p > 0) for each in (chances, squares)]
    return [first, first - second, *(1 - entropy / math.log(len(logits)) for entropy in entropies)]


def part_of(model, rank=3, layers=(1, 2), tokens=8):
    part = JointExits(layers, model.anatomy.width, rank, tokens)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for parameter in part.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return part


def test_gates_read_the_four_numbers():
    logits = 3 * torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    logits[0] = 0.0
    logits[1] = torch.tensor([80.0] + [0.0] * 11)
    found = features(logits)
    expected = torch.tensor([slow_features(row) for row in logits.double().tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[:2], torch.tensor([[1 / 12, 0, 0, 0], [1.0, 1, 1, 1]]), rtol=1e-5, atol=1e-5)
    assert torch.equal(features(logits[None].bfloat16())[0], features(logits.bfloat16()))


def test_the_chances_of_leaving_are_a_distribution():
    chances = torch.rand(4, 9, generator=torch.Generator().manual_seed(2)).double()
    chances[1, 0], chances[0, 1] = 1.0, 0.0
    found = exit_distribution(chances)
    for row in range(9):
        gates, left = chances[:, row].tolist(), 1.0
        for place, gate in enumerate(gates):
            assert float(found[place, row]) == pytest.approx(gate * left)
            left *= 1 - gate
        assert float(found[4, row]) == pytest.approx(left)
    torch.testing.assert_close(found.sum(0), torch.ones(9).double())
    assert found[2:, 0].tolist() == [0, 0, 0], "behind an open gate nobody comes"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_lens_is_the_part(family):
    """Maps and gates of one exit at a time, in the model's arithmetic, are those that were trained all at once."""
    model = tiny(family)
    part = part_of(model)
    lens = JointLens(model, part)
    x = torch.randn(2, 5, model.anatomy.width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        streams = part(x)
        logits = model.anatomy.unembed(streams)[..., part.vocabulary.long()]
        odds = part.odds(features(logits))
        for place, layer in enumerate(lens.layers):
            torch.testing.assert_close(lens.stream(x[place], layer), streams[place])
            slow = x[place] + x[place] @ (part.up[place] @ part.down[place]).T + part.bias[place]
            torch.testing.assert_close(streams[place], slow)
            read = lens.head(layer, lens.tokens)(x[place])
            torch.testing.assert_close(read, logits[place])
            torch.testing.assert_close(lens.leaves(layer, read), odds[place].sigmoid())
            for row in range(5):
                numbers = slow_features(read[row].tolist())
                slow = SHARPNESS * (part.offset[place] + sum(w * n for w, n in zip(part.gate[place], numbers)))
                assert float(odds[place, row]) == pytest.approx(float(slow), abs=1e-3)
    assert lens.stream(x, lens.last) is x and lens.flops(lens.last, 3) == 0
    assert (
        lens.flops(1, 3) == 2 * 3 * 2 * 3 * model.anatomy.width and lens.bytes(1, 3) == 4 * 2 * 3 * model.anatomy.width
    )
    with pytest.raises(SettingError, match=r"after layers \[1, 2\], not after 0"):
        lens.stream(x[0], 0)


def test_layers_with_an_exit():
    assert exit_layers(30, 0.6, 3) == [17, 20, 23, 26]
    assert exit_layers(4, 0.0, 1) == [0, 1, 2] == exit_layers(4, 0.25, 1)
    with pytest.raises(SettingError, match="set first lower"):
        exit_layers(4, 0.99, 1)


@pytest.mark.parametrize(
    "wrong", ["layer", "order", "negative", "none", "width", "tokens", "twice", "fraction", "missing", "features"]
)
def test_a_file_that_is_none_of_the_model_is_refused(wrong, tmp_path):
    model = tiny("llama")
    layers = {"layer": (1, 3), "order": (2, 1), "negative": (-1, 1), "none": ()}.get(wrong, (1, 2))
    part = JointExits(layers, model.anatomy.width + (wrong == "width"), 3, 8)
    part.vocabulary += 90 * (wrong == "tokens")
    if wrong == "twice":
        part.vocabulary[1:] = part.vocabulary[0]
    tensors = part.state_dict()
    if wrong == "fraction":
        tensors["layers"] = tensors["layers"].float()
    if wrong == "features":
        tensors["gate"] = tensors["gate"][:, :3].clone()
    if wrong == "missing":
        del tensors["offset"]
    artifacts.save(NAME, tensors, {"model": {"name": model.name}}, tmp_path)
    with pytest.raises(ArtifactError):
        load_joint(model, str(tmp_path / f"{NAME}.safetensors"))


def test_they_come_back_as_they_were_stored(tmp_path):
    model = tiny("llama", dtype=torch.bfloat16)
    part = part_of(model).bfloat16()
    part.vocabulary.copy_(torch.tensor([5, 3, 9, 90, 2, 1, 0, 7]))
    artifacts.save(NAME, part.state_dict(), {"model": {"name": model.name}}, tmp_path)
    lens, own = load_joint(model, str(tmp_path / f"{NAME}.safetensors")), JointLens(model, part)
    x = torch.randn(2, model.anatomy.width, dtype=torch.bfloat16)
    assert lens.layers == (1, 2) and lens.tokens == 8 and lens.head(1, 3).vocabulary.tolist() == [5, 3, 9]
    assert torch.equal(lens.stream(x, 1), own.stream(x, 1))
    logits = own.head(1, 8)(x)
    assert torch.equal(lens.leaves(1, logits), own.leaves(1, logits))
