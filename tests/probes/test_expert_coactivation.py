"""ExpertCoactivation against counters filled token by token from the routers' own inputs."""

from collections import Counter
from itertools import combinations, product
from operator import attrgetter

import numpy as np
import pytest
import torch

from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.probes import ExpertCoactivation
from workbench.probes.expert_coactivation import by_chance, inclusion
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


def sets_of(odds, chosen):
    """Chance of each set of ``chosen`` experts, brute force."""
    sets = list(combinations(range(len(odds)), chosen))
    weights = np.array([np.prod([odds[expert] for expert in each]) for each in sets])
    return dict(zip(sets, weights / weights.sum(), strict=True))


@pytest.mark.parametrize("chosen", [1, 2, 3, 5])
def test_what_chance_gives_is_the_sum_over_all_sets(chosen):
    generator = np.random.default_rng(chosen)
    odds = generator.uniform(0.05, 3, (2, 7))
    shares, pairs = np.zeros((2, 7)), np.zeros((2, 7, 7))
    for layer in range(2):
        for each, chance in sets_of(odds[layer], chosen).items():
            for one, other in product(each, each):
                pairs[layer, one, other] += chance
            shares[layer, list(each)] += chance
    np.testing.assert_allclose(inclusion(odds, chosen), shares, atol=1e-12)
    np.testing.assert_allclose(by_chance(shares), pairs, atol=1e-5)


def test_chance_with_experts_that_all_or_no_tokens_have():
    expected = by_chance(np.array([[1.0, 0.0, 0.5, 0.5]]))[0]
    np.testing.assert_allclose(expected[0], [1, 0, 0.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(expected[1], 0, atol=1e-12)
    assert expected[2, 3] == pytest.approx(0, abs=1e-5), "beside the first, a token has one of the two"


def test_experts_that_go_together_stand_out_and_random_ones_do_not(tiny, text_ids):
    """Routing drawn by chance has no excess beyond its own noise; a fixed pair has."""
    generator, tokens = torch.Generator().manual_seed(3), 20_000
    reader = ExpertCoactivation().start(tiny("olmoe"), torch.tensor(text_ids))
    uneven = torch.linspace(0.5, -0.5, 8)
    logits = uneven - torch.log(-torch.log(torch.rand(tokens, 8, generator=generator)))
    paired = logits.clone()
    paired[:, 1] = paired[:, 0] - 1e-4
    for layer in range(4):
        reader.see("router_logits", layer, paired if layer == 2 else logits)
    found = reader.finish()
    np.testing.assert_allclose(found.excess, found.coactivation - found.expected, atol=1e-6)
    off = found.excess.values[0] * (1 - np.eye(8))
    assert np.abs(off).max() < 0.02 < 0.1 < float(found.excess.sel(layer=2, expert=0, other_expert=1))
    np.testing.assert_allclose(
        found.expected.sum("other_expert"), 2 * np.diagonal(found.expected, axis1=1, axis2=2), atol=1e-4
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in SPARSE])
def test_a_dense_model_is_refused_in_plain_words(tiny, text_ids, family):
    with pytest.raises(SettingError, match=f"mixture-of-experts.*tiny-{family} is a dense"):
        ExpertCoactivation().start(tiny(family), torch.tensor(text_ids))


@pytest.mark.bundled
def test_the_bundled_model_is_dense_and_says_so(bundled):
    with pytest.raises(SettingError, match=r"smollm2-135m is a dense Llama \(SmolLM\) without experts"):
        observe(bundled, "The capital of France is", [ExpertCoactivation()])
