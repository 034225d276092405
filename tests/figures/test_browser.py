"""Pages opened from a file in Chromium, the network cut."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect

from workbench import figures

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def reports(seen, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return figures.report(seen, folder / "seen.html"), figures.report(study, folder / "study.html")


def drawn(page, scheme="light"):
    page.wait_for_selector(f"html[data-drawn={scheme}]", timeout=60_000)


def picture(page):
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


@pytest.mark.parametrize("which", [0, 1], ids=["observe", "study"])
def test_the_report_draws_everything_offline_and_in_silence(visit, reports, which):
    page = visit(reports[which])
    drawn(page)
    assert page.said == []
    assert page.asked == [reports[which].as_uri()]
    charts = page.locator(".chart")
    assert charts.count() == page.locator("figure").count() >= 8
    for number in range(charts.count()):
        svg = charts.nth(number).locator("svg.marks")
        assert svg.count() == 1 and svg.locator("path, text").count() > 10
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("which", [0, 1], ids=["observe", "study"])
def test_hovering_a_mark_of_any_figure_tells_about_it(visit, reports, which):
    page = visit(reports[which])
    drawn(page)
    figure = page.locator("figure")
    tooltip = page.locator("#vg-tooltip-element.visible")
    for number in range(figure.count()):
        marks = figure.nth(number).locator("svg .mark-rect.role-mark path, svg .mark-symbol.role-mark path")
        mark = marks.nth(min(3, marks.count() - 1))
        mark.scroll_into_view_if_needed()
        box = mark.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2)
        name = figure.nth(number).get_attribute("data-figure")
        expect(tooltip, name).to_have_count(1, timeout=10_000)
        assert len(tooltip.inner_text()) > 5, name
        assert tooltip.locator("img, script, b").count() == 0, name
        page.mouse.move(2, 2)
        expect(tooltip).to_have_count(0, timeout=10_000)
    assert page.said == []


@pytest.mark.parametrize("name", ["logit_lens", "quality_speed"])
def test_both_schemes_show_the_figure_on_their_background(visit, draw, tmp_path, name):
    page = visit(figures.save_html(draw(name), tmp_path / "figure.html"))
    schemes = {"light": ((255, 255, 255), "rgb(31, 35, 40)"), "dark": ((14, 17, 23), "rgb(230, 237, 243)")}
    for scheme, (background, ink) in schemes.items():
        page.emulate_media(color_scheme=scheme)
        drawn(page, scheme)
        pixels = picture(page).reshape(-1, 3)
        assert 0.2 < (pixels == background).all(1).mean() < 0.99
        assert len(np.unique(pixels, axis=0)) > 50
        title = page.locator("svg .role-title-text text").first
        assert title.evaluate("node => getComputedStyle(node).fill") == ink
    assert page.locator("svg.marks").count() == 1 and page.said == []


def test_another_layer_of_experts_can_be_chosen(visit, draw, tmp_path):
    page = visit(figures.save_html(draw("expert_coactivation"), tmp_path / "figure.html"))
    drawn(page)
    bars = page.locator(".concat_1_group .mark-rect.role-mark path")
    before = [bars.nth(i).get_attribute("d") for i in range(bars.count())]
    page.locator(".vega-bindings select").select_option("8")
    page.wait_for_timeout(300)
    assert bars.count() == len(before) == 8
    assert [bars.nth(i).get_attribute("d") for i in range(8)] != before


def test_a_fragment_draws_inside_another_page_and_cannot_reach_it(visit, seen, tmp_path):
    outer = tmp_path / "outer.html"
    frame = figures.fragment({"one": figures.logit_lens(seen), "two": figures.attention_distance(seen)})
    outer.write_text(f"<!DOCTYPE html><title>outer</title><body>{frame}</body>", encoding="utf-8")
    page = visit(outer)
    inner = page.frame_locator("iframe")
    inner.locator("html[data-drawn]").wait_for(timeout=60_000)
    assert inner.locator("svg.marks").count() == 2
    fits = "document.documentElement.scrollHeight <= innerHeight + 1"
    assert page.frames[1].evaluate(fits), "the frame is as tall as its charts"
    assert page.frames[1].evaluate("origin") == "null"
    assert page.said == [] and page.asked == [outer.as_uri()]


def test_script_that_got_into_a_page_is_not_run(visit, draw, tmp_path):
    path = figures.save_html(draw("acceptance"), tmp_path / "figure.html")
    bad = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    whole = path.read_text("utf-8").replace("</head>\n<body>", f"</head>\n<body>{bad}", 1)
    path.write_text(whole, encoding="utf-8", newline="\n")
    page = visit(path)
    drawn(page)
    assert page.title() != "run"
    assert any("Content Security Policy" in said for said in page.said)


@pytest.fixture(scope="module")
def wide(study, tmp_path_factory):
    """A report with a comparison of as many columns as a study's."""
    from workbench.figures._comparison import _FIRST

    frame = pd.DataFrame({name: ["0.1234", "1.02"] for name in _FIRST[1:]} | {"more": [1, 2]})
    frame.index = pd.Index(["baseline", "prompt_lookup:ngram=3,draft=10+snap_kv:keep=0.5,window=32"], name="run")
    return figures.report(study, tmp_path_factory.mktemp("wide") / "r.html", table=frame)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1000, 390])
def test_the_comparison_fits_or_scrolls_with_a_sign(visit, wide, width, scheme):
    page = visit(wide)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 700})
    drawn(page, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page itself never scrolls sideways"
    box = page.locator(".wide").first
    if box.evaluate("box => box.scrollWidth <= box.clientWidth"):
        assert width > 390
        return
    edge = box.bounding_box()
    picture_of = lambda: np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB")).astype(int)  # noqa: E731

    def shaded():
        """How far the last columns of pixels, where no letter stands, are from the page's background."""
        pixels = picture_of()
        inside = pixels[8:14]  # above the heads of the columns
        return np.abs(inside[:, -3:] - inside[:, len(inside[0]) // 2, None]).max()

    assert shaded() > 20, "more stands on the right"
    first = box.locator("tbody th").nth(1)
    before = first.bounding_box()["x"]
    box.evaluate("box => box.scrollLeft = box.scrollWidth")
    page.wait_for_timeout(100)
    assert shaded() < 5, "that was all"
    assert first.bounding_box()["x"] == pytest.approx(before, abs=1), "the names of the runs stay"
    assert box.locator("thead th").last.bounding_box()["x"] < edge["x"] + edge["width"]
    over = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('th')?.scope",
        [first.bounding_box()["x"] + 10, first.bounding_box()["y"] + 8],
    )
    assert over == "row", "what scrolls goes below them"


def test_dragging_over_steps_leaves_the_sums_of_those_alone(visit, study, tmp_path):
    """Steps 6 to 8 of the timeline left after blocks 17, 23 and 29, one each."""
    page = visit(figures.save_html(figures.exit_timeline(study, run=1), tmp_path / "timeline.html"))
    drawn(page)
    bars = page.locator("svg .mark-rect.role-mark path")
    every = page.locator('[aria-label^="left after block: "][aria-label*="decode steps: 7"]')
    chosen = page.locator('[aria-label^="left after block: "][aria-label*="decode steps: 1;"]')
    expect(every).to_have_count(3)
    first, last = bars.nth(5).bounding_box(), bars.nth(7).bounding_box()
    height = last["y"] + last["height"] - 3
    page.mouse.move(first["x"] + 2, height)
    page.mouse.down()
    page.mouse.move(last["x"] + last["width"] - 2, height, steps=5)
    page.mouse.up()
    expect(chosen).to_have_count(3)
    assert every.count() == 0 and page.said == []
