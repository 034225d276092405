"""EffectiveRank against singular values of the transformers model's own states, prefix by prefix."""

from itertools import pairwise
from operator import attrgetter

import numpy as np
import pytest
import torch

from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.probes import EffectiveRank
from workbench.probes.effective_rank import differences, effective_ranks
from workbench.studies.observe import observe


def rank(model, ids, probe):
    return observe(model, ids, [probe])["probes/effective_rank"]


def slow(states):
    """Roy and Vetterli's formula, from singular values."""
    values = np.linalg.svd(states - states.mean(0), compute_uv=False)
    p = values[values > 1e-9 * max(values.max(), 1e-300)] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("begin", "stride"), [(0, 3), (6, 5)])
def test_numbers_equal_the_definition(tiny, look, text_ids, family, begin, stride):
    model = tiny(family)
    found = rank(model, text_ids, EffectiveRank(layers=2, stride=stride, begin=begin))
    stream = look(model, text_ids).residuals
    norm = attrgetter(model.anatomy.family.final_norm)(model.hf)
    for layer in found.layer.values.tolist():
        with torch.no_grad():
            states = norm(stream[layer + 1]).double().numpy()[begin:]
        lengths = list(range(stride, len(states) + 1, stride))
        want = [slow(states[:length]) for length in lengths]
        here = found.sel(layer=layer)
        assert here.length.values.tolist() == lengths
        np.testing.assert_allclose(here.effective_rank, want, rtol=1e-3)
        speeds = [want[j] - np.mean(want[:j]) for j in range(1, len(want))]
        np.testing.assert_allclose(here.velocity, speeds, atol=0.02)
        np.testing.assert_allclose(here.acceleration, [b - a for a, b in pairwise(speeds)], atol=0.02)
    assert found.layer.values.tolist() == [0, model.layers - 1]


@pytest.mark.parametrize("tokens", [7, 40])
def test_both_ways_to_the_singular_values_agree(tokens):
    """Shorter than the states are wide, and longer."""
    states = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(3)) + 5
    want = [slow(states[:length].double().numpy()) for length in (2, 5, tokens)]
    np.testing.assert_allclose(effective_ranks(states, [2, 5, tokens]), want, rtol=1e-5)


def test_known_matrices_have_known_ranks():
    axes = torch.cat((torch.eye(4), -torch.eye(4)))
    np.testing.assert_allclose(effective_ranks(axes, [8]), [4])
    line = torch.outer(torch.arange(9.0), torch.tensor([1.0, 2.0, -1.0]))
    np.testing.assert_allclose(effective_ranks(line, [2, 9]), [1, 1])
    np.testing.assert_allclose(effective_ranks(torch.ones(5, 3), [5]), [0])
    np.testing.assert_allclose(differences(np.array([[1.0, 3.0, 8.0]])), [[2.0, 6.0]])


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_text_too_short_for_a_difference_has_none(tiny, tokens):
    found = rank(tiny("llama"), list(range(5, 5 + tokens)), EffectiveRank())
    assert [found[name].sizes[dim] for name, dim in (("effective_rank", "length"), ("velocity", "later"))] == [
        tokens - 1, max(0, tokens - 2),
    ]  # fmt: skip


def test_leaving_the_whole_text_out_is_refused(tiny):
    with pytest.raises(SettingError, match="begin=5 leaves nothing of a text of 5 tokens"):
        rank(tiny("llama"), [5, 6, 7, 8, 9], EffectiveRank(begin=5))


@pytest.mark.bundled
def test_repetition_adds_no_directions(bundled):
    """The measure's point: a text that goes on opens new directions, one that repeats itself slows down."""
    told = "The river runs past the mill and under the old stone bridge, where children throw bread to the ducks while"
    again = "The river runs past the mill. " * 4
    new, same = (rank(bundled, bundled.encode(text)[:21], EffectiveRank(layers=1, stride=4)) for text in (told, again))
    assert float(new.effective_rank[0, -1]) > 1.1 * float(same.effective_rank[0, -1])
    assert float(new.velocity[0, -1]) > float(same.velocity[0, -1])
