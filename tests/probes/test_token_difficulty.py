"""TokenDifficulty against all ways of each token, computed one by one, and what it says of the bundled model."""

import itertools

import numpy as np
import pytest
import torch
from parts.test_small_big import slow_loss
from techniques.trained_parts import needs_artefact

from workbench import figures
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts import small_big
from workbench.probes import TokenDifficulty
from workbench.studies.observe import observe

IDS = torch.randint(3, 96, (11,), generator=torch.Generator().manual_seed(8)).tolist()


def seen(model, probe, ids=IDS):
    return observe(model, ids, [probe])


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_it_is_what_all_ways_say(family, monkeypatch):
    """Two layers are searched, the others are big; the whole text is read anew for every way."""
    model = tiny(family)
    monkeypatch.setattr("parts.test_small_big.TEXT", IDS)
    data = seen(model, TokenDifficulty(small="untrained", tokens=3, budget=2, layers=2))["probes/token_difficulty"]
    assert data.token.values.tolist() == [7, 8, 9] and data.attrs["searched"] == [0, model.layers - 1]
    small = small_big.small_mlps(model, "untrained")
    for place in (7, 9):
        losses = {}
        for first, last in itertools.product(range(3), repeat=2):
            way = [first, *[small_big.BIG] * (model.layers - 2), last]
            big = (first == small_big.BIG) + (last == small_big.BIG)
            losses.setdefault(big, []).append(float(slow_loss(model, small, place, way)))
        best = [min(min(losses[fewer]) for fewer in range(budget + 1)) for budget in range(3)]
        at = data.sel(token=place)
        np.testing.assert_allclose(at.loss, best, rtol=1e-3)
        np.testing.assert_allclose(at.difficulty, best[0] - best[2], rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(at.whole_loss, losses[2][0], rtol=1e-3)


def test_more_compute_never_loses_and_the_best_ways_keep_to_the_budget():
    model = tiny("llama").variant([0, 1, 2, 3] * 2)
    data = seen(model, TokenDifficulty(small="untrained", tokens=4, budget=3, beam=2))["probes/token_difficulty"]
    assert (np.diff(data.loss.values, axis=0) <= 1e-6).all() and (data.difficulty > 0).any()
    assert 0 < float(data.big.sum()) <= 3 + 1e-6


def test_a_model_of_experts_alone_has_nothing_to_spare():
    data = seen(tiny("mixtral"), TokenDifficulty(small="untrained", tokens=2))["probes/token_difficulty"]
    assert data.difficulty.values.tolist() == [0, 0] and data.budget.values.tolist() == [0]
    np.testing.assert_allclose(data.loss[0], data.whole_loss, rtol=1e-3)


def test_a_text_of_one_token_has_none_to_look_at():
    assert seen(tiny("llama"), TokenDifficulty(small="untrained"), [5])["probes/token_difficulty"].sizes["token"] == 0


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(SettingError, match="not for tiny-llama"):
        seen(tiny("llama"), TokenDifficulty())


def test_its_figure_shows_every_token_and_budget():
    tree = seen(tiny("llama"), TokenDifficulty(small="untrained", tokens=5))
    data = tree["probes/token_difficulty"]
    losses, whole, difficulty, layers = figures.token_difficulty(tree).to_dict()["datasets"].values()
    assert len(losses) == 5 * data.sizes["budget"] and len(whole) == len(difficulty) == 5
    np.testing.assert_allclose([row["difficulty"] for row in difficulty], data.difficulty, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([row["loss"] for row in losses], data.loss.values.ravel(), rtol=1e-4)
    np.testing.assert_allclose([row["big"] for row in layers], data.big, rtol=1e-4)
    few = figures.token_difficulty(tree, last=2).to_dict()
    assert "last 2 of 5 tokens" in " ".join(few["title"]["subtitle"])


@pytest.mark.bundled(seconds=12)
@needs_artefact("small_mlps")
def test_tokens_of_the_bundled_model_gain_from_more_compute_and_some_much_more(bundled):
    """A word that is begun is easily gone on with; the paper's difficulty is not the loss itself."""
    text = "The capital of France is Paris, and the river that runs through it is the Seine."
    data = seen(bundled, TokenDifficulty(tokens=4, budget=2), bundled.encode(text))["probes/token_difficulty"]
    difficulty = data.difficulty.values
    assert (difficulty > 0.5).any() and difficulty.max() > 2 * np.median(difficulty)
    assert (data.loss[0] > data.whole_loss).any()
