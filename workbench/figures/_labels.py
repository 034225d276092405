"""Where to put the names of points so that none lies on another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

LETTER = 6.6  # pixels, of the width of an average letter at the size of labels
Box = tuple[float, float, float, float]


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    size: tuple[float, float],
    obstacles: Sequence[Box] = (),
    *,
    letter: float = LETTER,
    line: float = 14,
) -> list[tuple[float, float]]:
    """Positions for labels beside their points.

    Each label in turn takes the nearest free place round its point: free of the labels placed before, of all points and
    obstacles, and inside the plot. Where there is none, the place with the least overlap; other labels count most.

    Parameters
    ----------
    points : sequence of (x, y)
        In pixels, y downwards.
    texts : sequence of str
    size : (width, height)
        Of the plot, in pixels.
    obstacles : sequence of (left, top, right, bottom)
        What else lies there, such as error bars, in pixels.
    letter, line : float
        Width of a letter and height of a line, in pixels.

    Returns
    -------
    list of (x, y)
        Left end and middle height of each label, in pixels.
    """
    fixed: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in points] + list(obstacles)
    taken: list[Box] = []
    placed: list[tuple[float, float]] = []
    for (x, y), text in zip(points, texts, strict=True):
        wide = letter * len(text)
        best, least = (x + 10, y), np.inf
        for left, middle in _places(x, y, wide):
            box = (left, middle - line / 2, left + wide, middle + line / 2)
            outside = max(0, -box[0]) + max(0, box[2] - size[0]) + max(0, -box[1]) + max(0, box[3] - size[1])
            cost = 50 * outside + 20 * sum(_overlap(box, other) for other in taken)
            cost += sum(_overlap(box, other) for other in fixed)
            if cost < least:
                best, least = (left, middle), cost
            if cost == 0:
                break
        placed.append(best)
        taken.append((best[0], best[1] - line / 2, best[0] + wide, best[1] + line / 2))
    return placed


def _places(x: float, y: float, wide: float) -> list[tuple[float, float]]:
    spots = []
    for ring in range(8):
        up = 15 + 14 * ring
        if ring == 0:
            spots += [(x + 10, y), (x - wide - 10, y)]
        spots += [(x + 6, y - up), (x + 6, y + up), (x - wide - 6, y - up), (x - wide - 6, y + up)]
        spots += [(x - wide / 2, y - up), (x - wide / 2, y + up)]
    return spots


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return wide * tall if wide > 0 and tall > 0 else 0.0


def add_labels(
    table: pd.DataFrame,
    across: Sequence[float],
    up: Sequence[float],
    size: tuple[float, float],
    *,
    reverse: bool = False,
    names: tuple[str, str] = ("speed", "quality"),
) -> None:
    """Add the places of labels to the points of a chart, in the units of its axes.

    Parameters
    ----------
    table : DataFrame
        With ``run``, and the two columns of ``names`` with ``_low`` and ``_high`` (NaN for none) beside them. Gets
        ``label_x`` and
        ``label_y``, ``far`` for a label that had to leave its point, and ``end_x`` and ``end_y`` of a line to it.
    across, up : (low, high)
        Domains of the axes.
    size : (width, height)
        Of the plot, in pixels.
    reverse : bool
        Whether low values are at the top.
    names : (str, str)
        Columns that lie across and up.
    """
    right, high = names
    origin, spans = np.array([across[0], up[0]]), np.array([across[1] - across[0], up[1] - up[0]])

    def pixels(x: str, y: str) -> np.ndarray:
        places = [table[name].fillna(table[name.removesuffix("_low").removesuffix("_high")]) for name in (x, y)]
        share = (np.stack(places, 1) - origin) / spans
        return np.where([False, not reverse], 1 - share, share) * size

    points = pixels(right, high)
    corners = [pixels(f"{right}_{end}", high) for end in ("low", "high")]
    corners += [pixels(right, f"{high}_{end}") for end in ("low", "high")]
    bars = []
    for one, other in (corners[:2], corners[2:]):
        bars += [(*row - 1, *end + 1) for row, end in zip(np.fmin(one, other), np.fmax(one, other), strict=True)]
    spots = np.array(place_labels([tuple(point) for point in points], list(table["run"]), size, bars))
    ends = spots.copy()
    ends[:, 0] = np.clip(points[:, 0], spots[:, 0], spots[:, 0] + LETTER * table["run"].str.len())
    down = spots[:, 1] - points[:, 1]
    ends[:, 1] -= 7 * np.sign(down)
    table["far"] = np.abs(down) > 24
    for name, places in (("label", spots), ("end", ends)):
        share = places / np.array(size)
        table[[f"{name}_x", f"{name}_y"]] = origin + spans * np.where([False, not reverse], 1 - share, share)
