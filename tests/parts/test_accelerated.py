"""The accelerated stream against its formula, and followed through a pass; files that are none."""

import pytest
import torch
from helpers import random_tokens
from torch.nn import functional as F

from workbench import artifacts
from workbench.engine import Decoder
from workbench.errors import ArtifactError
from workbench.models.tiny import tiny
from workbench.parts.exits import Accelerators, load_accelerated, load_lens
from workbench.parts.exits.accelerated import NAME

PROMPT = random_tokens(12)


def noisy(model, layers, linear=3, gated=5, vocabulary=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        part = Accelerators(layers, model.anatomy.width, linear, gated, vocabulary)
        for parameter in part.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return part.requires_grad_(False)


def stored(model, part, folder):
    artifacts.save(NAME, part.state_dict(), {"model": {"name": model.name}}, folder)
    return str(folder / f"{NAME}.safetensors")


def slowly(part, streams):
    """The accelerated streams [layers, width] of one row by the formula, in float64."""
    maps = {key: value.double() for key, value in part.named_parameters()}
    lead, found = torch.zeros(streams.shape[-1], dtype=torch.float64), []
    for place, h in enumerate(streams.double()):
        size = (h.square().mean() + 1e-5).sqrt()
        ahead = h + lead
        z = torch.cat((ahead / (ahead.square().mean() + 1e-5).sqrt(), h / size))
        gated = F.silu(maps["gate"][place] @ z + maps["gate_bias"][place]) * (maps["enter"][place] @ z)
        lead = (
            maps["forget"][place] * lead
            + maps["up"][place] @ (maps["down"][place] @ h)
            + maps["bias"][place]
            + size * (maps["leave"][place] @ gated)
        )
        found.append(h + lead)
    return torch.stack(found)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral"])
def test_the_stream_is_the_formula_s_however_it_is_computed(family, tmp_path):
    model, layers, seen = tiny(family, layers=5), [0, 2, 3], {}

    def watch(site, layer, value):
        if site == "residual":
            seen[layer] = value[0].clone()

    Decoder(model, watch=watch).prefill(PROMPT)
    part = noisy(model, layers)
    lens = load_accelerated(model, stored(model, part, tmp_path))
    kept = {key: value.bfloat16().float() for key, value in part.named_parameters()}
    for key, value in part.named_parameters():
        value.data.copy_(kept[key])
    slow = torch.stack([seen[layer] for layer in layers])
    expected = torch.stack([slowly(part, slow[:, row]) for row in range(len(PROMPT))], 1)
    torch.testing.assert_close(part(slow).double(), expected, rtol=1e-4, atol=1e-4)
    lead = None
    for place, layer in enumerate(layers):
        lead = lens.advance(seen[layer], layer, lead)
        torch.testing.assert_close((seen[layer] + lead).double(), expected[place], rtol=1e-4, atol=1e-4)


def test_without_accelerators_it_is_the_slow_stream():
    model = tiny("llama")
    part = Accelerators([0, 1, 2], model.anatomy.width, 3, 5, 8).requires_grad_(False)
    slow = torch.randn(3, 4, model.anatomy.width)
    assert torch.equal(part(slow), slow)


def test_rows_that_are_seen_on_their_way_are_read_as_their_accelerated_streams():
    """Between accelerated layers both streams make the same move."""
    model = tiny("llama", layers=6)
    lens, lead = load_accelerated(model, "untrained"), None
    assert lens.layers == [0, 1, 2, 3, 4]
    lens.layers = [1, 3]
    assert lens.followed(0) == [] and lens.followed(2) == [1] and lens.followed(4) == [1, 3]
    with torch.inference_mode():
        for layer in (1, 3, 1):  # a new token, from its first layer on
            x = torch.randn(1, model.anatomy.width)
            lead = lens.advance(x, layer, None if layer == 1 else lead)
            lens.see(x, layer)
            later = torch.randn(1, model.anatomy.width)
            assert torch.equal(lens.stream(later, layer + 1), later + lead)
            assert torch.equal(lens.stream(later, lens.last), later) and torch.equal(lens.stream(later, 0), later)
    width, rank = model.anatomy.width, 4
    weights = 2 * width * rank + 2 * 2 * width * rank + width * rank
    assert lens.seeing(1, 3) == (2 * 3 * weights, 4 * weights)


@pytest.mark.parametrize("wrong", ["width", "layers", "order", "tokens", "twice", "missing", "other"])
def test_a_file_that_is_no_accelerators_of_the_model_is_refused(wrong, tmp_path):
    model = tiny("llama")
    layers = {"layers": [0, 3], "order": [2, 1]}.get(wrong, [0, 2])
    part = Accelerators(layers, model.anatomy.width + (wrong == "width"), 3, 5, 8)
    if wrong == "tokens":
        part.vocabulary += 90
    if wrong == "twice":
        part.vocabulary[1:] = part.vocabulary[0]
    tensors = part.state_dict()
    if wrong == "missing":
        del tensors["forget"]
    name = "tuned_lens" if wrong == "other" else NAME
    artifacts.save(name, tensors, {"model": {"name": model.name}}, tmp_path)
    with pytest.raises(ArtifactError):
        load_accelerated(model, str(tmp_path / f"{name}.safetensors"))


def test_a_model_without_accelerators_is_told_how_to_make_them():
    with pytest.raises(ArtifactError, match="workbench train accelerated_residual"):
        load_accelerated(tiny("llama"))


def test_other_lenses_follow_nothing():
    lens = load_lens(tiny("llama"), "untrained")
    assert not lens.followed(2) and lens.seeing(2, 5) == (0, 0)
