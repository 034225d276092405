"""Linear maps: the dense one is the product, counts itself, and gives its place to others."""

import dataclasses

import pytest
import torch
from helpers import tokens_of
from torch.nn import functional as F
from toys.linear_maps import EightBit, LowRank

from workbench.engine import Decoder, generate
from workbench.models import FAMILIES
from workbench.models.multiply import Multiply
from workbench.models.projection import LinearMap, Projection, product_of_some
from workbench.models.tiny import tiny
from workbench.models.variant import leaves, parts

PROMPT = list(range(3, 13))


def test_it_multiplies_bit_for_bit_as_its_multiply():
    x, weight, bias = torch.randn(2, 3, 48), torch.randn(64, 48), torch.randn(64)
    multiply = Multiply(torch.float32)
    assert torch.equal(Projection(weight, bias, multiply)(x), multiply(x, weight, bias))
    torch.testing.assert_close(Projection(weight, bias)(x), F.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_counts_multiply_adds_twice_and_bytes_as_kept(dtype):
    made = Projection(torch.zeros(64, 48, dtype=dtype), torch.zeros(64, dtype=dtype))
    assert made.flops(5) == 2 * 5 * 64 * 48
    assert made.bytes(5) == made.bytes(1) == 64 * 48 * dtype.itemsize


@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_of_a_model_is_one_and_goes_through_the_models_own_multiply(family):
    anatomy = tiny(family).anatomy
    assert isinstance(anatomy.head, LinearMap) and anatomy.unembedding is anatomy.head.weight
    multiplies = [value for _, value in leaves(parts(anatomy)) if isinstance(value, Multiply)]
    assert multiplies and all(each is anatomy.multiply for each in multiplies)
    for block in anatomy.blocks:
        maps = [block.query_key_value, block.attention_output]
        maps += [block.up, block.down] if block.router is None else [block.router.scores]
        maps += [] if block.shared is None else [block.shared.gate_up, block.shared.down, block.shared.gate]
        assert all(isinstance(each, LinearMap) for each in maps)
        assert block.flops(3) == sum(each.flops(3) for each in maps)
        assert block.bytes(3) == sum(each.bytes(3) for each in maps)


def toy(model, make):
    """The model with what ``make`` makes of both MLP projections of layer 1, and of the unembedding."""
    block = model.anatomy.blocks[1]
    view = model.variant(replace={1: dataclasses.replace(block, up=make(block.up), down=make(block.down))})
    view.anatomy.head = make(model.anatomy.head)
    return view


@pytest.mark.parametrize("make", [LowRank.of, EightBit.of])
def test_another_map_takes_its_place_and_is_counted(make):
    model = tiny("llama")
    view, decoders = toy(model, make), []
    for each in (model, view):
        decoders.append(Decoder(each))
        decoders[-1].prefill(PROMPT, logits="all")
    block, own = view.anatomy.blocks[1], model.anatomy.blocks[1]
    pairs = [(block.up, own.up), (block.down, own.down), (view.anatomy.head, model.anatomy.head)]
    rows = len(PROMPT)
    assert decoders[1].flops - decoders[0].flops == sum(a.flops(rows) - b.flops(rows) for a, b in pairs)
    assert decoders[1].bytes - decoders[0].bytes == sum(a.bytes(rows) - b.bytes(rows) for a, b in pairs)
    assert decoders[1].bytes < decoders[0].bytes
    said = tokens_of(generate(view, PROMPT, max_new_tokens=12, stop_tokens=()))
    dense = model.variant(
        weights={
            "layers.1.up.weight": block.up.weight,
            "layers.1.down.weight": block.down.weight,
            "head.weight": view.anatomy.head.weight,
        }
    )
    assert said == tokens_of(generate(dense, PROMPT, max_new_tokens=12, stop_tokens=()))
    exact, rounded = (Decoder(each).forward(PROMPT) for each in (model, view))
    assert not torch.equal(exact, rounded), "it is these weights that ran"


def test_an_expert_kept_in_eight_bits_runs_and_is_counted():
    model = tiny("qwen2_moe")
    block = model.anatomy.blocks[0]
    experts = [dataclasses.replace(each, down=EightBit.of(each.down)) for each in block.router.experts]
    small = dataclasses.replace(block, router=dataclasses.replace(block.router, experts=experts))
    view = model.variant(replace={0: small})
    steps = [list(generate(each, PROMPT, max_new_tokens=2, stop_tokens=()))[1] for each in (model, view)]
    saved = block.router.experts[0].down.bytes(1) - experts[0].down.bytes(1)
    assert steps[0].bytes - steps[1].bytes == saved * block.router.chosen and steps[0].flops == steps[1].flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_some_outputs_equal_those_of_a_map_that_has_no_others(dtype):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(30, 16, generator=generator).to(dtype), torch.randn(30, generator=generator).to(dtype)
    x, chosen = torch.randn(2, 3, 16, generator=generator).to(dtype), torch.tensor([29, 3, 4, 5, 17])
    for linear in (Projection(weight), Projection(weight, bias), Projection(weight[:, ::2])):
        rows = x[..., : linear.weight.shape[1]]
        torch.testing.assert_close(product_of_some(linear, rows, chosen), linear(rows)[..., chosen])
    weight.requires_grad_()
    product_of_some(Projection(weight, bias), x, chosen).float().square().sum().backward()
    assert weight.grad.any(1).nonzero()[:, 0].tolist() == sorted(chosen.tolist())
