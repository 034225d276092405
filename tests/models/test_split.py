"""A dense model cut into experts is itself with all of them on, and the sum of its parts with some."""

import pytest
import torch
from helpers import random_tokens

import workbench as wb
from workbench.errors import ArtifactError, UnsupportedModel
from workbench.models import split
from workbench.models.load import wrap
from workbench.models.tiny import tiny
from workbench.parts.expert_split import ExpertSplit

DENSE, EXPERTS, SHARED, RANK = 1, 4, 24, 2
TOKENS = torch.tensor([random_tokens(20, 5)])


def part_of(model, spread=1.0, seed=0):
    """A split with neurons dealt by chance, and routers and stand-ins that have learned something or other."""
    torch.manual_seed(seed)
    width, neurons = model.anatomy.width, model.anatomy.blocks[0].down.weight.shape[1]
    part = ExpertSplit(DENSE, model.layers - DENSE, width, neurons, EXPERTS, SHARED, RANK)
    for layer in range(model.layers - DENSE):
        order = torch.randperm(neurons, dtype=torch.int32)
        part.always[layer], part.grouped[layer] = order[:SHARED], order[SHARED:].view(EXPERTS, -1)
    with torch.no_grad():
        part.router.normal_(std=spread * split.UNIT)
        part.stand_down.normal_(std=0.3)
    return part


def split_of(model, part, chosen=EXPERTS):
    made = wrap(split.split(model.hf, part.state_dict()), None, "split")
    split.choose(made, chosen)
    return made


@torch.no_grad()
def logits(model):
    return model.hf(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_all_experts_on_are_the_dense_model_whatever_was_learned(spread):
    """Exact up to the order of sums where routers are zero, and with trained ones to what their scale lets through."""
    model = tiny("llama")
    made = split_of(model, part_of(model, spread))
    assert type(made.hf).__name__ == "Qwen2MoeForCausalLM"
    error = (logits(made) - logits(model)).abs().max() / logits(model).std()
    assert error < (1e-5 if spread == 0 else 1e-3)
    assert made.hf.config.router_scale == split.ROUTER_SCALE


def test_some_experts_on_are_the_sum_of_their_neurons_and_the_others_stand_ins():
    """Slowly, neuron by neuron, and by what the recipe trains."""
    model = tiny("llama")
    part = part_of(model)
    made = split_of(model, part, 2)
    x = torch.randn(6, model.anatomy.width, generator=torch.Generator().manual_seed(1))
    silu = torch.nn.functional.silu
    for layer, block in enumerate(model.anatomy.blocks[DENSE:]):
        normed = block.mlp_norm(x)
        found = made.anatomy.blocks[layer + DENSE].mlp_sublayer(x[None])[0]
        gate, up = block.up.weight.chunk(2)
        for row in range(len(x)):
            first = (part.router[layer] @ normed[row]).topk(2).indices.tolist()
            want = torch.zeros(model.anatomy.width)
            for neuron in part.always[layer].tolist():
                want += silu(gate[neuron] @ normed[row]) * (up[neuron] @ normed[row]) * block.down.weight[:, neuron]
            for expert in range(EXPERTS):
                if expert in first:
                    for neuron in part.grouped[layer, expert].tolist():
                        inner = silu(gate[neuron] @ normed[row]) * (up[neuron] @ normed[row])
                        want += inner * block.down.weight[:, neuron]
                else:
                    inner = silu(part.stand_gate[layer, expert] @ normed[row])
                    inner = inner * (part.stand_up[layer, expert] @ normed[row])
                    want += part.stand_down[layer, expert] @ inner
            # The weights that experts count with are off by a few times the router's scale.
            torch.testing.assert_close(found[row], want, rtol=5e-3, atol=5e-3)
        torch.testing.assert_close(part(block, normed, 2), found, rtol=5e-3, atol=5e-3)


def test_what_a_router_learns_has_a_derivative():
    model = tiny("llama")
    part = part_of(model)
    x = torch.randn(6, model.anatomy.width, generator=torch.Generator().manual_seed(2))
    part(model.anatomy.blocks[2], x, 2).square().sum().backward()
    for parameter in part.parameters():
        assert parameter.grad[1].abs().max() > 0 and parameter.grad[0].abs().max() == 0


def test_it_is_a_stock_model_that_can_be_stored_and_loaded(tmp_path):
    model = tiny("llama")
    made = split_of(model, part_of(model), 2)
    made.hf.save_pretrained(tmp_path)
    again = wb.load(str(tmp_path), device="cpu")
    assert again.hf.config.num_experts_per_tok == 2 and again.anatomy.blocks[1].router.chosen == 2
    assert again.anatomy.blocks[0].router is None
    torch.testing.assert_close(logits(again), logits(made), rtol=1e-4, atol=1e-4)


def test_the_dense_model_stays_what_it_is():
    model = tiny("llama")
    before = logits(model)
    split_of(model, part_of(model), 2)
    assert torch.equal(logits(model), before)


def test_what_cannot_be_split_is_refused_with_a_reason():
    model = tiny("llama")
    tensors = part_of(model).state_dict()
    with pytest.raises(UnsupportedModel, match="only a Llama without biases"):
        split.split(tiny("gpt2").hf, tensors)
    twice = {**tensors, "always": torch.zeros_like(tensors["always"])}
    with pytest.raises(ArtifactError, match="each of the 48 neurons of every layer once"):
        split.split(model.hf, twice)
    with pytest.raises(ArtifactError, match="has no tensors always, grouped"):
        split.split(model.hf, {name: tensor for name, tensor in tensors.items() if name != "router"})
    with pytest.raises(ArtifactError, match=r"router has shape \[3, 4, 8\] where \[3, 4, 32\] is due"):
        split.split(model.hf, {**tensors, "router": tensors["router"][..., :8]})
