"""AttentionSparsity against loops over whole attention matrices from transformers' eager attention."""

import numpy as np
import pytest
import torch

from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.probes import AttentionSparsity
from workbench.probes._probe import sample
from workbench.probes.attention_sparsity import MASSES
from workbench.studies.observe import observe


def sparsity(model, ids, probe):
    return observe(model, ids, [probe])["probes/attention_sparsity"]


def restated(attentions, rows, first, recent, edges):
    """Means over queries, weight by weight."""
    layers, heads = attentions.shape[:2]
    out = {name: np.zeros((layers, heads)) for name in ("entropy", "first_share", "recent_share")}
    out |= {name: np.zeros((layers, heads, len(MASSES))) for name in ("keys_needed", "keys_needed_share")}
    out["distance_histogram"] = np.zeros((layers, heads, len(edges)))
    for layer in range(layers):
        for head in range(heads):
            for row in rows:
                weights = attentions[layer, head, row].double().numpy()
                visible = int((weights > 0).sum())
                out["entropy"][layer, head] -= sum(w * np.log(w) for w in weights if w > 0)
                out["first_share"][layer, head] += weights[:first].sum()
                out["recent_share"][layer, head] += weights[max(0, row - recent + 1) : row + 1].sum()
                for place, mass in enumerate(MASSES):
                    held, count = 0.0, 0
                    for weight in sorted(weights, reverse=True):
                        held, count = held + weight, count + 1
                        if held >= mass - 1e-6:
                            break
                    out["keys_needed"][layer, head, place] += count
                    out["keys_needed_share"][layer, head, place] += count / visible
                for key in range(row + 1):
                    place = max(i for i, edge in enumerate(edges) if edge <= row - key)
                    out["distance_histogram"][layer, head, place] += weights[key]
    return {name: values / len(rows) for name, values in out.items()}


@pytest.mark.parametrize("queries", [None, 9])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_definition(tiny, look, text_ids, family, queries):
    model = tiny(family)
    found = sparsity(model, text_ids, AttentionSparsity(queries=queries, first=3, recent=6))
    rows = sample(len(text_ids), queries).tolist()
    assert found.distance_bin.values.tolist() == [0, 1, 2, 4, 8, 16, 32]
    attentions = look(model, text_ids).attentions
    kept = attentions.sum(-1, keepdim=True)
    expected = restated(attentions / kept, rows, 3, 6, found.distance_bin.values)
    if family == "gpt_oss":
        expected["sink_share"] = 1 - kept[:, :, rows, 0].double().mean(-1).numpy()
        assert expected["sink_share"].min() > 0.01
    assert ("sink_share" in found) == (family == "gpt_oss")
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].values, values, atol=2e-4, err_msg=name)
    assert found.attrs["queries"] == len(rows)


def test_a_sliding_window_bounds_what_is_visible(tiny, text_ids):
    """Gemma 3's windows are 8 tokens here: nothing lies farther back in those layers."""
    model = tiny("gemma3_text")
    found = sparsity(model, text_ids, AttentionSparsity())
    windowed = [block.index for block in model.anatomy.blocks if block.window is not None]
    assert windowed
    assert float(found.keys_needed.sel(layer=windowed).max()) <= 8
    assert float(found.distance_histogram.sel(layer=windowed, distance_bin=[8, 16, 32]).max()) < 1e-6


def test_chunks_join(tiny, text_ids, monkeypatch):
    model, probe = tiny("gpt_neox"), AttentionSparsity(layer=2, head=1)
    whole = sparsity(model, text_ids, probe)
    monkeypatch.setattr("workbench.probes.attention_sparsity._CHUNK", 4 * 37 * 5)
    parts = sparsity(model, text_ids, probe)
    for name in whole.data_vars:
        np.testing.assert_allclose(parts[name].values, whole[name].values, atol=1e-5, err_msg=name)


def test_the_map_is_pooled_from_the_chosen_head(tiny, look):
    ids = torch.randint(0, 96, (150,), generator=torch.Generator().manual_seed(3)).tolist()
    model = tiny("llama")
    found = sparsity(model, ids, AttentionSparsity(queries=None, layer=1, head=2))
    weights = look(model, ids).attentions[1, 2].double().numpy()
    assert found.map.shape == (75, 75) and found.map.attrs["layer"] == 1 and found.map.attrs["head"] == 2
    expected = weights.reshape(75, 2, 75, 2).sum(3).mean(1)
    np.testing.assert_allclose(found.map.values, expected, atol=1e-5)
    np.testing.assert_allclose(found.map.sum("key_bin"), 1, atol=1e-5)
    assert found.query_bin.values[:3].tolist() == [0, 2, 4]


def test_uneven_bins_are_still_means(tiny, text_ids, monkeypatch):
    monkeypatch.setattr("workbench.probes.attention_sparsity.MAP_BINS", 10)
    found = sparsity(tiny("llama"), text_ids, AttentionSparsity(queries=None))
    assert max(found.map.shape) <= 10
    np.testing.assert_allclose(found.map.sum("key_bin"), 1, atol=1e-5)


@pytest.mark.parametrize("setting", [{"layer": 4}, {"head": 4}])
def test_refuses_a_layer_or_head_that_is_not_there(tiny, text_ids, setting):
    with pytest.raises(SettingError, match=r"0 … 3"):
        AttentionSparsity(**setting).start(tiny("llama"), torch.tensor(text_ids))


def test_a_single_token_looks_at_itself(tiny):
    found = sparsity(tiny("llama"), [5], AttentionSparsity())
    assert (found.keys_needed == 1).all() and (found.entropy == 0).all() and (found.distance_histogram == 1).all()


@pytest.mark.bundled
def test_the_bundled_model_has_sinks(seen):
    """Xiao et al.: beyond the lowest layers much of the mass sits on the first tokens, whatever they say."""
    found = seen["probes/attention_sparsity"]
    by_layer = found.first_share.mean("head")
    assert by_layer.sel(layer=slice(14, 29)).mean() > 0.4
    assert by_layer.sel(layer=[0, 1]).max() < 0.2
    assert found.first_share.max() > 0.9
    tokens = seen["tokens"].sizes["token"]
    needed = found.keys_needed.sel(mass=0.9).mean("head")
    assert needed.sel(layer=slice(2, 29)).mean() < tokens / 10 < needed.sel(layer=0)
