"""DepthUse against the transformers model itself, run anew with hooks for every skipped block and cut."""

from operator import attrgetter

import numpy as np
import pytest
import torch

from workbench.models import FAMILIES
from workbench.probes import DepthUse
from workbench.studies.observe import observe


def use(model, ids, probe):
    return observe(model, ids, [probe])["probes/depth_use"]


@torch.no_grad()
def skipping(model, ids, layer, end):
    """What every block adds [layers, tokens, width] and the probabilities, when tokens 1 ... end - 1 skip a block."""
    added, handles = [], []

    def hook(index, _, args, kwargs, output):
        stream = args[0] if args else kwargs["hidden_states"]
        out = (output[0] if isinstance(output, tuple) else output).clone()
        if index == layer:
            out[:, 1:end] = stream[:, 1:end]
        added.append((out - stream)[0].double())
        return (out, *output[1:]) if isinstance(output, tuple) else out

    for index, block in enumerate(attrgetter(model.anatomy.family.blocks)(model.hf)):
        handles.append(block.register_forward_hook(lambda *a, index=index: hook(index, *a), with_kwargs=True))
    try:
        logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(added), logits.double().softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_equal_those_of_a_model_run_anew_for_every_block(tiny, text_ids, family):
    model, ids = tiny(family), text_ids[:18]
    found = use(model, ids, DepthUse(cuts=1))
    assert found.attrs["cuts"] == [9]
    added, probabilities = skipping(model, ids, -1, 0)
    size = added.norm(dim=-1)
    for skipped in range(model.layers):
        for kind, end, seen in (("present", len(ids), 1), ("future", 9, 9)):
            other, changed = skipping(model, ids, skipped, end)
            effect = ((other - added).norm(dim=-1) / size)[:, seen:].max(1).values.numpy()
            mine = found[f"{kind}_effect"].sel(skipped=skipped).values
            np.testing.assert_allclose(mine, effect, rtol=2e-3, atol=2e-4, err_msg=f"{kind} {skipped}")
            output = float((changed - probabilities).norm(dim=-1)[seen:].max())
            assert float(found[f"{kind}_output"].sel(skipped=skipped)) == pytest.approx(output, rel=2e-3, abs=1e-5)


def test_only_the_tokens_that_are_asked_for_are_looked_at(tiny, text_ids):
    """Later tokens change nothing of what came before them."""
    model = tiny("llama")
    found, alone = (use(model, ids, DepthUse(tokens=12)) for ids in (text_ids, text_ids[:12]))
    for name in found.data_vars:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "mixtral"])
def test_sizes_are_those_of_the_whole_layer(tiny, look, text_ids, family):
    model = tiny(family)
    found = use(model, text_ids, DepthUse(tokens=100, cuts=0))
    stream = look(model, text_ids).residuals.double()
    for block in range(model.layers):
        added, before = stream[block + 1] - stream[block], stream[block]
        share = (added.norm(dim=-1) / before.norm(dim=-1)).mean()
        cosine = torch.nn.functional.cosine_similarity(added, before, dim=-1).mean()
        assert float(found.layer_share[block]) == pytest.approx(float(share), rel=1e-3)
        assert float(found.layer_cosine[block]) == pytest.approx(float(cosine), abs=1e-4)
    assert not found.future_effect.any() and not found.future_output.any()
    both = observe(model, text_ids, [DepthUse(tokens=100), *residual()])
    for name in ("attention_share", "mlp_share", "attention_cosine", "mlp_cosine"):
        one, other = (both[f"probes/{probe}/{name}"] for probe in ("depth_use", "residual_contribution"))
        np.testing.assert_allclose(one, other, rtol=1e-5)


def residual():
    from workbench.probes import ResidualContribution

    return [ResidualContribution(positions=1)]


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_the_shortest_texts(tiny, tokens):
    found = use(tiny("llama"), [5, 6, 7][:tokens], DepthUse())
    assert np.isfinite(found.present_effect).all() and found.present_output[0] >= 0
    assert (float(found.present_output.max()) > 0) == (tokens > 1)


@pytest.mark.bundled(seconds=12)
def test_later_layers_of_the_bundled_model_matter_less_to_those_after_them(bundled):
    """The paper's main finding, at later tokens: skipping a block of the second half changes little."""
    text = "The capital of France is Paris, and the river that runs through it is the Seine."
    found = use(bundled, text, DepthUse(tokens=16, cuts=1))
    first, second = found.future_output[1:15], found.future_output[15:]
    assert float(first.mean()) > 1.5 * float(second.mean())
    assert float(found.layer_share[0]) > 5 * float(found.layer_share[12:25].max())
