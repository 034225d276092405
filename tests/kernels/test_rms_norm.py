"""The compiled norm against what transformers' modules compute, rounding included."""

import pytest
import torch
from processors import TAKEN_AWAY

from workbench_kernels.rms_norm import compiled, rms_norm

EPS = 1e-5

if compiled(torch.float32, torch.float32) is None:
    pytest.skip("nothing can be compiled here", allow_module_level=True)


def by_definition(rows: torch.Tensor, weight: torch.Tensor, late: bool) -> torch.Tensor:
    wide = rows.double()
    scaled = wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt()
    if late:
        return (scaled * weight.double()).to(rows.dtype)
    return (scaled.to(rows.dtype).double() * weight.double()).to(rows.dtype)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize(
    "dtype, weight_dtype, late",
    [
        (torch.float32, torch.float32, False),
        (torch.float32, torch.float32, True),
        (torch.bfloat16, torch.bfloat16, False),
        (torch.bfloat16, torch.float32, True),
    ],
)
@pytest.mark.parametrize("width", [1, 15, 16, 31, 64, 576])
def test_it_is_the_norm(width, dtype, weight_dtype, late, flags):
    if compiled(dtype, weight_dtype, *flags) is None:
        pytest.skip("this compiler does not know such a processor")
    generator = torch.Generator().manual_seed(width)
    rows = (3 * torch.randn(2, 5, width, generator=generator)).to(dtype)
    weight = torch.randn(width, generator=generator).to(weight_dtype)
    found, expected = rms_norm(rows, weight, EPS, late, *flags), by_definition(rows, weight, late)
    assert found.dtype == dtype and found.shape == rows.shape
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    else:
        # A number on the edge between two roundings may fall to either side, and so may its product with the weight.
        torch.testing.assert_close(found, expected, rtol=2**-6, atol=1e-6)
        assert float((found != expected).float().mean()) < 0.02
    for place in range(5):
        assert torch.equal(rms_norm(rows[:, place], weight, EPS, late, *flags), found[:, place])


def test_other_dtypes_are_left_to_torch():
    assert rms_norm(torch.ones(2, 4).half(), torch.ones(4).half(), EPS, False) is None
    assert rms_norm(torch.ones(2, 4), torch.ones(4).bfloat16(), EPS, False) is None


def test_a_weight_that_does_not_fit_is_left_to_torch():
    assert rms_norm(torch.ones(2, 8), torch.ones(4), EPS, False) is None
    assert rms_norm(torch.ones(2, 4), torch.ones(8)[::2], EPS, False) is None
