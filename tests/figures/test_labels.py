"""Labels that do not lie on one another."""

import numpy as np
import pytest

from workbench.figures._labels import LETTER, place_labels


def overlaps(places, texts):
    boxes = [(x, y - 7, x + LETTER * len(text), y + 7) for (x, y), text in zip(places, texts, strict=True)]
    return [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    ]


@pytest.mark.parametrize("seed", range(20))
def test_eight_labels_do_not_overlap_even_in_a_crowd(seed):
    rng = np.random.default_rng(seed)
    points = [tuple(point) for point in rng.normal([300, 180], [40, 25], (8, 2))]
    texts = ["a run with a long name"[: rng.integers(6, 22)] for _ in points]
    places = place_labels(points, texts, (620, 360))
    assert not overlaps(places, texts)


def test_labels_of_equal_points_are_set_apart():
    texts = ["baseline", "the same again", "and again"]
    places = place_labels([(610, 10)] * 3, texts, (620, 360))
    assert not overlaps(places, texts)
    assert all(x >= 0 and x + LETTER * len(text) <= 620 for (x, _), text in zip(places, texts, strict=True))


def test_a_lone_label_stands_beside_its_point():
    assert place_labels([(100, 100)], ["one"], (620, 360)) == [(110, 100)]


def test_error_bars_are_avoided():
    ((_, y),) = place_labels([(100, 100)], ["one"], (620, 360), [(60, 99, 140, 101)])
    assert abs(y - 100) > 7
