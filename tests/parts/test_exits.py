"""Lenses: what they say against the formula, what they cost, and files that are none."""

import pytest
import torch
from helpers import random_tokens

from workbench import artifacts
from workbench.engine import Decoder
from workbench.errors import ArtifactError, SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits import NAME, LogitLens, Translators, TunedLens, load_lens

FAMILIES = ["llama", "gemma2", "gpt2", "mixtral"]
PROMPT = random_tokens(12)


def streams(model):
    """Residual streams [tokens, width] by layer, -1 for the embedding."""
    seen = {}

    def watch(site, layer, value):
        if site in ("embedding", "residual"):
            seen[layer] = value[0].clone()

    logits = Decoder(model, watch=watch).prefill(PROMPT, logits="all")
    return seen, logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_lens_is_the_model_s_norm_and_unembedding(family):
    model = tiny(family)
    (seen, logits), lens = streams(model), load_lens(model, "logit")
    assert isinstance(lens, LogitLens) and lens.acceptance is None
    with torch.inference_mode():
        for layer, x in seen.items():
            assert torch.equal(lens.head(layer)(x), model.anatomy.unembed(x))
        assert torch.equal(lens.head(lens.last)(seen[lens.last]), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tuned_lens_is_an_affine_map_before_them(family, dtype):
    model = tiny(family, seed=1, dtype=dtype)
    lens = load_lens(model, "untrained")
    assert isinstance(lens, TunedLens)
    seen, logits = streams(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maps = Translators(model.layers, model.anatomy.width, 4, model.anatomy.vocabulary)
        for parameter in maps.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    exact = {key: value.to(dtype).double() for key, value in maps.state_dict().items()}
    slack = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    with torch.inference_mode():
        for layer in range(-1, lens.last):
            x = seen[layer].double()
            place = layer + 1
            expected = x + x @ (exact["up"][place] @ exact["down"][place]).T + exact["bias"][place]
            found = lens.stream(seen[layer], layer)
            torch.testing.assert_close(found.double(), expected, **slack)
            assert torch.equal(lens.head(layer)(seen[layer]), model.anatomy.unembed(found))
        together = maps.to(dtype)(torch.stack([seen[layer] for layer in range(-1, lens.last)]))
        torch.testing.assert_close(together[2], lens.stream(seen[1], 1), **slack)
        assert torch.equal(lens.head(lens.last)(seen[lens.last]), logits)


@pytest.mark.parametrize("weights", ["logit", "untrained"])
def test_some_tokens_are_those_of_all(weights):
    model = tiny("gemma2")  # its logits are capped
    lens, x = load_lens(model, weights), torch.randn(3, model.anatomy.width)
    if weights == "untrained":
        lens._frequent = torch.randperm(96, generator=torch.Generator().manual_seed(3))
    some, all_ = lens.head(1, tokens=10), lens.head(1, tokens=1000)
    assert all_.vocabulary is None
    which = slice(10) if some.vocabulary is None else some.vocabulary
    with torch.inference_mode():
        torch.testing.assert_close(some(x), all_(x)[:, which])
    assert lens.head(2, tokens=10).unembedding is some.unembedding, "rows are laid out once"


def test_a_pass_counts_what_a_lens_costs():
    model = tiny("llama")
    width, vocabulary = model.anatomy.width, model.anatomy.vocabulary
    decoder = Decoder(model)
    with decoder.open(PROMPT) as opened:
        opened.run(until=2)
        for lens, maps in ((load_lens(model, "logit"), 0), (load_lens(model, "untrained"), 2 * 4 * width)):
            for tokens, rows in ((0, vocabulary), (10, 10)):
                before = decoder.ledger.of("lens")
                spent = before.flops, before.bytes
                opened.unembed([0, 3, 4], head=lens.head(1, tokens), who="lens")
                after = decoder.ledger.of("lens")
                assert after.flops - spent[0] == 2 * 3 * (rows * width + maps)
                assert after.bytes - spent[1] == 4 * (rows * width + maps)
                assert lens.flops(lens.last, 3) == lens.bytes(lens.last, 3) == 0


def test_a_layer_that_the_model_does_not_have_is_refused():
    for layer in (-2, 4):
        with pytest.raises(SettingError, match=r"-1 … 3"):
            load_lens(tiny("llama"), "logit").head(layer)


@pytest.mark.parametrize("wrong", ["layers", "tokens", "twice", "whole", "missing", "other"])
def test_a_file_that_is_no_lens_of_the_model_is_refused(wrong, tmp_path):
    model = tiny("llama")
    maps = Translators(model.layers + (wrong == "layers"), model.anatomy.width, 3, 8)
    if wrong == "tokens":
        maps.vocabulary += 90
    if wrong == "twice":
        maps.vocabulary[1:] = maps.vocabulary[0]
    tensors = maps.state_dict()
    if wrong == "whole":
        tensors["down"] = tensors["down"].long()
    if wrong == "missing":
        del tensors["bias"]
    artifacts.save("hydra" if wrong == "other" else NAME, tensors, {"model": {"name": model.name}}, tmp_path)
    path = str(tmp_path / f"{'hydra' if wrong == 'other' else NAME}.safetensors")
    with pytest.raises(ArtifactError):
        load_lens(model, path)


def test_a_lens_comes_back_as_it_was_stored(tmp_path):
    model = tiny("llama", dtype=torch.bfloat16)
    maps = Translators(model.layers, model.anatomy.width, 3, 8).bfloat16()
    maps.up.data.normal_()
    maps.vocabulary.copy_(torch.tensor([5, 3, 9, 90, 2, 1, 0, 7]))
    artifacts.save(NAME, maps.state_dict(), {"model": {"name": model.name}}, tmp_path)
    lens = load_lens(model, str(tmp_path / f"{NAME}.safetensors"))
    x = torch.randn(2, model.anatomy.width, dtype=torch.bfloat16)
    assert torch.equal(lens.stream(x, 0), TunedLens(model, maps).stream(x, 0))
    assert not torch.equal(lens.stream(x, 0), x)
    assert lens.head(0, tokens=3).vocabulary.tolist() == [5, 3, 9]


def test_a_model_without_a_lens_is_told_how_to_make_one():
    with pytest.raises(ArtifactError, match="workbench train tuned_lens"):
        load_lens(tiny("llama"))
