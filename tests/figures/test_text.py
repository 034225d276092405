"""Text made visible."""

import pytest

from workbench.figures._text import Texts, columns, flow, heading, shorten, visible


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (" the", "␣the"),
        ("\n", "⏎"),
        ("\t", "⇥"),
        ("\r", "␍"),
        ("", "∅"),
        ("\x00", "\\x00"),
        ("\u202e", "\\u202e"),
        ("\u2028", "\\u2028"),
        ("\u200b", "\\u200b"),
        ("\xa0", "\\xa0"),
        ("日本é", "日本é"),
        ("<b>&", "<b>&"),
    ],
)
def test_everything_without_a_shape_is_spelled_out(raw, shown):
    assert visible(raw) == shown


def test_spaces_can_stay():
    assert visible("a b\n", spaces=False) == "a b⏎"


def test_joiners_stay_in_text_and_are_spelled_in_labels():
    assert visible("👩\u200d🔬 \u202e", spaces=False) == "👩\u200d🔬 \\u202e"
    assert visible("\u200d") == "\\u200d"


def test_long_text_ends_in_an_ellipsis():
    assert shorten("abcdef", 4) == "abc…" and shorten("abcd", 4) == "abcd"


def test_wide_letters_take_two_columns():
    assert columns("ab日本") == 6


def test_an_unknown_token_is_its_number(seen):
    texts = Texts(seen)
    assert texts[123456] == "[123456]" and texts[0] == "␣the"


def test_headings_fold_their_notes():
    title = heading("a\nb", "word " * 40, "")
    assert title.text == "a⏎b" and len(title.subtitle) == 2 and all(len(line) <= 108 for line in title.subtitle)


def test_pieces_flow_into_rows():
    start, row = flow([4, 4, 4, 2, 2], [0, 0, 1, 1, 2], [False, False, False, True, False], width=10)
    assert row.tolist() == [0, 0, 1, 1, 2]
    assert start.tolist() == [0, 4, 0, 4, 0]


def test_groups_are_set_apart():
    start, _ = flow([1, 1, 1], [0, 0, 1], [False] * 3, width=10, gap=0.5)
    assert start.tolist() == [0, 1, 2.5]
