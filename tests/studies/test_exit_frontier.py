"""What is saved and lost, against runs counted by hand; which setting is best; its figure."""

import json
import threading

import numpy as np
import pytest
from helpers import random_tokens

import workbench as wb
from workbench import figures, trace
from workbench.errors import SettingError
from workbench.metrics import mean_interval, rouge_l, rouge_l_tokens
from workbench.tasks import Prompt
from workbench.techniques import ConfidenceExit

PROMPTS = [random_tokens(10, seed) for seed in range(6)]
SMALL = {"lens": "untrained", "first": 0.2, "every": 1, "vocabulary": 0}
GIVEN = {
    "early": ConfidenceExit(threshold=0.0, **SMALL),
    "careful": [ConfidenceExit(threshold=0.12, **SMALL)],
    "never": ConfidenceExit(threshold=1.0, **SMALL),
}
NEW = 12


@pytest.fixture(scope="module")
def found(tiny):
    return trace.check(wb.exit_frontier(tiny("llama"), GIVEN, PROMPTS, NEW, by="tokens"))


def answers(model, techniques):
    for prompt in PROMPTS:
        yield list(wb.generate(model, prompt, techniques, max_new_tokens=NEW))


def said(model, steps):
    tokens = [token for step in steps for token in step.tokens]
    return tokens[:-1] if tokens[-1] in model.stop_tokens else tokens


def test_what_is_saved_and_lost_is_what_the_steps_count(tiny, found):
    model, data = tiny("llama"), found["exit_frontier"].to_dataset()
    whole = list(answers(model, []))
    for place, techniques in enumerate([[], [GIVEN["early"]], GIVEN["careful"], [GIVEN["never"]]]):
        runs = list(answers(model, techniques))
        tokens = np.array([len(steps) - 1 for steps in runs])
        ran = np.array([sum(len(step.layers) for step in steps[1:]) for steps in runs])
        left = np.array([rouge_l_tokens(said(model, one), said(model, full)) for one, full in zip(runs, whole)])
        assert float(data.layers_saved[place]) == pytest.approx(1 - ran.sum() / (4 * tokens.sum()))
        np.testing.assert_allclose(data.scores[place], left)
        wanted = mean_interval(left, None, 0, 1)
        np.testing.assert_allclose([float(data["rouge_l" + end][place]) for end in ("", "_low", "_high")], wanted)
        each = [sum(step.flops for step in steps[1:]) / (len(steps) - 1) for steps in whole]
        due = sum(per * count for per, count in zip(each, tokens))
        took = sum(step.flops for steps in runs for step in steps[1:])
        assert float(data.flops_saved[place]) == pytest.approx(1 - took / due, abs=1e-9)
        assert float(data.written[place]) == pytest.approx(tokens.sum() / sum(len(steps) - 1 for steps in whole))
    assert data.layers_saved[1] > data.layers_saved[2] > 0 == data.layers_saved[3]
    assert data.attrs["references"] == 0 and np.isnan(data.rouge_l_reference).all()


def test_the_best_saves_most_of_what_stays_within(tiny, found):
    data = found["exit_frontier"]
    fits = [place for place in range(4) if data.rouge_l[place] >= 0.98]
    assert data.attrs["best"] == max(fits, key=lambda place: float(data.layers_saved[place]))
    loose = wb.exit_frontier(tiny("llama"), GIVEN, PROMPTS, NEW, by="tokens", within=1.0)["exit_frontier"]
    assert json.loads(loose.attrs["settings"])[loose.attrs["best"]] == "early"
    assert data.attrs["best_reference"] == 0, "without references none but the full model is near them"


@pytest.mark.bundled
def test_references_are_compared_with_as_far_as_answers_reach(bundled):
    text = "def double(x):\n    return x * 2\n"
    prompts = [Prompt("one", "def add(a, b):\n", text * 9, "code_completion", chat=False), "Once upon a time"]
    found = wb.exit_frontier(bundled, [ConfidenceExit.neutral()], prompts, 6)["exit_frontier"]
    steps = list(wb.generate(bundled, prompts[0].prompt, max_new_tokens=6))
    wanted = rouge_l(bundled.decode(said(bundled, steps)), bundled.decode(bundled.encode(text)[:6]))
    assert found.attrs["references"] == 1 and found.attrs["prompts"] == 2
    assert float(found.rouge_l_reference[0]) == float(found.rouge_l_reference[1]) == pytest.approx(wanted)
    assert json.loads(found.attrs["settings"])[1].startswith("confidence_exit")


def test_its_figure_has_a_point_for_every_setting(found):
    data = found["exit_frontier"].to_dataset()
    spec = figures.exit_frontier(found).to_dict()
    points = next(table for table in spec["datasets"].values() if "setting" in table[0])
    assert [row["setting"] for row in points] == ["full depth", "early", "careful", "never"]
    for place, row in enumerate(points):
        assert row["layers_saved"] == pytest.approx(float(data.layers_saved[place]), rel=1e-4)
        assert row["left"] == pytest.approx(float(data.rouge_l[place]), rel=1e-4)


def test_what_cannot_be_compared_is_refused_and_it_can_be_cancelled(tiny):
    model = tiny("llama")
    for settings, new in (({}, 8), (GIVEN, 1)):
        with pytest.raises(SettingError, match="at least one setting of an exit, and two tokens"):
            wb.exit_frontier(model, settings, PROMPTS, new)
    with pytest.raises(SettingError, match="'words' or 'tokens'"):
        wb.exit_frontier(model, GIVEN, PROMPTS, by="letters")
    cancel = threading.Event()
    cancel.set()
    assert wb.exit_frontier(model, GIVEN, PROMPTS, cancel=cancel) is None
