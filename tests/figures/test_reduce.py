"""Reductions before drawing."""

import numpy as np
import pytest
import xarray as xr

from workbench.figures._reduce import frame, pool, significant, spread


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (5, 9), (9, 9), (100, 9), (81, 64)])
def test_spread_keeps_both_ends_and_the_limit(count, limit):
    kept = spread(count, limit)
    assert len(kept) == min(count, limit)
    assert kept[0] == 0 and kept[-1] == count - 1
    assert (np.diff(kept) > 0).all()


def test_pool_takes_means_of_neighbours():
    array = xr.DataArray(np.arange(7.0), dims="head")
    pooled, size = pool(array, "head", 3)
    assert size == 3
    np.testing.assert_allclose(pooled.values, [1.0, 4.0, 6.0])
    same, size = pool(array, "head", 7)
    assert size == 1 and same.identical(array)


def test_significant_digits_keep_size_and_gaps():
    np.testing.assert_array_equal(
        significant([123456.7, 0.000123456, 0, np.nan, -2]), [123460, 0.00012346, 0, np.nan, -2]
    )


def test_infinities_become_missing():
    table = frame({"a": np.array([1.0, np.inf]), "b": ["x", "y"]})
    assert np.isnan(table["a"][1]) and table["b"].tolist() == ["x", "y"]
