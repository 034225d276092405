"""Offline pages: what is in their source."""

import base64
import hashlib
import html
import json
import re

import altair as alt
import pytest

from workbench import figures
from workbench.figures import _html, _notebook


def scripts(page):
    return re.findall(r"<script>(.*?)</script>", page, flags=re.S)


def own(page):
    """A page without Vega's own code, which has HTML in its strings."""
    assert _html._library() in page
    return page.replace(_html._library(), "")


def charts(page):
    found = re.search(r'<script type="application/json" id="workbench-charts">(.*?)</script>', page, flags=re.S)
    return json.loads(found[1])


@pytest.fixture
def saved(seen, tmp_path):
    return figures.save_html(figures.logit_lens(seen), tmp_path / "deep" / "lens.html").read_text("utf-8")


def test_the_library_is_in_the_page_once_and_nothing_is_fetched(saved):
    assert len(saved) > 500_000
    assert saved.count("window.vegaEmbed") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=", own(saved))


def test_the_policy_names_exactly_the_scripts_of_the_page(saved):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', saved)[1]
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts(saved)
    }
    assert len(hashes) == 2 and hashes == set(re.findall(r"'sha256-[^']*'", policy))
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "unsafe-inline" not in re.search(r"script-src[^;]*", policy)[0]


def test_markup_of_tokens_stays_inside_the_json(saved, synthetic):
    assert "<img" in synthetic.MARKUP and "<img" not in own(saved)
    assert own(saved).count("</script>") == 3
    assert "</script><img␣src=x" in json.dumps(charts(saved), ensure_ascii=False)  # it is there, as data


def test_line_separators_and_lone_surrogates_are_escaped():
    text = _html.embed({"a": "\u2028\u2029\ud800</script><!--"})
    assert text.isascii() and "<" not in text
    assert json.loads(text) == {"a": "\u2028\u2029\ud800</script><!--"}


def test_a_title_is_escaped(seen, tmp_path):
    page = figures.save_html(figures.attention_map(seen), tmp_path / "a.html", title="<b>&</title>").read_text("utf-8")
    assert "<title>&lt;b&gt;&amp;&lt;/title&gt;</title>" in page


def test_the_page_holds_both_inks_and_drops_the_grey_one(saved):
    data = charts(saved)
    assert set(data["configurations"]) == {"light", "dark"} and data["scheme"] == "auto"
    assert all("config" not in chart for chart in data["charts"].values())
    assert "prefers-color-scheme: dark" in saved


def test_a_readers_own_configuration_is_kept(seen):
    chart = figures.attention_map(seen).configure_axis(labelFontSize=20)
    assert _html.specification(chart)["config"]["axis"]["labelFontSize"] == 20
    assert "config" not in _html.specification(figures.attention_map(seen))


def test_several_charts_have_several_places(seen, tmp_path):
    two = {"A <b>": figures.attention_map(seen), "B": figures.attention_distance(seen)}
    page = figures.save_html(two, tmp_path / "two.html").read_text("utf-8")
    assert page.count('<div class="chart"') == 2 and "<h2>A &lt;b&gt;</h2>" in page
    listed = figures.save_html(list(two.values()), tmp_path / "list.html").read_text("utf-8")
    assert listed.count('<div class="chart"') == 2 and "<h2>" not in own(listed)


def test_a_fragment_is_one_sandboxed_frame_with_its_height(seen):
    frame = figures.fragment(figures.logit_lens(seen))
    assert frame.startswith("<iframe ") and frame.count("<") == 2  # all of the inner page is an attribute
    assert 'sandbox="allow-scripts allow-downloads"' in frame and "allow-same-origin" not in frame
    assert 300 < int(re.search(r'height="(\d+)"', frame)[1]) < 900
    inner = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    assert inner.startswith("<!DOCTYPE html>") and charts(inner)["charts"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_scheme_can_be_fixed(seen, scheme):
    frame = figures.fragment(figures.attention_distance(seen), scheme=scheme, height=300)
    assert f"color-scheme: {scheme};" in frame and "prefers-color-scheme: dark) {" not in frame
    assert 'height="300"' in frame


def test_an_unknown_scheme_is_refused(seen):
    with pytest.raises(ValueError, match="not one of auto, light, dark"):
        figures.fragment(figures.attention_distance(seen), scheme="sepia", height=300)


def test_a_control_adds_to_the_height(seen):
    spec = figures.expert_coactivation(seen).to_dict()
    without = {key: value for key, value in spec.items() if key != "params"}
    without["params"] = [{**spec["params"][0], "bind": {}}]
    del without["params"][0]["bind"]
    assert _html.measure(spec) == _html.measure(without) + 30


def test_a_chart_in_a_notebook_is_an_offline_frame(seen, synthetic):
    active = alt.renderers.active
    figures.attention_map(seen)
    assert alt.renderers.active != "default", "the first figure replaces the renderer that fetches scripts"
    alt.renderers.enable("workbench")
    try:
        bundle = figures.logit_lens(seen)._repr_mimebundle_()
        bundle = bundle[0] if isinstance(bundle, tuple) else bundle
        assert bundle["text/html"].startswith("<iframe ") and synthetic.MARKUP not in bundle["text/html"]
        assert "cdn" not in bundle["text/html"].split("srcdoc")[0]
    finally:
        alt.renderers.enable(active)


def test_a_renderer_chosen_on_purpose_stays(seen, monkeypatch):
    before = alt.renderers.active
    monkeypatch.setattr(_notebook, "_used", False)
    try:
        with alt.renderers.enable("mimetype"):
            figures.attention_distance(seen)
            assert alt.renderers.active == "mimetype"
    finally:
        alt.renderers.enable(before)


def test_show_gives_what_a_notebook_displays(seen):
    assert figures.show(figures.attention_distance(seen))._repr_html_().startswith("<iframe ")
