"""ResidualVelocity against the transformers model's own hidden states, one vector at a time."""

import math

import numpy as np
import pytest
import torch

from workbench import artifacts
from workbench.models import FAMILIES
from workbench.models.tiny import tiny
from workbench.parts.exits import Accelerators, load_accelerated
from workbench.probes import DepthUse, ResidualContribution, ResidualVelocity
from workbench.studies.observe import observe


def velocity(model, ids, probe):
    return observe(model, ids, [probe])["probes/residual_velocity"]


def cosine(one, other):
    return float(one @ other / one.norm() / other.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_equal_the_definition(tiny, look, text_ids, family):
    model = tiny(family)
    found = velocity(model, text_ids, ResidualVelocity(positions=4))
    stream = look(model, text_ids).residuals.double()
    places = found.position.values.tolist()
    assert places[0] == 0 and places[-1] == len(text_ids) - 1 and len(places) == 4
    for place in places:
        end = stream[-1, place]
        for layer in range(-1, model.layers):
            arrival = float(found.arrival.sel(layer=layer, position=place))
            assert arrival == pytest.approx(cosine(stream[layer + 1, place], end), abs=1e-4)
        for block in range(model.layers):
            before, after = stream[block, place], stream[block + 1, place]
            here = found.sel(block=block, position=place)
            assert float(here.speed) == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)
            assert float(here.turn) == pytest.approx(math.acos(min(1, cosine(before, after))) / math.pi, abs=1e-3)
            assert float(here.heading) == pytest.approx(cosine(after - before, end - before), abs=1e-3)


def test_the_accelerated_stream_stands_beside_the_slow_one(tiny, look, text_ids, tmp_path):
    """Up to the first accelerator it is the slow one, between two it makes the same moves."""
    model = tiny("llama", layers=6)
    part = Accelerators([1, 3], model.anatomy.width, 3, 5, 8)
    for parameter in part.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.1)
    artifacts.save("accelerated_residual", part.state_dict(), {"model": {"name": model.name}}, tmp_path)
    weights = str(tmp_path / "accelerated_residual.safetensors")
    found = velocity(model, text_ids, ResidualVelocity(positions=None, accelerators=weights))
    stream, lens = look(model, text_ids).residuals, load_accelerated(model, weights)
    leads = [torch.zeros_like(stream[0])] * 2
    with torch.inference_mode():
        leads += [lens.advance(stream[2], 1)] * 2
        leads += [lens.advance(stream[4], 3, leads[-1])] * 2
    leads += [torch.zeros_like(stream[0])]
    for layer in range(-1, 6):
        fast = (stream[layer + 1] + leads[layer + 1]).double()
        expected = torch.cosine_similarity(fast, stream[-1].double(), dim=-1)
        assert found.accelerated.sel(layer=layer).values == pytest.approx(expected.numpy(), abs=1e-4)
    assert "accelerated" not in velocity(model, text_ids, ResidualVelocity())


def test_a_block_that_adds_nothing_does_not_move(tiny, text_ids, monkeypatch):
    model = tiny("llama", seed=4)
    block = model.anatomy.blocks[2]
    for linear in (block.attention_output, block.down):
        monkeypatch.setattr(linear, "weight", torch.zeros_like(linear.weight))
    found = velocity(model, text_ids, ResidualVelocity())
    still = found.sel(block=2)
    assert not still.speed.any() and not still.heading.any() and float(still.turn.max()) < 1e-3
    assert (found.arrival.sel(layer=1) == found.arrival.sel(layer=2)).all()
    assert (found.sel(block=1).speed > 0.01).all()


def test_the_last_block_heads_for_the_end(tiny, text_ids):
    found = velocity(tiny("llama"), text_ids, ResidualVelocity(positions=None))
    assert found.sizes["position"] == len(text_ids)
    assert float(found.heading.isel(block=-1).min()) == pytest.approx(1, abs=1e-5)
    assert float(found.arrival.isel(layer=-1).min()) == pytest.approx(1, abs=1e-5)


@pytest.mark.bundled
def test_the_bundled_model_arrives_late(bundled):
    """M2R2's ground: without acceleration the stream agrees with its end only in the last layers."""
    text = "Water boils at one hundred degrees Celsius at sea level, but on a high mountain it boils sooner because"
    found = velocity(bundled, text, ResidualVelocity())
    arrival, speed = (found[name].median("position") for name in ("arrival", "speed"))
    assert float(arrival.sel(layer=14)) < 0.75 < float(arrival.sel(layer=28))
    assert float(speed.sel(block=0)) > 3 * float(speed.sel(block=slice(5, 25)).max()), "the first block goes furthest"


def test_a_token_embedded_as_nothing_makes_no_number_infinite():
    model = tiny("llama", seed=7)
    with torch.no_grad():
        model.anatomy.embedding[5] = 0
    for probe in (ResidualVelocity(), DepthUse(), ResidualContribution()):
        found = observe(model, [5, 9, 5, 8, 5, 7], [probe])[f"probes/{probe.name}"]
        assert all(bool(np.isfinite(each).all()) for each in found.data_vars.values())
