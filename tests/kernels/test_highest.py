"""The highest number of a row against torch's own."""

import pytest
import torch
from processors import TAKEN_AWAY

from workbench_kernels.highest import BackendUnavailable, compiled, highest

try:
    compiled(torch.float32)
except BackendUnavailable as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_first_of_the_highest(dtype, flags):
    try:
        compiled(dtype, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")
    generator = torch.Generator().manual_seed(0)
    for width in (1, 3, 15, 16, 17, 40, 1001):
        # Few different numbers, so that many are equal.
        rows = torch.randint(-3, 4, (50, width), generator=generator).to(dtype)
        rows[7], rows[8, width // 2], rows[9, -1], rows[10] = -torch.inf, torch.inf, torch.nan, torch.nan
        values, indices = highest(rows, *flags)
        expected = rows.float().amax(-1)
        torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
        pairs = zip(rows.tolist(), expected.tolist())
        first = [next(i for i, x in enumerate(row) if x == best or x != x) for row, best in pairs]
        assert indices.tolist() == first, width


def test_other_dtypes_have_none():
    with pytest.raises(BackendUnavailable, match="float16"):
        highest(torch.ones(1, 2, dtype=torch.float16))
