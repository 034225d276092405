"""Rotation in one pass against torch's own operations."""

import pytest
import torch
from processors import TAKEN_AWAY

from workbench_kernels.rotary import compiled, rotate

if compiled(torch.float32, torch.float32) is None:
    pytest.skip("nothing can be compiled here", allow_module_level=True)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype, table", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("head_dim, width", [(2, 2), (16, 16), (20, 6), (64, 64), (80, 32), (128, 96)])
def test_it_turns_pairs_of_dimensions(head_dim, width, dtype, table, flags):
    if compiled(dtype, table, *flags) is None:
        pytest.skip("this compiler does not know such a processor")
    generator = torch.Generator().manual_seed(head_dim)
    # Heads that stand before others of the same token.
    x = torch.randn(2, 5, 7, head_dim, generator=generator).to(dtype)[:, :, :4]
    cosine, sine = torch.randn(2, 5, 1, width, generator=generator).to(table)
    found = rotate(x, cosine, sine, *flags)
    first, second = x[..., :width].double().chunk(2, -1)
    expected = x.double()
    expected[..., :width] = x[..., :width].double() * cosine + torch.cat((second, first), -1) * sine
    assert found.dtype == dtype and torch.equal(found[..., width:], x[..., width:])
    near = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=near, atol=near)
    alone = torch.cat([rotate(x[:, at : at + 1], cosine[at : at + 1], sine[at : at + 1], *flags) for at in range(5)], 1)
    assert torch.equal(alone, found)


def test_tables_of_another_shape_are_left_to_torch():
    x = torch.ones(1, 3, 2, 8)
    for shape in ((3, 1, 10), (2, 1, 8), (3, 1, 3)):
        assert rotate(x, torch.ones(shape), torch.ones(shape)) is None
    assert rotate(x.double(), torch.ones(3, 1, 8), torch.ones(3, 1, 8)) is None
