"""What the accelerators learn from: layers further on at a rate, and the last one's distribution from there on."""

import pytest
import torch
from helpers import random_tokens

from workbench import artifacts
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.models.walk import causal, walk
from workbench.parts.exits import Translators
from workbench.training import AcceleratedResidual

EXAMPLE = {"linear": 3, "gated": 5, "lens": "untrained", "vocabulary": 20, "scored": 20}


def slow_streams(model, tokens):
    """Streams [tokens, width] of one text, float64: after no layer, after the first, …"""
    anatomy, seen = model.anatomy, []
    positions = torch.arange(len(tokens))
    x = anatomy.embed(torch.tensor([tokens]), positions)
    last = walk(anatomy.blocks, x, anatomy.rope(positions), causal, lambda layer, x: seen.append(x[0]))
    return [each.double() for each in (*seen, last[0])]


def test_layers_and_their_targets():
    recipe = AcceleratedResidual()
    layers = recipe.accelerated(30)
    assert layers == [5, 8, 11, 14, 17, 20, 23, 26]
    assert [recipe._target(layer, 30) for layer in layers] == [12, 18, 24, 30, 30, 30, 30, 30]
    assert AcceleratedResidual(rate=1.25, first=0.5, every=1)._target(23, 30) == 30
    with pytest.raises(SettingError, match="take a higher rate"):
        AcceleratedResidual(rate=1.0).accelerated(30)


@torch.no_grad()
def test_the_loss_is_the_formula_s():
    model, recipe = tiny("llama", layers=6), AcceleratedResidual(rate=2, first=0.2, every=1, places=1000, **EXAMPLE)
    part = recipe.part(model)
    for parameter in part.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.1)
    tokens = random_tokens(12)
    answer = torch.tensor([[False] * 5 + [True] * 7])
    streams = [each[4:11] for each in slow_streams(model, tokens)]
    fast = part(torch.stack([streams[layer + 1] for layer in range(5)]).float()).double()
    expected = []
    for n in (1, 2):
        far = (streams[n] - streams[2 * n]).square().sum(-1).mean()
        expected.append(float((fast[n - 1] - streams[2 * n]).square().sum(-1).mean() / far))
    last = model.anatomy.unembed(streams[6].float()).double().log_softmax(-1)
    right = []
    for n in (3, 4, 5):
        said = model.anatomy.unembed(fast[n - 1].float()).double().log_softmax(-1)
        expected.append(float((last.exp() * (last - said)).sum(-1).mean()))
        right.append(float((said.argmax(-1) == last.argmax(-1)).double().mean()))
    loss, figures = recipe.loss(model, part, torch.tensor([tokens]), answer)
    assert float(loss) == pytest.approx(sum(expected) / 5, rel=1e-4)
    assert figures["accuracy"] == pytest.approx(sum(right) / 3)
    assert (figures["accuracy_first"], figures["accuracy_last"]) == pytest.approx((right[0], right[-1]))
    assert part.acceptance[:, 0].tolist() == pytest.approx([0, 0, *right], abs=1e-6)


def test_it_begins_as_the_tuned_lens_where_the_stream_is_to_be_at_the_end(tmp_path):
    model = tiny("llama", layers=6)
    lens = Translators(model.layers, model.anatomy.width, 3, 20)
    for parameter in lens.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.1)
    artifacts.save("tuned_lens", lens.state_dict(), {"model": {"name": model.name}}, tmp_path)
    path = str(tmp_path / "tuned_lens.safetensors")
    part = AcceleratedResidual(**{**EXAMPLE, "lens": path, "first": 0.2, "every": 1}).part(model)
    slow = torch.randn(5, 4, model.anatomy.width)
    with torch.no_grad():
        lens.load_state_dict({key: artifacts.rounded(value) for key, value in lens.state_dict().items()})
        tuned = lens(torch.cat((slow[:1], slow)))[1:]
        torch.testing.assert_close(part(slow)[2:], tuned[2:])
        assert torch.equal(part(slow)[:2], slow[:2])
    learned = {name for name, parameter in part.named_parameters() if parameter.requires_grad}
    assert learned == {"gate", "gate_bias", "enter", "leave", "forget"}
    all_ = AcceleratedResidual(**{**EXAMPLE, "lens": path, "first": 0.2, "every": 1, "frozen": False}).part(model)
    assert all(parameter.requires_grad for parameter in all_.parameters())
