"""Making arrays small enough to draw, and drawing intervals from few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr


def spread(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spread, with the first and the last."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, max(limit, 1)).round().astype(int))


def pool(array: xr.DataArray, dim: str, limit: int) -> tuple[xr.DataArray, int]:
    """Means over neighbours along ``dim`` until at most ``limit`` are left, and how many went into each."""
    size = -(-array.sizes[dim] // limit)
    if size == 1:
        return array, 1
    return array.coarsen({dim: size}, boundary="pad").mean(), size


def significant(values: Any, digits: int = 5) -> np.ndarray:
    """Numbers rounded to significant digits: a third of the bytes in a page."""
    numbers = np.asarray(values, dtype=float)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(numbers))))
        rounded = np.round(numbers * scale) / scale
    return np.where(np.isfinite(rounded), rounded, numbers)


def frame(columns: dict[str, Any]) -> pd.DataFrame:
    """A data frame of plain columns; numbers rounded to five significant digits, infinities made missing."""
    table = pd.DataFrame({name: np.asarray(values).ravel() for name, values in columns.items()})
    for name in table.select_dtypes("floating"):
        values = significant(table[name].to_numpy())
        table[name] = np.where(np.isfinite(values), values, np.nan)
    return table


def layer_name(layer: Any) -> str:
    """``embedding`` for -1, the number of the block otherwise."""
    return "embedding" if int(layer) < 0 else str(int(layer))
