"""The kernel of several experts against its definition, and bit for bit against single steps."""

import pytest
import torch
from processors import TAKEN_AWAY

from workbench.models.activation import Activation
from workbench.models.experts import Expert, Router, _expert_by_expert, _pair_by_pair
from workbench.models.projection import Projection
from workbench_kernels.activation import KINDS
from workbench_kernels.few_experts import BackendUnavailable, compiled, few_experts
from workbench_kernels.few_experts.reference import few_experts as reference

try:
    compiled("silu", torch.float32)
except BackendUnavailable as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)

SIZES = [(1, 1), (32, 24), (100, 17), (576, 32)]


def made(width, inner, dtype, tokens=3, experts=5):
    generator = torch.Generator().manual_seed(width + inner)
    rows = torch.randn(tokens, width, generator=generator)
    gate_up = torch.randn(experts, 2 * inner, width, generator=generator) / width**0.5
    down = torch.randn(experts, width, inner, generator=generator) / inner**0.5
    return rows.to(dtype), gate_up.to(dtype), down.to(dtype)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_sum_over_pairs(kind, dtype, flags):
    try:
        compiled(kind, dtype, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")
    for width, inner in SIZES:
        rows, gate_up, down = made(width, inner, dtype)
        tokens, experts = [0, 1, 0, 2, 0], [0, 0, 3, 4, 4]
        weights = torch.tensor([0.5, 1.5, -1.0, 0.25, 2.0], dtype=dtype)
        each = [gate_up[expert] for expert in experts], [down[expert] for expert in experts]
        found = few_experts(rows, tokens, *each, weights, kind, *flags)
        wide = [[one.double() for one in several] for several in each]
        expected = reference(rows.double(), tokens, *wide, weights.double(), kind)
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.06}
        torch.testing.assert_close(found.double(), expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_single_steps_bit_for_bit(dtype):
    """With rows that have fewer experts than others, and with any number of threads."""
    for width, inner in SIZES[1:]:
        rows, gate_up, down = made(width, inner, dtype, tokens=6)
        experts = [Expert(Projection(up), Projection(out)) for up, out in zip(gate_up, down, strict=True)]
        router, activation = Router(Projection(gate_up[0, :5]), experts, 3, False), Activation(torch.nn.SiLU())
        assert router.plain
        generator = torch.Generator().manual_seed(inner)
        indices = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(6)])  # 5 is none
        weights = torch.rand(6, 3, generator=generator).to(dtype)
        assert (indices == 5).any()
        asked = []

        def fetch(expert, asked=asked, experts=experts):
            asked.append(expert)
            return experts[expert]

        threads = torch.get_num_threads()
        with torch.no_grad():
            expected = _expert_by_expert(rows, weights, indices, router, activation, fetch)
            single, asked[:] = list(asked), []
            try:
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    assert torch.equal(_pair_by_pair(rows, weights, indices, router, "silu", fetch), expected)
            finally:
                torch.set_num_threads(threads)
        assert asked == 3 * single == 3 * sorted(set(single)), "each expert is fetched once"


def test_rows_without_any_expert_are_zero():
    rows, gate_up, down = made(32, 8, torch.float32)
    found = few_experts(rows, [1], [gate_up[0]], [down[0]], torch.ones(1), "silu")
    assert (found[[0, 2]] == 0).all() and (found[1] != 0).any()
    assert (few_experts(rows, [], [], [], torch.ones(0), "silu") == 0).all()


def test_other_dtypes_and_activations_have_none():
    for kind, dtype in (("silu", torch.float16), ("relu", torch.float32)):
        with pytest.raises(BackendUnavailable, match=rf"no kernel of experts for {kind}"):
            compiled(kind, dtype)
