"""The report: everything a trace or a study says, in one page, with nothing of it taken for markup."""

import html.parser
import json

import numpy as np
import pandas as pd
import pytest

from workbench import figures
from workbench.errors import TraceError
from workbench.figures import FIGURES, _html
from workbench.figures._answers import SPANS, answers, prompt_text
from workbench.figures._runs import labels


class Outline(html.parser.HTMLParser):
    """What a browser would see: elements, and the text outside scripts and styles."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self._silent = [], [], False
        self.feed(page)
        self.text = "".join(self.text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def table(synthetic):
    return pd.DataFrame(
        {"speed-up [times]": [1.23456, np.nan], "new tokens": [12345, 2], "note": ["", "<i>&"]},
        index=pd.Index(["baseline", synthetic.MARKUP], name="run"),
    )


@pytest.fixture(scope="module")
def page(study, table, tmp_path_factory):
    path = figures.report(
        study, tmp_path_factory.mktemp("report") / "deep" / "report.html", title="A & <b>", table=table
    )
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_all_figures_that_apply_are_in_it(outline, study):
    shown = {attrs["data-figure"].split(":")[0] for attrs in outline.all("figure")}
    assert shown == {name for name, figure in FIGURES.items() if figure.applies(study)}
    whole = [figure for figure in FIGURES.values() if figure.applies(study) and not figure.each_run]
    # A strip for each of eight runs, two figures of drafts for each of three that draft, the exits of the one that has.
    assert len(outline.all("figure")) == len(whole) + 8 + 3 + 3 + 1


def test_the_library_is_in_it_once(page):
    assert page.count("window.vegaEmbed") == 1 and len(page) < 6_000_000


def test_every_figure_and_table_has_a_name_for_those_who_cannot_see(outline):
    charts = [attrs for attrs in outline.all("div") if attrs.get("class") == "chart"]
    assert charts and all(attrs["role"] == "group" and len(attrs["aria-label"]) > 10 for attrs in charts)
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in outline.all("th"))


def test_markup_is_text(outline, synthetic):
    assert not outline.all("img") and len(outline.all("script")) == 3
    assert outline.text.count(synthetic.MARKUP) > 20
    assert "A & <b>" in outline.text and "<i>&" in outline.text
    assert not any(name.startswith("on") for _, attrs in outline.elements for name in attrs)


def test_the_table_formats_numbers_and_gaps(outline):
    for cell in ("1.235", "12,345", "baseline", "speed-up [times]"):
        assert cell in outline.text


def test_settings_versions_and_recipes_are_in_it(outline, study):
    for name, version in json.loads(study.attrs["versions"]).items():
        assert name in outline.text and version in outline.text
    for run in json.loads(study.attrs["runs"]):
        assert run["technique"] in outline.text
    assert "H100; RTX 4090" in outline.text


def test_prompts_and_answers_are_spelled_out(outline, study):
    assert outline.text.count("Say </script>") == study["text"].sizes["prompt"]
    assert "\\u202e" in outline.text and "\u202e" not in outline.text
    steps = [attrs for attrs in outline.all("span") if attrs.get("title", "").startswith("step ")]
    assert len(steps) > 1000 and any("draft" in attrs.get("class", "") for attrs in steps)
    assert all("class" not in attrs for attrs in steps if attrs["title"].startswith("step 0:"))


def test_every_answer_is_whole(study):
    text = Outline(answers(study)).text
    words = json.loads(study.attrs["vocabulary"])
    whole = "".join(words[str(token)] for token in study["text/id"].values[0, 0] if words[str(token)].isprintable())
    assert whole[:200] in text.replace("⏎\n", "").replace("⇥", "")


def test_a_failed_run_says_why_it_has_no_answer(synthetic):
    tree = synthetic.study(runs=2, prompts=2)
    named = json.loads(tree.attrs["runs"])
    named[1] |= {"failed": "out of <b>memory", "failed_prompts": [json.loads(tree.attrs["prompts"])[0]["id"]]}
    tree.attrs["runs"] = json.dumps(named)
    tree["text/id"][1] = -1
    text = Outline(answers(tree)).text
    assert "No answer: out of <b>memory" in text and "No answer: it was not reached." in text


def test_very_long_studies_stop_shading(synthetic):
    tree = synthetic.study(runs=2, prompts=2, tokens=64)
    longer = tree.copy()
    repeats = SPANS // 128 + 1
    longer["text"] = tree["text"].to_dataset().isel(token=np.tile(np.arange(64), repeats))
    text = answers(longer)
    assert text.count("<span") < SPANS + 100 and text.count("more characters") >= 1


def test_an_observation_has_its_probes_and_its_prompt(long, tmp_path):
    page = figures.report(long, tmp_path / "seen.html").read_text("utf-8")
    outline = Outline(page)
    assert len(outline.all("figure")) == sum(figure.applies(long) for figure in FIGURES.values()) >= 8
    assert "6,000 tokens" in outline.text and "more characters" in outline.text
    assert len(page) < 4_000_000


def test_figures_can_be_chosen_by_name_or_given(study, tmp_path):
    named = Outline(figures.report(study, tmp_path / "a.html", figures=["quality_speed"]).read_text("utf-8"))
    assert [attrs["data-figure"] for attrs in named.all("figure")] == ["quality_speed"]
    given = {"mine": figures.quality_speed(study, quality="kl")}
    mine = Outline(figures.report(study, tmp_path / "b.html", figures=given).read_text("utf-8"))
    assert [attrs["data-figure"] for attrs in mine.all("figure")] == ["mine"]


def test_without_figures_there_is_no_script(study, tmp_path):
    page = figures.report(study, tmp_path / "a.html", figures={}).read_text("utf-8")
    assert "<script" not in page and "script-src" not in page


def test_a_studys_own_table_is_used(study, table, tmp_path):
    class Study:
        tree = study

        def table(self, text=False):
            assert text
            return table

    assert "1.235" in figures.report(Study(), tmp_path / "a.html", figures={}).read_text("utf-8")


def test_what_is_no_trace_is_refused(tmp_path):
    with pytest.raises(TraceError):
        figures.report({"a": 1}, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_long_prompts_are_cut_and_it_is_said():
    assert "… 5 more characters" in prompt_text("a" * 20_005)
    assert prompt_text("a\n<b>") == "<pre>a⏎\n&lt;b&gt;</pre>"


def test_the_policy_covers_the_report(page):
    for script in (_html._library(), _html._DRAW):
        assert _html._hash(script) in page.split("</head>")[0]


def many_runs(synthetic):
    return synthetic.study(runs=11)


def test_figures_of_single_runs_say_whose_are_not_there(synthetic, tmp_path):
    tree = many_runs(synthetic)
    names = [run["name"] for run in json.loads(tree.attrs["runs"])]
    page = Outline(figures.report(tree, tmp_path / "r.html").read_text("utf-8"))
    assert "are drawn for 8 of 11 runs" in page.text and "own_figures=" in page.text
    said = page.text[page.text.index("drawn for 8 of 11") :]
    said = said[: said.index("To have those")]
    shown, left_out = said.split("and not for")
    labelled = labels(tree)
    assert all(name in shown for name in labelled[:8]) and all(name in left_out for name in labelled[8:])
    chosen = Outline(figures.report(tree, tmp_path / "c.html", own_figures=[names[10]]).read_text("utf-8"))
    drawn = [attrs["data-figure"] for attrs in chosen.all("figure") if ": " in attrs["data-figure"]]
    assert drawn and all(name.endswith(labelled[10]) for name in drawn) and "1 of 11 runs" in chosen.text
    every = Outline(figures.report(tree, tmp_path / "e.html", own_figures=range(11)).read_text("utf-8"))
    assert "The figures of a single run" not in every.text
    with pytest.raises(TraceError, match="no run 'nobody'"):
        figures.report(tree, tmp_path / "n.html", own_figures=["nobody"])


def test_a_study_of_eight_runs_says_nothing_of_it(outline):
    assert "The figures of a single run" not in outline.text


def test_what_every_run_has_alike_is_said_once(study, tmp_path):
    columns = ["equal to baseline [share]", "measured speed-up", "measured on [prompts]", "cache"]
    frame = pd.DataFrame([[1.0, "1.1", "6 of 6", "a <b>"], [0.5, "2.2", "6 of 6", "a <b>"]], ["x", "y"], columns)
    frame["other"] = [1, 2]
    text = figures.report(study, tmp_path / "r.html", table=frame.rename_axis("run"), figures=()).read_text("utf-8")
    assert "The same for every run: measured on [prompts]: 6 of 6; cache: a &lt;b&gt;." in text
    first = text[text.index("<table>") : text.index("</table>")]
    assert "measured on" not in first and "equal to" in first
    frame.loc["y", "cache"] = "another"
    text = figures.report(study, tmp_path / "r.html", table=frame.rename_axis("run"), figures=()).read_text("utf-8")
    first = text[text.index("<table>") : text.index("</table>")]
    assert ">cache<" in first and "measured on" not in first
