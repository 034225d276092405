"""What the matrix of techniques says is what their runs do, and the file that ships is of today."""

import json
import re

import pytest
from studies.made_up import Bent, Biased, Failing, Lying

from workbench import trace
from workbench.errors import SettingError, TraceError
from workbench.registry import TECHNIQUES
from workbench.settings import settings
from workbench.studies import compatibility_trial as module
from workbench.studies.compatibility import CONDITIONS, STATUSES, compatibility, matrix
from workbench.studies.compatibility_file import entries, from_json, markdown, summary, techniques, to_json
from workbench.studies.compatibility_trial import Trial
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


def test_the_table_has_a_row_for_every_technique_and_reasons_where_no_slot_says_it(tree, made_up, tiny):
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")][2:-1] for line in table_of(markdown(tree))}
    assert rows == {
        # alone, sampling, stop tokens, cancellation, then the slots evict and draft
        "prompt_lookup": ["=", "=", "=", "=", "+", ""],
        "snap_kv": ["+", "+", "+", "+", "", "+"],
        "draft_model": ["=", "=", "=", "=", "+", ""],
    }
    assert "both claim" not in markdown(tree), "that two for one slot clash needs no line of its own"
    fussy = markdown(compatibility(tiny("llama"), ["fussy", "snap_kv", "prompt_lookup", "draft_model"]))
    assert "| excluded | fussy does not go together with snap_kv | `fussy` with snap_kv |" in fussy
    where = ", ".join(f"`fussy` with {what}" for what in (*CONDITIONS, "prompt_lookup", "draft_model"))
    assert f"| does not apply | it wants a model / of another kind | {where} |" in fussy
    assert summary(tree) == "3 pairs of 3 techniques on tiny-llama: 2 runs, 1 excluded."


def test_the_table_counts_where_statuses_differ_and_stays_short(tree):
    about = {"model": "m", "revision": "", "dtype": "float32", "device": "cpu", "versions": {}}
    listed = [{"name": f"d{number}", "slots": ["draft"], "exact": True, "example": ""} for number in range(99)]
    listed += [{"name": "e", "slots": ["evict"], "exact": False, "example": ""}]
    verdicts = {(each["name"], condition): ("runs", "") for each in listed for condition in CONDITIONS}
    verdicts |= {(f"d{number}", "e"): ("runs", "") if number % 3 else ("fails", "it broke") for number in range(99)}
    text = markdown(matrix(about, listed, verdicts))
    (row,) = [line for line in table_of(text) if "`e`" in line]
    assert row.endswith("|  | + 66, ! 33 |")
    assert text.count("it broke") == 1 and "and 27 more" in text and len(text) < 10_000


def table_of(text):
    return [line for line in text.splitlines() if re.match(r"\| `\w+` \|", line) and line.count("|") > 5]


def test_a_matrix_with_a_hole_is_refused():
    about = {"model": "m", "revision": "", "dtype": "float32", "device": "cpu", "versions": {}}
    listed = [{"name": name, "slots": [slot], "exact": True, "example": name} for name, slot in ("a1", "b1", "c2")]
    listed = [{**each, "slots": ["draft" if each["slots"] == ["1"] else "evict"]} for each in listed]
    verdicts = {(name, condition): ("runs", "") for name in "abc" for condition in CONDITIONS}
    whole = verdicts | {("c", "a"): ("runs", ""), ("b", "c"): ("runs", "")}
    status = matrix(about, listed, whole)["compatibility/status"].values
    assert list(STATUSES)[status[0, 1]] == "excluded", "two for one slot need not be run"
    for missing in (("c", "a"), ("b", "c"), ("a", "alone")):
        with pytest.raises(TraceError, match="not whole"):
            matrix(about, listed, {key: verdict for key, verdict in whole.items() if key != missing})


def test_what_is_known_is_not_run_again(tiny, monkeypatch):
    names = ["prompt_lookup", "snap_kv"]
    known = {("prompt_lookup", "snap_kv"): ("fails", "so it was"), ("snap_kv", "alone"): ("fails", "so too")}
    ran = []
    monkeypatch.setattr(Trial, "pair", lambda self, *key: ran.append(key) or ("runs", ""))
    monkeypatch.setattr(Trial, "condition", lambda self, *key: ran.append(key) or ("runs", ""))
    rows = entries(compatibility(tiny("llama"), names, known=known))
    assert rows["pairs"][0]["reason"] == "so it was" and len(ran) == 7
    assert not {("prompt_lookup", "snap_kv"), ("snap_kv", "alone")} & set(ran)
