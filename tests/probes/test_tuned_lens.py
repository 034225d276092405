"""TunedLens: every layer's stream through its map, then as the logit lens; and nearer to the end than that."""

import numpy as np
import pytest
import torch
from probes.lens_by_hand import every_row, restated
from techniques.trained_parts import needs_artefact

from workbench.errors import ArtifactError
from workbench.models import FAMILIES
from workbench.parts.exits import load_lens
from workbench.probes import LogitLens, TunedLens
from workbench.studies.observe import observe


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_definition_of_mapped_streams(tiny, look, text_ids, family):
    model = tiny(family)
    cap, lens = getattr(model.hf.config, "final_logit_softcapping", None), load_lens(model, "untrained")
    streams = look(model, text_ids).residuals
    with torch.no_grad():
        mapped = torch.stack([lens.stream(x, layer) for layer, x in enumerate(streams, -1)])
    expected = restated(every_row(model, mapped, cap), 5)
    found = observe(model, text_ids, [TunedLens(lens="untrained")])["probes/tuned_lens"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].values, values.numpy(), atol=2e-5, rtol=2e-4, err_msg=name)


def test_without_training_it_is_the_logit_lens(tiny, text_ids):
    seen = observe(tiny("llama"), text_ids, [TunedLens(lens="logit"), LogitLens()])
    assert seen["probes/tuned_lens"].to_dataset().identical(seen["probes/logit_lens"].to_dataset())


def test_a_model_that_has_none_says_how_to_train_one(tiny, text_ids):
    with pytest.raises(ArtifactError, match="workbench train tuned_lens"):
        observe(tiny("llama"), text_ids, [TunedLens()])


@needs_artefact("tuned_lens")
@pytest.mark.bundled(seconds=12)
def test_it_is_nearer_to_the_last_layer_in_every_layer(bundled):
    """The paper's claim, on a text that nothing was trained on."""
    from probes.conftest import TEXT

    seen = observe(bundled, TEXT, [TunedLens(), LogitLens()])
    tuned, logit = (seen[f"probes/{name}"] for name in ("tuned_lens", "logit_lens"))
    nearer = tuned.kl_to_last.mean("token") / logit.kl_to_last.mean("token")
    assert (nearer.isel(layer=slice(0, -1)) < 1).all()
    assert float(nearer.sel(layer=slice(8, 24)).max()) < 0.5
    assert tuned.settle_layer.mean() < logit.settle_layer.mean()
