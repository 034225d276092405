"""A study as a table, JSON, a report and files."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from studies.made_up import MACHINE, PROMPTS

from workbench import Study
from workbench.errors import TraceError
from workbench.metrics import Interval, median_interval
from workbench.studies.plain import KEYS
from workbench.studies.run import run

ISSUE_KEYS = [
    "name",
    "technique",
    "exact_declared",
    "question",
    "equal_to_baseline",
    "first_divergence",
    "prompts",
    "new_tokens",
    "stopped_early",
    "forwards",
    "mean_accepted_tokens",
    "accepted_per_forward",
    "layers_per_token",
    "keys_kept",
    "cache_bytes_peak",
    "flops",
    "bytes",
    "tokens_per_second",
    "speedup",
    "time_to_first_token",
    "prompts_needed",
    "kl",
    "top1_agreement",
    "rouge_l",
]


def test_the_json_has_exactly_its_keys(small_study):
    content = json.loads(small_study.to_json())
    assert list(KEYS) == ISSUE_KEYS
    assert [run["name"] for run in content["runs"]] == ["baseline", "lookup", "<b>bias</b>"]
    for each in content["runs"]:
        assert list(each) == ISSUE_KEYS
        for timing in ("tokens_per_second", "speedup", "time_to_first_token"):
            assert list(each[timing]) == ["median", "low", "high", "level", "n", "of"]
            assert each[timing]["median"] > 0 and each[timing]["n"] == each[timing]["of"] == 2
            assert each[timing]["low"] is each[timing]["high"] is each[timing]["level"] is None


def test_the_baseline_s_row(small_study):
    row = small_study.to_dict()["runs"][0]
    assert row["technique"] == "baseline" and row["exact_declared"] is True and row["equal_to_baseline"] is True
    assert row["first_divergence"] is None and row["new_tokens"] == 20 and row["forwards"] == 20
    assert row["mean_accepted_tokens"] == 1 and row["accepted_per_forward"] is None and row["layers_per_token"] == 4
    assert row["speedup"] == {"median": 1.0, "low": None, "high": None, "level": None, "n": 2, "of": 2}
    assert row["prompts"] == 2 and row["stopped_early"] == 0
    assert row["kl"] == 0 and row["top1_agreement"] == 1 and row["rouge_l"] == 1


def test_rows_sum_and_average_over_prompts(small_study):
    scores = small_study.tree["scores"]
    for place, row in enumerate(small_study.summary):
        own = scores.isel(run=place)
        assert row["flops"] == own["flops"].values.sum()
        steps = small_study.tree["steps"].to_dataset().isel(run=place, step=slice(1, None))
        ran, verified = steps["tokens"].values >= 0, steps["drafted"].values > 0
        assert row["mean_accepted_tokens"] == steps["tokens"].values[ran].sum() / ran.sum()
        if verified.any():
            kept = steps["accepted"].values[verified].sum() / steps["forwards"].values[verified].sum()
            assert row["accepted_per_forward"] == kept
        layers = (own["layers_per_token"] * own["new_tokens"]).values.sum() / own["new_tokens"].values.sum()
        assert row["layers_per_token"] == pytest.approx(layers)
        assert row["cache_bytes_peak"] == own["cache_bytes_peak"].values.max()
        assert row["kl"] == pytest.approx(own["kl"].values.mean())
        assert row["tokens_per_second"] == median_interval(small_study.tree["timing/tokens_per_second"].values[place])
    biased = small_study.summary[2]
    assert biased["first_divergence"] == scores["first_divergence"].values[2].min() >= 0
    assert small_study.summary[1]["mean_accepted_tokens"] > 1 and np.isnan(small_study.summary[1]["first_divergence"])
    assert biased["equal_to_baseline"] == 0.0


def test_the_table_has_units_and_tells_measured_from_modelled(small_study):
    table, text = small_study.table(), small_study.table(text=True)
    assert list(table.index) == ["baseline", "lookup", "<b>bias</b>"]
    for frame in (table, text):
        for name in frame.columns:
            if "tokens/s" in name or "speed-up" in name or "time" in name:
                assert name.startswith(("measured", "modelled")), name
    assert "modelled speed-up, made up" in table.columns
    row = table.loc["lookup"]
    assert row["measured speed-up"] > 0 and np.isnan(row["measured speed-up, low"])
    assert "[" not in text.loc["lookup", "measured speed-up"]
    assert text.loc["lookup", "measured on [prompts]"] == "2 of 2"
    steps = small_study.tree["steps"].isel(run=1, step=slice(1, None))
    decoded = steps["flops"].sum() / steps["tokens"].clip(min=0).sum()
    assert row["counted GFLOP/decoded token"] * 1e9 == pytest.approx(float(decoded))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def test_markup_in_names_is_escaped_in_a_notebook(small_study):
    shown = small_study._repr_html_()
    assert "&lt;b&gt;bias&lt;/b&gt;" in shown
    table = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert set(Tags(shown).found) <= {"div", "style", "p", "strong", "ul", "li", "details", "summary", "wbr", *table}
    assert repr(small_study) == "<Study of 3 runs on 2 prompts: tiny-llama, float32, cpu>"


@pytest.mark.parametrize("name", ["s.zarr", "s.nc"])
def test_it_survives_the_disk(small_study, tmp_path, name):
    small_study.save(tmp_path / name)
    back = Study.open(tmp_path / name)
    assert back.tree.identical(small_study.tree)
    assert back.to_json() == small_study.to_json()
    assert back.table(text=True).equals(small_study.table(text=True))


def test_json_is_written_and_holds_no_nan(compared, tmp_path):
    study = compared({}, prompts=PROMPTS[:1], repeats=1, quality=False)
    text = study.to_json(tmp_path / "new" / "s.json")
    assert json.loads((tmp_path / "new" / "s.json").read_text()) == json.loads(text)
    assert "NaN" not in text and json.loads(text)["runs"][0]["kl"] is None
    speed = json.loads(text)["runs"][0]["tokens_per_second"]
    assert speed["median"] > 0 and speed["low"] is speed["high"] is None and (speed["n"], speed["of"]) == (1, 1)


def test_the_report_is_one_file(small_study, tmp_path):
    path = small_study.save_html(tmp_path / "r.html", title="</title><script>alert(1)</script>")
    text = path.read_text("utf-8")
    assert "measured speed-up" in text and "made up" in text
    assert "<script>alert(1)" not in text and "<b>bias" not in text


def test_the_front(small_study):
    for quality, sign in (("kl", -1), ("top1_agreement", 1)):
        front = small_study.pareto(quality)
        rows = {row["name"]: (sign * row[quality], row["speedup"].median) for row in small_study.summary}
        for name, here in rows.items():
            beaten = any(other[0] >= here[0] and other[1] >= here[1] and other != here for other in rows.values())
            assert (name in front) == (not beaten)


def test_a_trace_of_another_kind_is_no_study(tiny):
    with pytest.raises(TraceError, match="generate"):
        Study(run(tiny("llama"), [3, 4], max_new_tokens=2).trace)


def test_text_travels_as_json_and_arrays_hold_numbers(small_study):
    assert [prompt["tokens"] for prompt in small_study.prompts] == [len(prompt) for prompt in PROMPTS]
    for node in small_study.tree.subtree:
        assert all(array.dtype.kind in "iuf" for array in node.data_vars.values())
    details = json.loads(small_study.tree.attrs["hardware_details"])
    assert details == [{"name": "made up", "flops": 1e9, "bandwidth": MACHINE.bandwidth, "source": "for tests"}]


def test_an_unknown_interval_is_an_empty_cell(compared):
    import threading

    cancel = threading.Event()
    cancel.set()
    study = compared({}, cancel=cancel)
    assert study.table(text=True)["measured speed-up"].tolist() == [""]
    assert isinstance(study.summary[0]["speedup"], Interval) and np.isnan(study.summary[0]["first_divergence"])


def shown(study, tmp_path):
    """Everything that shows a study; a warning is an error in every test."""
    study.save_html(tmp_path / "r.html")
    for text in (True, False):
        study.table(text)
    return "\n".join(study.lines()), study.to_json(), study._repr_html_(), study.pareto()


@pytest.mark.parametrize(
    "groups", [("timing", "modelled", "scores"), ("steps", "layers"), ("timing", "steps", "scores")]
)
def test_a_study_without_any_number_is_shown_in_silence(small_study, groups, tmp_path):
    tree = small_study.tree.copy(deep=True)
    for group in groups:
        for array in tree[group].data_vars.values():
            array.values[...] = np.nan if array.dtype.kind == "f" else -1
    shown(Study(tree), tmp_path)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf])
def test_what_no_clock_gives_counts_as_not_measured(small_study, value, tmp_path):
    tree = small_study.tree.copy(deep=True)
    for name in ("speedup", "tokens_per_second", "time_to_first_token"):
        tree["timing"][name].values[1] = value
    study = Study(tree)
    assert study.summary[1]["speedup"].n == 0
    assert not re.search(r"\b(inf|Infinity)\b", "".join(map(str, shown(study, tmp_path)[:3])))
