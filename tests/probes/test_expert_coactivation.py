"""ExpertCoactivation against counters filled token by token from the routers' own inputs."""

from collections import Counter
from itertools import product
from operator import attrgetter

import numpy as np
import pytest
import torch

from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.probes import ExpertCoactivation
from workbench.studies.observe import observe

SPARSE = [name for name, row in FAMILIES.items() if row.experts is not None]


def coactivation(model, ids):
    return observe(model, ids, [ExpertCoactivation()])["probes/expert_coactivation"]


@pytest.mark.parametrize("family", SPARSE)
def test_equals_the_definition(tiny, look, text_ids, family):
    model = tiny(family)
    found = coactivation(model, text_ids)
    inputs = look(model, text_ids).router_inputs
    assert found.layer.values.tolist() == sorted(inputs)
    for layer, rows in inputs.items():
        gate = attrgetter(f"{model.anatomy.family.blocks}")(model.hf)[layer]
        gate = attrgetter(model.anatomy.family.router)(gate)
        logits = torch.nn.functional.linear(rows, gate.weight, getattr(gate, "bias", None)).double().numpy()
        each = gate.top_k
        load, pairs, entropy = Counter(), Counter(), 0.0
        for row in logits:
            chosen = row.argsort()[::-1][:each].tolist()
            load.update(chosen)
            pairs.update(product(chosen, chosen))
            probability = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            entropy -= (probability * np.log(probability)).sum()
        here = found.sel(layer=layer)
        count = len(text_ids)
        np.testing.assert_allclose(here["load"], [load[i] / (each * count) for i in range(8)], atol=1e-6)
        expected = [[pairs[i, j] / count for j in range(8)] for i in range(8)]
        np.testing.assert_allclose(here.coactivation, expected, atol=1e-6)
        assert float(here.router_entropy) == pytest.approx(entropy / count, abs=1e-4)


def test_all_pairs_are_counted(tiny, text_ids):
    """With two experts per token every row of the matrix holds the expert's own share twice: itself and its partner."""
    found = coactivation(tiny("mixtral"), text_ids)
    matrix = found.coactivation.values
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    np.testing.assert_allclose(matrix.sum(-1), 2 * diagonal, atol=1e-6)
    np.testing.assert_allclose(diagonal.sum(-1), 2, atol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.transpose(0, 2, 1))
    np.testing.assert_allclose(found["load"].sum("expert"), 1, atol=1e-6)


def test_only_sparse_layers_are_named(tiny, text_ids):
    """Layer 1 of the tiny Qwen3-MoE is dense."""
    assert coactivation(tiny("qwen3_moe"), text_ids).layer.values.tolist() == [0, 2, 3]


def test_a_router_without_preferences_is_at_full_entropy(tiny, text_ids):
    model = tiny("olmoe", seed=9)
    weights = [block.router.scores.weight for block in model.anatomy.blocks]
    before = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.data.zero_()
        np.testing.assert_allclose(coactivation(model, text_ids).router_entropy, np.log(8), atol=1e-6)
    finally:
        for weight, old in zip(weights, before, strict=True):
            weight.data.copy_(old)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in SPARSE])
def test_a_dense_model_is_refused_in_plain_words(tiny, text_ids, family):
    with pytest.raises(SettingError, match=f"mixture-of-experts.*tiny-{family} is a dense"):
        ExpertCoactivation().start(tiny(family), torch.tensor(text_ids))


@pytest.mark.bundled
def test_the_bundled_model_is_dense_and_says_so(bundled):
    with pytest.raises(SettingError, match=r"smollm2-135m is a dense Llama \(SmolLM\) without experts"):
        observe(bundled, "The capital of France is", [ExpertCoactivation()])
