"""LogitLens against whole rows of log-probabilities from transformers' own norm and head."""

import numpy as np
import pytest
import torch
from probes.lens_by_hand import every_row, restated

from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.probes import LogitLens
from workbench.studies.observe import observe


def lens(model, ids, probe):
    return observe(model, ids, [probe])["probes/logit_lens"]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_definition(tiny, look, text_ids, family):
    model = tiny(family)
    cap = getattr(model.hf.config, "final_logit_softcapping", None)
    expected = restated(every_row(model, look(model, text_ids).residuals, cap), 5)
    found = lens(model, text_ids, LogitLens(top_k=5))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].values, values.numpy(), atol=2e-5, rtol=2e-4, err_msg=name)
    assert found.layer.values.tolist() == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize("family", ["gemma3_text", "gpt2"])
def test_a_capped_model_falls_back_to_rows(tiny, look, text_ids, family):
    plain = tiny(family)
    model = plain.variant()
    model.anatomy.softcap = 1.5
    expected = restated(every_row(plain, look(plain, text_ids).residuals, cap=1.5), 3)
    found = lens(model, text_ids, LogitLens(top_k=3))
    for name in ("kl_to_last", "entropy", "final_rank", "top_token"):
        np.testing.assert_allclose(found[name].values, expected[name].numpy(), atol=2e-5, rtol=2e-4, err_msg=name)
    assert np.abs(found.kl_to_last.values - lens(plain, text_ids, LogitLens(top_k=3)).kl_to_last.values).max() > 0.1


def test_chunks_join(tiny, text_ids, monkeypatch):
    model = tiny("llama")
    whole = lens(model, text_ids, LogitLens())
    monkeypatch.setattr("workbench.probes._lens._CHUNK_BYTES", 4 * 96 * 5)
    np.testing.assert_allclose(lens(model, text_ids, LogitLens()).kl_to_last, whole.kl_to_last, atol=1e-6)


def test_the_last_row_is_the_models_own_answer(tiny, look, text_ids):
    """The residual stream is not normed yet; norming it twice would show here."""
    model = tiny("gemma3_text")
    found = lens(model, text_ids, LogitLens())
    logits = look(model, text_ids).logits
    assert found.final_token.values.tolist() == logits.argmax(-1).tolist()
    probability = logits.double().softmax(-1).amax(-1)
    np.testing.assert_allclose(found.final_probability.sel(layer=3), probability, rtol=1e-4)
    assert (found.kl_to_last.sel(layer=3) == 0).all()
    assert (found.final_rank.sel(layer=3) == 0).all()


def test_positions_and_first_layer_are_cuts_of_the_whole(tiny, text_ids):
    model = tiny("qwen3")
    whole = lens(model, text_ids, LogitLens(top_k=2))
    part = lens(model, text_ids, LogitLens(top_k=2, first_layer=2, positions=4))
    assert part.token.values.tolist() == [33, 34, 35, 36]
    for name in whole.data_vars:
        cut = whole[name].isel(token=slice(-4, None))
        cut = cut.sel(layer=[2, 3]) if "layer" in cut.dims else cut
        expected = np.maximum(cut, 2) if name == "settle_layer" else cut
        np.testing.assert_allclose(part[name].values, expected.values, atol=1e-6, err_msg=name)


def test_bfloat16_stays_near_float32(tiny, text_ids):
    wide, narrow = (
        lens(tiny("llama", dtype=dtype), text_ids, LogitLens()) for dtype in (torch.float32, torch.bfloat16)
    )
    assert float(np.abs(wide.kl_to_last - narrow.kl_to_last).median()) < 0.05
    assert (narrow.kl_to_last.sel(layer=3) == 0).all()


@pytest.mark.parametrize(("probe", "words"), [(LogitLens(first_layer=4), "layers 0 … 3"), (LogitLens(), "top_k")])
def test_refuses_what_the_model_has_not(tiny, text_ids, probe, words, monkeypatch):
    model = tiny("llama")
    if words == "top_k":
        model = model.variant()
        model.anatomy.vocabulary = 4
    with pytest.raises(SettingError, match=words):
        probe.start(model, torch.tensor(text_ids))


@pytest.mark.bundled
def test_middle_layers_of_the_bundled_model_agree_little_with_the_last(seen):
    """Exits from the middle of this model need trained lenses: most tokens settle in the last third."""
    found = seen["probes/logit_lens"]
    assert found.settle_layer.mean() > 20
    divergence = found.kl_to_last.mean("token")
    assert divergence.sel(layer=slice(8, 16)).min() > 10
    assert (divergence.sel(layer=slice(23, 29)).diff("layer") < 0).all()
    middle, late = found.final_rank.sel(layer=14).median(), found.final_rank.sel(layer=28).median()
    assert middle > 5 and late <= 1
