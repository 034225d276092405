"""Linear maps between layers against ridge regression written out, and where the best of them must lie."""

import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import workbench as wb
from workbench import trace
from workbench.errors import SettingError

TEXTS = [torch.randint(3, 96, (30,), generator=torch.Generator().manual_seed(place)).tolist() for place in range(8)]


@torch.no_grad()
def states(model, ids):
    """Unit-size states of the transformers model [layers + 1, tokens - 1, width]; the last layer's without its norm."""
    taken = []
    handle = model.hf.model.norm.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    try:
        out = model.hf(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    finally:
        handle.remove()
    rows = torch.stack([*(each[0] for each in out[:-1]), taken[0][0]])[:, 1:]
    return F.rms_norm(rows.float(), rows.shape[-1:]).double().numpy()


def test_errors_equal_those_of_ridge_regression(tiny):
    model, other = tiny("llama"), tiny("llama", seed=3)
    tree = trace.check(wb.layer_maps(model, other, TEXTS, ridge=1e-2))
    found = tree["layer_maps"].to_dataset()
    one, two = ([states(each, ids) for ids in TEXTS] for each in (model, other))
    for layer, place in ((0, 0), (2, 4), (4, 1)):
        x, seen = (np.concatenate([each[layer] for each in part]) for part in (one[:6], one[6:]))
        y, judged = (np.concatenate([each[place] for each in part]) for part in (two[:6], two[6:]))
        around = x - x.mean(0)
        penalty = 1e-2 * np.square(around).sum() / x.shape[1] * np.eye(x.shape[1])
        weight = np.linalg.solve(around.T @ around + penalty, around.T @ (y - y.mean(0)))
        left = judged - y.mean(0) - (seen - x.mean(0)) @ weight
        want = np.square(left).sum() / np.square(judged - judged.mean(0)).sum()
        assert float(found.error[layer, place]) == pytest.approx(want, rel=1e-3)
    assert found.attrs["other"] == other.name


def test_a_model_fits_itself_layer_by_layer(tiny):
    model = tiny("llama")
    found = wb.layer_maps(model, model, TEXTS, ridge=1e-3)["layer_maps"]
    assert found.best_layer.values.tolist() == [-1, 0, 1, 2, 3]
    assert float(np.diagonal(found.error).max()) < 0.02
    np.testing.assert_allclose(found.best_depth, found.own_depth)


def test_layers_of_a_cut_model_fit_those_that_they_are(tiny):
    """A model of the first and the third layer alone: the relative depth is another, and it is seen."""
    model = tiny("llama")
    found = wb.layer_maps(model, model.variant([0, 1]), TEXTS)["layer_maps"]
    assert found.best_layer.values.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(found.own_depth, [0, 0.5, 1])
    np.testing.assert_allclose(found.best_depth, [0, 0.25, 0.5])


def test_what_cannot_be_compared_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(SettingError, match="at least two texts"):
        wb.layer_maps(model, model, TEXTS[:1])
    with pytest.raises(SettingError, match="too little text to be judged by"):
        wb.layer_maps(model, model, [*TEXTS[:3], [5, 6, 7]])
    smaller = model.variant(name="smaller")
    smaller.anatomy.vocabulary = 50
    with pytest.raises(SettingError, match=r"has 96 tokens and smaller 50: .*read the same tokens"):
        wb.layer_maps(model, smaller, TEXTS)
    with pytest.raises(SettingError, match="have different tokens"):
        wb.layer_maps(model, _Foreign(model), TEXTS)


class _Foreign:
    """A model that reads the ids as other texts."""

    name, tokenizer = "foreign", object()

    def __init__(self, model):
        self.anatomy = model.anatomy

    def decode(self, tokens):
        return "other words"


def test_it_can_be_cancelled(tiny):
    cancel = threading.Event()
    cancel.set()
    assert wb.layer_maps(tiny("llama"), tiny("llama"), TEXTS, cancel=cancel) is None


@pytest.mark.slow
@pytest.mark.bundled(seconds=90)
def test_a_deeper_layer_of_the_bundled_model_is_fitted_by_a_deeper_one_of_its_draft_model(bundled):
    """The paper's finding, on a model of three layers that was distilled from thirty."""
    from workbench.parts import distilled
    from workbench.tasks import load_prompts

    texts = [bundled.encode(prompt.prompt)[:150] for prompt in load_prompts("all")[::9]][:24]
    found = wb.layer_maps(distilled.load(bundled), bundled, texts)["layer_maps"]
    best = found.best_layer.values
    assert (np.diff(best) >= 0).all() and best[0] == -1 and best[-1] == 2
    assert float(found.error[0, 0]) < 0.05 < 0.3 < float(found.error[:, 20].min())
