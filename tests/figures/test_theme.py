"""Colours that can be seen on white and on black."""

import altair as alt
import pytest

from workbench.figures._theme import BACKGROUNDS, CATEGORIES, INKS, configuration


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", BACKGROUNDS.values())
def test_marks_and_text_for_unknown_backgrounds_stand_out_on_both(background):
    assert all(contrast(colour, background) >= 3 for colour in CATEGORIES)
    assert contrast(INKS["both"][0], background) >= 4


@pytest.mark.parametrize("ink", ["light", "dark"])
def test_text_on_a_known_background_has_full_contrast(ink):
    assert contrast(INKS[ink][0], BACKGROUNDS[ink]) >= 12


def test_kinds_differ():
    assert len(set(CATEGORIES)) == len(CATEGORIES)


def test_the_theme_is_registered_for_a_readers_own_charts():
    with alt.theme.enable("workbench"):
        spec = alt.Chart(alt.Data(values=[{"a": 1}])).mark_point().encode(x="a:Q").to_dict()
    assert spec["config"]["font"] == configuration()["font"]
