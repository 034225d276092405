"""The logit lens: the right token in the right cell, with the right colour."""

import pytest

from workbench.errors import TraceError
from workbench.figures import logit_lens
from workbench.trace import vocabulary


def rows(chart):
    (data,) = chart.to_dict()["datasets"].values()
    return data


def test_a_cell_holds_the_top_token_and_its_probability(seen):
    lens = seen["probes/logit_lens"]
    for row in rows(logit_lens(seen))[::7]:
        position = int(row["token"].split(" ")[0])
        at = lens.sel(layer=row["layer"], token=position)
        words = vocabulary(seen)[int(at["top_token"][0])]
        assert row["top"].replace("␣", " ")[:5] == words[:5] or words.strip(" ") == "" or not words.isprintable()
        assert row["value"] == pytest.approx(float(at["top_probability"][0]), rel=1e-4)
        assert row["top 2"].endswith(f"{100 * float(at['top_probability'][1]):.3g} %")
        assert row["final_rank"] == int(at["final_rank"])


def test_the_last_tokens_are_shown_and_it_is_said(seen):
    chart = logit_lens(seen, last=5)
    assert {int(row["token"].split(" ")[0]) for row in rows(chart)} == {35, 36, 37, 38, 39}
    assert "Tokens 35 to 39 of 40 are shown." in chart.to_dict()["title"]["subtitle"]
    whole = logit_lens(seen, last=40)
    assert len(rows(whole)) == 40 * 13 and "shown" not in " ".join(whole.to_dict()["title"]["subtitle"])


@pytest.mark.parametrize(
    ("colour", "variable", "unit"),
    [("entropy", "entropy", "[nats]"), ("kl", "kl_to_last", "[nats]"), ("rank", "final_rank", "rank")],
)
def test_colour_can_show_something_else(seen, colour, variable, unit):
    chart = logit_lens(seen, colour=colour)
    legend = chart.to_dict()["layer"][0]["encoding"]["color"]
    assert unit in legend["legend"]["title"]
    best = min(rows(chart), key=lambda row: row["value"])
    assert best["value"] == pytest.approx(float(seen["probes/logit_lens"][variable][:, -12:].min()), rel=1e-4)


def test_an_unknown_colour_is_refused(seen):
    with pytest.raises(TraceError, match="none of probability, entropy, kl, rank"):
        logit_lens(seen, colour="size")


def test_the_settling_layer_is_outlined_once_for_each_token(seen):
    marked = [row for row in rows(logit_lens(seen)) if row["settles"]]
    assert len(marked) == 12 and {row["layer"] for row in marked} == {8}


def test_letters_disappear_where_columns_are_narrow(seen):
    marks = [layer["mark"]["type"] for layer in logit_lens(seen, last=40).to_dict()["layer"]]
    assert "text" not in marks
    assert "text" in [layer["mark"]["type"] for layer in logit_lens(seen).to_dict()["layer"]]
