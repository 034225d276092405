"""What the matrix of techniques says is what their runs do, and the file that ships is of today."""

import itertools
import json
import random
import re

import pytest
from studies.made_up import Bent, Biased, Failing, Lying

from workbench import trace
from workbench.errors import SettingError, TraceError
from workbench.registry import TECHNIQUES
from workbench.settings import settings
from workbench.studies import compatibility as module
from workbench.studies.compatibility import CONDITIONS, STATUSES, Trial, compatibility, matrix
from workbench.studies.compatibility_file import entries, from_json, markdown, shipped, summary, techniques, to_json
from workbench.techniques import Technique


@settings
class Fussy(Technique):
    """Fits no model."""

    slots = ("attention",)
    exact = True
    excludes = ("snap_kv",)
    paper = "none"
    name = "fussy"

    def start(self, run):
        raise SettingError("it wants a model | of another kind")

    @classmethod
    def neutral(cls):
        return cls()


@settings
class Restless(Biased):
    """Says something else in every run."""

    name = "restless"

    def start(self, run):
        Restless.runs = getattr(Restless, "runs", 0) + 1
        return Biased(token=3 + Restless.runs, by=1e3)


@pytest.fixture
def made_up(monkeypatch):
    """A registry that also holds techniques which lie, fail and refuse."""
    import workbench.techniques  # noqa: F401

    for kind in (Bent, Biased, Failing, Fussy, Lying, Restless):
        monkeypatch.setitem(TECHNIQUES._classes, kind.name, kind)


@pytest.fixture(scope="module")
def trial(tiny):
    return Trial(tiny("llama"))


NAMES = ["prompt_lookup", "snap_kv", "draft_model"]


@pytest.fixture(scope="module")
def tree(tiny):
    return compatibility(tiny("llama"), NAMES)


def test_two_exact_ones_give_the_baselines_text(trial):
    assert trial.pair("goodput", "prompt_lookup") == ("exact together", "")
    assert trial.pair("prompt_lookup", "snap_kv") == ("runs", "")


def test_a_shared_slot_and_a_declared_clash_are_excluded_with_the_reason(trial, made_up):
    status, reason = trial.pair("draft_model", "prompt_lookup")
    assert status == "excluded" and "'draft'" in reason
    status, reason = trial.pair("fussy", "snap_kv")
    assert status == "excluded" and "fussy does not go together with snap_kv" in reason


def test_a_technique_that_does_not_fit_says_why_alone_and_with_another(trial, made_up):
    said = ("does not apply", "it wants a model | of another kind")
    assert trial.pair("fussy", "prompt_lookup") == said
    assert {trial.condition("fussy", condition) for condition in CONDITIONS} == {said}


def test_a_broken_promise_fails(trial, made_up):
    status, reason = trial.pair("lying", "prompt_lookup")
    assert status == "fails" and re.fullmatch("the text is not the baseline's from token [0-9]+ on", reason)
    assert trial.condition("lying", "alone")[0] == "fails"
    assert trial.condition("restless", "sampling")[0] == "fails"
    assert trial.condition("restless", "stop tokens")[0] == "fails"
    assert trial.condition("biased", "sampling") == ("runs", "")


def test_a_distribution_that_is_bent_fails_though_the_greedy_text_is_right(trial, made_up):
    assert trial.condition("bent", "alone") == ("exact together", "")
    for status, reason in (trial.condition("bent", "sampling"), trial.pair("bent", "goodput")):
        assert status == "fails" and "total variation of 0." in reason
    assert trial.condition("draft_model", "sampling") == ("exact together", "")


def test_an_error_is_a_status_and_not_the_end(trial, made_up, monkeypatch):
    example, broken = module.example, Failing(first=trial.prompt[0], kind="index")
    monkeypatch.setattr(module, "example", lambda name: broken if name == "failing" else example(name))
    assert trial.pair("failing", "prompt_lookup") == ("fails", "IndexError: list index out of range")
    monkeypatch.setattr(module, "example", lambda name: Failing(first=trial.prompt[0]))
    assert trial.condition("failing", "alone") == ("fails", "the test gave NaN")


def test_an_exact_one_must_not_change_what_another_says(trial, made_up, monkeypatch):
    assert trial.pair("biased", "prompt_lookup") == ("runs", "")
    monkeypatch.setitem(trial._alone, ("biased",), [5] * 23 + [6])
    status, reason = trial.pair("biased", "prompt_lookup")
    assert status == "fails" and "that of biased alone" in reason


def test_a_run_that_is_not_stopped_in_time_fails(trial, monkeypatch):
    assert trial.condition("prompt_lookup", "cancellation") == ("exact together", "")
    assert trial.condition("snap_kv", "cancellation") == ("runs", "")
    generate = module.generate

    def deaf(*arguments, cancel=None, **options):
        return generate(*arguments, **options)

    monkeypatch.setattr(module, "generate", deaf)
    assert trial.condition("snap_kv", "cancellation")[1].endswith("more steps ran after it was told to end")


def test_the_stop_token_ends_the_text(trial):
    assert trial.condition("prompt_lookup", "stop tokens") == ("exact together", "")
    assert trial.condition("snap_kv", "stop tokens") == ("runs", "")


def test_the_matrix_is_a_trace(tree):
    assert trace.check(tree).attrs["kind"] == "compatibility"
    status = tree["compatibility/status"].values
    assert (status == status.T).all() and (status.diagonal() == -1).all()
    assert list(STATUSES)[status[0, 2]] == "excluded" and list(STATUSES)[status[0, 1]] == "runs"
    assert tree["compatibility/condition_status"].shape == (3, len(CONDITIONS))
    assert [each["name"] for each in techniques(tree)] == NAMES
    assert list(json.loads(tree.attrs["reasons"])) == ["prompt_lookup + draft_model"]


def test_progress_is_told_to_the_end(tiny):
    told = []
    compatibility(tiny("llama"), ["snap_kv"], lambda *said: told.append(said))
    assert [done for done, *_ in told] == [0, 1, 2, 3, 4] and told[-1] == (4, 4, "done")


def test_json_and_back(tree):
    text = to_json(tree)
    assert from_json(text).identical(tree)
    assert sum(line.startswith('  {"one"') for line in text.splitlines()) == 3 + 12


@pytest.mark.parametrize("damage", [
    lambda text: "[]",
    lambda text: text[: len(text) // 2],
    lambda text: text.replace('"runs"', '"walks"'),
    lambda text: re.sub(r'  \{"one": "prompt_lookup", "other": "snap_kv".*\n', "", text),
    lambda text: re.sub(r'  \{"one": "snap_kv", "other": "sampling".*\n', "", text),
])  # fmt: skip
def test_a_damaged_file_is_refused(tree, damage):
    with pytest.raises(TraceError):
        from_json(damage(to_json(tree)))


def test_the_table_has_a_sign_for_every_pair_and_reasons_where_no_slot_says_it(tree, made_up, tiny):
    rows = [line.split(" | ") for line in markdown(tree).splitlines() if re.match(r"\| \d", line)]
    assert [row[0] for row in rows] == ["| 1 `prompt_lookup`", "| 2 `snap_kv`", "| 3 `draft_model`"]
    assert [cell.strip("| ") for cell in rows[0][5:]] == ["", "+", "×"]
    assert "both claim" not in markdown(tree), "that two for one slot clash needs no line of its own"
    fussy = markdown(compatibility(tiny("llama"), ["fussy", "snap_kv", "prompt_lookup"]))
    assert "| `fussy` | snap_kv | excluded | fussy does not go together with snap_kv |" in fussy
    assert "it wants a model / of another kind" in fussy
    assert summary(tree) == "3 pairs of 3 techniques on tiny-llama: 2 runs, 1 excluded."


def test_a_matrix_with_a_hole_is_refused():
    about = {"model": "m", "revision": "", "dtype": "float32", "device": "cpu", "versions": {}}
    listed = [{"name": name, "slots": ["draft"], "exact": True, "example": name} for name in "ab"]
    under = {(name, condition): ("runs", "") for name in "ab" for condition in CONDITIONS}
    assert matrix(about, listed, under, {("b", "a"): ("runs", "")})
    with pytest.raises(TraceError, match="not whole"):
        matrix(about, listed, under, {})


# The file that ships

REMAKE = "run: workbench compatibility --out data/workbench_data/compatibility.json, then tests/test_architecture.py"


def test_the_file_is_of_the_techniques_that_are_registered():
    import workbench.techniques  # noqa: F401

    listed = {each["name"]: each for each in techniques(shipped())}
    assert list(listed) == [name for name in TECHNIQUES if public(name)], REMAKE
    for name, kind in TECHNIQUES.items():
        if name in listed:
            assert (listed[name]["slots"], listed[name]["exact"]) == (list(kind.slots), kind.exact), REMAKE


def test_nothing_in_the_file_fails():
    failed = [row for rows in entries(shipped()).values() for row in rows if row["status"] == "fails"]
    assert not failed, failed


def test_the_file_says_what_running_again_says(trial):
    stored = entries(shipped())
    chosen = random.Random(3)
    for status, among in itertools.groupby(sorted(stored["pairs"], key=by_status), key=by_status):
        among = list(among)
        for row in chosen.sample(among, min(6, len(among))):
            assert trial.pair(row["one"], row["other"]) == (status, row["reason"]), (row, REMAKE)
    for row in chosen.sample(stored["conditions"], 8):
        assert trial.condition(row["one"], row["other"]) == (row["status"], row["reason"]), (row, REMAKE)


def public(name):
    return TECHNIQUES[name].__module__.startswith("workbench.")


def by_status(row):
    return row["status"]
