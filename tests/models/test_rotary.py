"""Scaled rotary positions: how many a model knows, and tables that are transformers' at every length."""

from types import SimpleNamespace

import pytest
import torch
from scaled import OLD, SCALINGS, SWITCH, scaled

from workbench.errors import UnsupportedModel
from workbench.models.anatomy import Anatomy
from workbench.models.rotary import GrowingTable, original_positions, usable_positions
from workbench.models.tiny import tiny
from workbench.models.verification import verify

USABLE = {"yarn": 128, "linear": 64, "dynamic": 64, "llama3": 64, "longrope": 256}


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_usable_positions_are_the_scaled_ones(kind):
    model = scaled(kind)
    assert model.anatomy.positions == USABLE[kind]
    model.encode([5] * USABLE[kind])
    with pytest.raises(Exception, match=f"{USABLE[kind]} positions"):
        model.encode([5] * (USABLE[kind] + 1))


def reach(most, **scaling):
    return usable_positions(SimpleNamespace(max_position_embeddings=most, rope_parameters=scaling), ["all"])


def test_positions_as_published_configurations_have_them():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    assert reach(32_768, **yarn) == reach(131_072, **yarn) == 131_072
    assert reach(4096, rope_type="linear", factor=4.0) == 16_384
    assert reach(131_072, rope_type="llama3", factor=32.0, original_max_position_embeddings=8192) == 131_072
    assert reach(163_840, rope_type="yarn", factor=40, original_max_position_embeddings=4096) == 163_840
    assert reach(131_072, rope_type="yarn", factor=None, original_max_position_embeddings=4096) == 131_072
    assert reach(131_072, rope_type="longrope", factor=32.0, original_max_position_embeddings=4096) == 131_072
    assert reach(2048, rope_type="default") == 2048
    # Gemma 3 scales the tables of some layers, and its number is the scaled one.
    kinds = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_type": "default"}}
    config = SimpleNamespace(max_position_embeddings=131_072, rope_parameters=kinds)
    assert usable_positions(config, kinds) == 131_072
    assert usable_positions(config, ()) == 131_072


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), "4", True])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(UnsupportedModel, match="factor"):
        reach(32, rope_type="linear", factor=factor)


@pytest.mark.parametrize("original", [None, 0, "48", True])
def test_long_rope_says_where_it_changes(original):
    scaling = {"rope_type": "longrope", "original_max_position_embeddings": original}
    with pytest.raises(UnsupportedModel, match="original_max_position_embeddings"):
        original_positions(SimpleNamespace(max_position_embeddings=256, rope_parameters=scaling), "all")


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("family", ["llama", "olmo2", "gpt_neox"])
def test_tables_are_transformers_own_at_every_length(kind, family):
    anatomy = scaled(kind, family).anatomy
    for length in (20, OLD, OLD + 1, SWITCH, SWITCH + 1, 60, 30):
        positions = torch.arange(length)
        # A short text makes transformers' module forget the longest that it has seen.
        anatomy._rotary(torch.empty(0), torch.tensor([[0]]))
        cosine, sine = anatomy._rotary(torch.empty(0), positions[None])
        half = sine.shape[-1] // 2
        for given in (None, length, torch.full((length,), length)):
            ours = anatomy.rope(positions, given)["all"]
            torch.testing.assert_close(ours[0][:, 0], cosine[0], rtol=0, atol=2e-6)
            torch.testing.assert_close(ours[1][:, 0, half:], sine[0, :, half:], rtol=0, atol=2e-6)
            assert ours[0].dtype == cosine.dtype


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_every_row_is_of_its_own_length(kind):
    anatomy = scaled(kind).anatomy
    positions, lengths = torch.tensor([3, 50, 51, 3]), torch.tensor([20, 51, 60, 60])
    rows = anatomy.rope(positions, lengths)["all"][0]
    for place in range(4):
        alone = anatomy.rope(positions[place : place + 1], int(lengths[place]))["all"][0]
        torch.testing.assert_close(rows[place], alone[0], rtol=0, atol=1e-6)
    assert not torch.allclose(rows[0], rows[3])


def test_the_models_own_module_is_left_as_it_was():
    anatomy = scaled("dynamic").anatomy
    before = anatomy._rotary.inv_freq.clone()
    anatomy.rope(torch.tensor([60]))
    assert torch.equal(anatomy._rotary.inv_freq, before)


def test_a_variant_has_tables_of_its_own():
    model = scaled("longrope", "phi3")
    model.anatomy.rope(torch.tensor([3]))
    beside = model.variant()
    assert beside.anatomy._ropes == {}
    torch.testing.assert_close(
        beside.anatomy.rope(torch.tensor([60]))["all"], model.anatomy.rope(torch.tensor([60]))["all"]
    )


def test_only_phi_computes_its_cache_anew():
    assert scaled("longrope", "phi3").anatomy.switch == SWITCH
    assert scaled("longrope").anatomy.switch is None and scaled("dynamic").anatomy.switch is None
    assert tiny("phi3").anatomy.switch is None and not tiny("phi3").anatomy.growing


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_the_proof_sees_tables_that_do_not_know_the_length(kind, monkeypatch):
    hf = scaled(kind, "phi3").hf
    verify(hf, Anatomy(hf))
    known = GrowingTable._of
    monkeypatch.setattr(GrowingTable, "_of", lambda self, places, _, below: known(self, places, self.original, below))
    with pytest.raises(UnsupportedModel, match="rotary tables of Phi-3"):
        verify(hf, Anatomy(hf))


def test_the_proof_sees_factors_chosen_by_the_position(monkeypatch):
    hf = scaled("longrope", "phi3").hf
    known = GrowingTable.__call__
    monkeypatch.setattr(GrowingTable, "__call__", lambda self, places, *_: known(self, places, places + 1))
    with pytest.raises(UnsupportedModel, match="49 tokens"):
        verify(hf, Anatomy(hf))


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "yarn", "factor": 4.0}, 128),
        ({"type": "linear", "factor": 2.0}, 64),
        ({"type": "dynamic", "factor": 2}, 64),
        (None, 32),
    ],
)
def test_scalings_are_read_as_files_spell_them(scaling, positions):
    from transformers import AutoConfig

    config = AutoConfig.for_model("qwen2", max_position_embeddings=32, rope_scaling=scaling)
    assert usable_positions(config, ["all"]) == positions
