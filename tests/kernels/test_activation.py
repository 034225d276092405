"""The compiled activations against their definitions, and each number by itself against the same one among others."""

import pytest
import torch
from processors import TAKEN_AWAY
from torch.nn import functional as F

from workbench_kernels.activation import KINDS, BackendUnavailable, activate, compiled

try:
    compiled("silu", torch.float32)
except BackendUnavailable as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)

DEFINED = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def made(width: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    return (4 * torch.randn(3, 2 * width, generator=generator)).to(dtype)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_activation(kind, dtype, gated, flags):
    try:
        compiled(kind, dtype, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")
    for width in (1, 15, 16, 17, 31, 64, 100):
        inner = made(width, dtype)
        found = activate(inner, kind, gated, *flags)
        gate, up = inner.double().chunk(2, -1)
        expected = DEFINED[kind](gate).to(dtype).double() * up if gated else DEFINED[kind](inner.double())
        assert found.dtype == dtype and found.shape == expected.shape
        if dtype == torch.float32:
            # The error function is near minus one where the gate is far below zero: what is left has few digits.
            atol = 1e-6 * (1.0 + float(up.abs().max()) if gated else 2.0)
            torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=atol)
        else:
            # A number on the edge between two roundings may fall to either side.
            torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_does_not_depend_on_those_beside_it_nor_on_the_threads(kind, dtype):
    inner = made(30011, dtype)
    threads = torch.get_num_threads()
    try:
        whole = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            whole.append(activate(inner, kind, False))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole[0], whole[1]) and torch.equal(whole[0], whole[2])
    for place in (0, 1, 7, 40, 30010):
        assert torch.equal(activate(inner[:, place : place + 1], kind, False), whole[0][:, place : place + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_the_line(kind):
    ends = torch.tensor([0.0, -0.0, 90.0, -90.0, 1e30, -1e30, torch.nan])
    found = activate(ends, kind, False)
    assert found[:4].tolist() == [0.0, 0.0, 90.0, 0.0] and found[4] == 1e30 and found[5] == 0.0 and found[6].isnan()
