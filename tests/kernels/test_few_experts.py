"""The kernel of several experts against its definition, and bit for bit against single steps."""

from dataclasses import replace

import pytest
import torch
from processors import TAKEN_AWAY

from workbench.models.activation import Activation
from workbench.models.experts import Expert, Router, _expert_by_expert, _pair_by_pair
from workbench.models.projection import Projection
from workbench_kernels.activation import KINDS
from workbench_kernels.few_experts import BackendUnavailable, FewExperts, compiled
from workbench_kernels.few_experts.reference import reference_experts

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
def test_it_is_the_sum_over_a_row_s_experts(kind, dtype, flags):
    try:
        compiled(kind, dtype, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")
    for width, inner in SIZES:
        rows, gate_up, down = made(width, inner, dtype)
        indices = torch.tensor([[3, 0, 3], [0, 5, 5], [5, 4, 2]])  # 5 is none, and 3 counts twice
        weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(inner)).to(dtype)
        found = FewExperts(gate_up, down, kind, *flags)(rows, indices, weights)
        expected = reference_experts(gate_up.double(), down.double(), kind, rows.double(), indices, weights.double())
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


def test_experts_whose_products_are_formed_otherwise_take_the_steps():
    """A bias, another map, another way to multiply, experts of two sizes: the kernel knows none of them."""
    _, gate_up, down = made(32, 8, torch.float32)
    plain = [Expert(Projection(up), Projection(out)) for up, out in zip(gate_up, down, strict=True)]
    others = (
        replace(plain[0], gate_up=Projection(gate_up[0], torch.zeros(16))),
        replace(plain[0], down=Projection(down[0], None, torch.nn.functional.linear)),
        replace(plain[0], down=Projection(down[0].t().contiguous().t())),
        Expert(Projection(gate_up[0, :8]), Projection(down[0, :, :4].contiguous())),
    )
    for other in others:
        assert not Router(Projection(gate_up[0, :5]), [*plain, other], 2, False).plain


def test_rows_without_any_expert_are_zero_and_none_but_the_chosen_are_read():
    rows, gate_up, down = made(32, 8, torch.float32)
    gate_up[1:], down[1:] = torch.nan, torch.nan
    found = FewExperts(gate_up, down, "silu")(rows, torch.tensor([[5], [0], [5]]), torch.ones(3, 1))
    assert (found[[0, 2]] == 0).all() and (found[1] != 0).any() and found.isfinite().all()
    assert FewExperts(gate_up, down, "silu")(rows[:0], torch.ones(0, 2).long(), torch.ones(0, 2)).shape == (0, 32)


def test_other_dtypes_and_activations_have_none():
    for kind, dtype in (("silu", torch.float16), ("relu", torch.float32)):
        with pytest.raises(BackendUnavailable, match=rf"no kernel of experts for {kind}"):
            compiled(kind, dtype)
