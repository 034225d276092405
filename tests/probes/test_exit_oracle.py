"""ExitOracle against its definition, token by token, and what it says of the bundled model."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from probes.lens_by_hand import every_row
from techniques.trained_parts import needs_artefact

from workbench.parts.exits import load_lens
from workbench.probes import ExitOracle
from workbench.studies.observe import observe


def first(holds):
    """The first layer that holds, or the last one."""
    return next((layer for layer, held in enumerate(holds) if held), len(holds) - 1)


def slow(model, residuals, lens, threshold, divergence):
    """(exit layer, right) by criterion and token, written out."""
    with torch.no_grad():
        mapped = torch.stack([lens.stream(x, layer) for layer, x in enumerate(residuals[1:])])
    rows = every_row(model, mapped).numpy()  # [layers, tokens, vocabulary]
    layers, tokens, vocabulary = rows.shape
    best = rows.argmax(-1)
    out = {}
    for token in range(tokens):
        same = [best[layer, token] == best[-1, token] for layer in range(layers)]
        chances = np.exp(rows[:, token])
        ordered = np.sort(chances, -1)
        entropy = -(chances * rows[:, token]).sum(-1)
        near = (chances[-1] * (rows[-1, token] - rows[:, token])).sum(-1) < divergence
        streams = residuals[:, token].double().numpy()
        cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairwise(streams)]
        found = {
            "agrees": first(same),
            "settled": first([all(same[layer:]) for layer in range(layers)]),
            "close": first([all(near[layer:]) for layer in range(layers)]),
            "probability": first(ordered[:, -1] > threshold),
            "margin": first(ordered[:, -1] - ordered[:, -2] > threshold),
            "entropy": first(1 - entropy / np.log(vocabulary) > threshold),
            "saturation": first(np.array(cosine) > threshold),
        }
        for name, layer in found.items():
            out.setdefault(name, []).append((layer, same[layer]))
    return out


@pytest.mark.parametrize("weights", ["logit", "untrained"])
@pytest.mark.parametrize(("family", "threshold"), [("llama", 0.12), ("gpt2", 0.12), ("mixtral", 0.9)])
def test_equals_the_definition(tiny, look, text_ids, family, threshold, weights):
    model = tiny(family, layers=6)
    expected = slow(model, look(model, text_ids).residuals, load_lens(model, weights), threshold, 0.4)
    probe = ExitOracle(lens=weights, threshold=threshold, divergence=0.4)
    found = observe(model, text_ids, [probe])["probes/exit_oracle"]
    names = json.loads(found.attrs["criteria"])
    assert sorted(names) == sorted(expected)
    for place, name in enumerate(names):
        at = found.sel(criterion=place)
        assert at.exit_layer.values.tolist() == [layer for layer, _ in expected[name]], name
        assert at.right.values.tolist() == [right for _, right in expected[name]], name
        saved = 1 - np.mean([layer + 1 for layer, _ in expected[name]]) / 6
        assert float(at.layers_saved) == pytest.approx(saved)
        assert float(at.right_share) == pytest.approx(np.mean([right for _, right in expected[name]]))
    assert found.agreement.sel(layer=5) == 1 and found.sel(criterion=0).right.all()


def test_positions_are_a_cut_of_the_whole(tiny, text_ids):
    model = tiny("qwen3")
    whole, part = (
        observe(model, text_ids, [ExitOracle(lens="untrained", positions=count)])["probes/exit_oracle"]
        for count in (None, 4)
    )
    assert part.token.values.tolist() == [33, 34, 35, 36]
    assert (part.exit_layer.values == whole.exit_layer.values[:, -4:]).all()


@needs_artefact("tuned_lens")
@pytest.mark.bundled(seconds=12)
def test_a_tuned_lens_lets_tokens_of_the_bundled_model_leave_earlier(bundled):
    from probes.conftest import TEXT

    tuned, logit = (
        observe(bundled, TEXT, [ExitOracle(lens=lens)])["probes/exit_oracle"] for lens in ("bundled", "logit")
    )
    settled = json.loads(tuned.attrs["criteria"]).index("settled")
    assert float(tuned.layers_saved[settled]) > float(logit.layers_saved[settled]) + 0.03
    assert (tuned.agreement[10:28] >= logit.agreement[10:28]).all()
