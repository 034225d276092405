"""ResidualContribution against hooks that bypass one block of the transformers model, one forward per skip."""

from operator import attrgetter

import numpy as np
import pytest
import torch

from workbench.models import FAMILIES
from workbench.probes import ResidualContribution
from workbench.probes._probe import sample
from workbench.studies.observe import observe


def contribution(model, ids, probe):
    return observe(model, ids, [probe])["probes/residual_contribution"]


@torch.no_grad()
def skipped_logits(model, ids, layer):
    """Logits after the last of ``ids`` when the transformers model's block ``layer`` leaves that token as it came."""

    def bypass(_, args, kwargs, output):
        stream = args[0] if args else kwargs["hidden_states"]
        out = output[0] if isinstance(output, tuple) else output
        changed = torch.cat((out[:, :-1], stream[:, -1:]), 1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    block = attrgetter(model.anatomy.family.blocks)(model.hf)[layer]
    handle = block.register_forward_hook(bypass, with_kwargs=True)
    try:
        return model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_skipping_equals_a_forward_without_the_block(tiny, look, text_ids, family):
    model = tiny(family)
    found = contribution(model, text_ids, ResidualContribution(positions=4))
    places = sample(len(text_ids), 4).tolist()
    full = look(model, text_ids).logits.double().log_softmax(-1)
    for layer in range(4):
        divergence, changed = [], []
        for place in places:
            skipped = skipped_logits(model, text_ids[: place + 1], layer).log_softmax(-1)
            divergence.append(float((full[place].exp() * (full[place] - skipped)).sum()))
            changed.append(bool(skipped.argmax() != full[place].argmax()))
        assert float(found.skip_kl.sel(block=layer)) == pytest.approx(np.mean(divergence), abs=1e-4, rel=1e-3)
        assert float(found.skip_top1_change.sel(block=layer)) == pytest.approx(np.mean(changed))


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_and_cosines_equal_the_definition(tiny, look, text_ids, family):
    model = tiny(family)
    found = contribution(model, text_ids, ResidualContribution(positions=1))
    whole = look(model, text_ids)
    for layer, block in enumerate(model.anatomy.blocks):
        stream = whole.residuals[layer].double()
        times = getattr(model.hf.config, "residual_multiplier", 1.0)
        attention, mlp = times * whole.attention_outputs[layer].double(), times * whole.mlp_outputs[layer].double()
        for name, added, before in (
            ("attention", attention, stream),
            ("mlp", mlp, stream if block.parallel else stream + attention),
        ):
            share, cosine = [], []
            for one, other in zip(added, before, strict=True):
                share.append(float(one.norm() / other.norm()))
                cosine.append(float(one @ other / one.norm() / other.norm()))
            assert float(found[f"{name}_share"][layer]) == pytest.approx(np.mean(share), rel=1e-3), (name, layer)
            assert float(found[f"{name}_cosine"][layer]) == pytest.approx(np.mean(cosine), abs=1e-4), (name, layer)


def test_a_block_that_adds_nothing_costs_nothing_to_skip(tiny, text_ids):
    model = tiny("llama", seed=4)
    block = model.anatomy.blocks[2]
    weights = block.attention_output.weight, block.down.weight
    before = [weight.clone() for weight in weights]
    try:
        for weight in weights:
            weight.data.zero_()
        found = contribution(model, text_ids, ResidualContribution())
    finally:
        for weight, old in zip(weights, before, strict=True):
            weight.data.copy_(old)
    quiet = found.sel(block=2)
    assert float(quiet.attention_share) == float(quiet.mlp_share) == float(quiet.skip_top1_change) == 0
    assert abs(float(quiet.skip_kl)) < 1e-6 < float(found.skip_kl.sel(block=1))


@pytest.mark.bundled
def test_the_ends_of_the_bundled_model_cannot_be_skipped(seen):
    """Skipping the first block ruins the next token, skipping a middle one hardly shows."""
    found = seen["probes/residual_contribution"]
    assert int(found.skip_kl.argmax("block")) == 0 and float(found.skip_kl[0]) > 3
    assert float(found.skip_kl[12:19].max()) < 0.5 < float(found.skip_kl[29])
    assert float(found.skip_top1_change[0]) > 0.6 > 0.45 > float(found.skip_top1_change[12:19].mean())
    assert float(found.mlp_share[0]) > 5, "the first MLP writes most of what later layers read"
