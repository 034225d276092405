"""Recipes side by side, without a page: order, equality, cancelling, and what the page writes of it."""

import dataclasses
import threading
from contextlib import closing

import pytest
from helpers import tokens_of
from tokenizers_of_kinds import KINDS

import workbench as wb
from workbench.errors import PromptError, SettingError, WorkbenchError
from workbench.models.tiny import tiny as tiny_of
from workbench.techniques import PromptLookup, StreamingLLM, UnifiedLayerSkip
from workbench_app import charts, loaded, study_panel, tokens_view
from workbench_app.plain import caught, message
from workbench_app.race import Column, Race, first_difference
from workbench_app.worker import studies

OPTIONS = {"max_new_tokens": 8, "temperature": 0.0, "seed": 0, "stop_tokens": ()}


@pytest.fixture
def race(tiny):
    def make(*recipes, **options):
        columns = [Column([]), *(Column(list(recipe)) for recipe in recipes)]
        return Race(tiny("llama"), [1, 5, 7, 5, 7, 5], columns, {**OPTIONS, **options}, threading.Event())

    return make


def test_exact_and_approximate_recipes_are_held_against_the_baseline(race):
    made = race([PromptLookup()], [UnifiedLayerSkip(speedup=2.0)])
    assert {id(column) for column in made.turns()} == {id(column) for column in made.columns}
    baseline, exact, skipped = made.columns
    assert [len(column.tokens) for column in made.columns] == [8, 8, 8]
    assert exact.tokens == baseline.tokens and tokens_view.equality(exact, made) == ("good", "equal to baseline")
    assert skipped.tokens != baseline.tokens
    place = first_difference(skipped.tokens, baseline.tokens, True)
    assert tokens_view.equality(skipped, made) == ("warning", f"diverges at token {place}, counted from 0")


def test_a_broken_promise_is_said_as_what_it_is(race):
    made = race([PromptLookup()])
    list(made.turns())
    made.columns[1].tokens[3] += 1
    assert tokens_view.equality(made.columns[1], made) == (
        "bad",
        "diverges at token 3, counted from 0, although declared exact",
    )
    made.options["temperature"] = 0.7
    assert "only the distribution is promised" in tokens_view.equality(made.columns[1], made)[1]


def test_a_stop_ends_every_column_within_one_step_and_keeps_what_was_made(race):
    made = race([StreamingLLM()], max_new_tokens=50)
    for column in made.turns():
        if len(column.tokens) == 3:
            made.stop.set()
            before = [len(each.tokens) for each in made.columns]
            break
    with closing(made.turns()) as turns:
        list(turns)
    made = race([StreamingLLM()], max_new_tokens=50)
    turns = made.turns()
    for _ in range(7):
        next(turns)
    made.stop.set()
    before = [len(each.tokens) for each in made.columns]
    list(turns)
    assert [len(each.tokens) for each in made.columns] == before
    assert {column.state for column in made.columns} == {"partial"}
    assert "partial: cancelled after" in tokens_view.badges(made.columns[1], made)


def test_one_failing_column_leaves_the_other(race):
    class Broken(StreamingLLM):
        def start(self, run):
            raise WorkbenchError("<b>this setting does not fit</b>")

    made = race([Broken()])
    list(made.turns())
    assert [column.state for column in made.columns] == ["done", "failed"]
    page = tokens_view.column_html(made.columns[1], made, "Right")
    assert "failed: &lt;b&gt;this setting does not fit" in page and "<b>this" not in page


def test_columns_run_one_after_the_other_where_one_changes_the_weights(race):
    class Heavy(StreamingLLM):
        slots = ("evict", "weights")

        def start(self, run):
            import contextlib

            policy = super().start(run)
            type(policy).weights = lambda self, model: contextlib.nullcontext()
            return policy

    made = race([Heavy()])
    order = [made.columns.index(column) for column in made.turns()]
    assert order == sorted(order)


def test_the_speed_shown_is_that_of_decoding_beside_the_time_to_the_first_token(race):
    made = race([PromptLookup()])
    list(made.turns())
    for column, seconds in zip(made.columns, (0.5, 0.25)):
        column.steps = [dataclasses.replace(step, seconds=seconds if step.index else 8.0) for step in column.steps]
    baseline, lookup = made.columns
    page = tokens_view.numbers(lookup, baseline)
    steps = len(lookup.steps) - 1
    for name, value in (
        ("decoding, measured", f"{7 / (0.25 * steps):.1f} tokens/s"),
        ("against baseline", f"{7 / (0.25 * steps) / 2:.2f}x"),
        ("time to first token", "8000 ms"),
        ("mean accepted tokens", f"{7 / steps:.2f}"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    lookup.steps = lookup.steps[:1]
    page = tokens_view.numbers(lookup, baseline)
    assert page.count("<dd>-</dd>") == 3 and "8000 ms" in page, "one token has no decoding speed"
    assert tokens_view.numbers(Column([]), Column([]))


def test_every_token_is_a_span_with_its_costs(race):
    made = race([PromptLookup()])
    list(made.turns())
    page = tokens_view.column_html(made.columns[1], made, "Right")
    assert page.count('<span class="token"') == 8
    assert page.count('data-draft="1"') == sum(step.accepted for step in made.columns[1].steps)
    assert "&lt;" in page  # a model without a tokenizer writes its ids in angle brackets


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_the_text_at_every_step(race, kind):
    made = race([PromptLookup()], max_new_tokens=40)
    tokenizer = KINDS[kind]()
    model = made.model = dataclasses.replace(tiny_of("llama", vocabulary=len(tokenizer)), tokenizer=tokenizer)
    tokens = tokens_of(wb.generate(model, made.prompt, (), 40, stop_tokens=()))
    due = model.pieces(tokens)
    for column in made.turns():
        assert len(column.pieces) == len(column.tokens)
        # What is incomplete comes with the last piece, but only once there is no more.
        assert column.pieces[:-1] == due[: len(column.pieces)][:-1]
    assert made.columns[0].pieces == made.columns[1].pieces == due
    assert "".join(due) == model.decode(tokens) or "fallback" in kind


def test_differences():
    assert first_difference([1, 2, 3], [1, 2, 3], True) is None
    assert first_difference([1, 2], [1, 3], False) == 1
    assert first_difference([1, 2], [1, 2, 3], False) is None
    assert first_difference([1, 2], [1, 2, 3], True) == 2


def test_a_prompt_is_checked_before_a_model_sees_it(tiny):
    with pytest.raises(PromptError, match="empty"):
        loaded.as_prompt(" \n", True)
    with pytest.raises(PromptError, match="200,001 characters"):
        loaded.as_prompt("a" * 200_001, True)
    example = next(iter(loaded.examples().values()))
    assert loaded.as_prompt(example.prompt, example.chat) is example


@pytest.mark.parametrize("name", ["", "a" * 400, "a\nb"])
def test_a_strange_model_name_is_refused(name):
    with pytest.raises(SettingError):
        loaded.Models().get(name, "float32")


def test_only_the_last_models_are_kept():
    models = loaded.Models()
    for number in range(4):
        models.put(f"m{number}", "float32", object())
    assert [models.holds(f"m{number}", "float32") for number in range(4)] == [False, False, True, True]


def test_an_unexpected_error_keeps_its_secret(caplog):
    problems = []
    with caught(problems):
        raise RuntimeError("secret")
    assert "secret" not in problems[0] and "secret" in caplog.text
    assert message(WorkbenchError("plain")) == "plain"
    assert "memory" in message(MemoryError())


def test_a_study_is_written_shown_and_its_old_reports_go(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "KEPT_REPORTS", 2)
    name = "<img src=x>"
    study = wb.compare(tiny("llama"), [[1, 5, 7]], {name: [PromptLookup()]}, max_new_tokens=3, repeats=1, hardware=())
    assert "Finished. 2 runs on 1 prompt." in studies.outcome(study)
    page = charts.table(study.table(text=True)) + charts.figures(study.tree, [run["name"] for run in study.runs])
    assert "<img src=x>" not in page and "&lt;img src=x&gt;" in page and "<iframe" in page
    paths = [studies.write(study, tmp_path) for _ in range(3)]
    assert [path.exists() for path in paths] == [False, True, True]


def test_a_study_that_was_cancelled_at_once_is_still_shown(tiny):
    stop = threading.Event()
    stop.set()
    study = wb.compare(
        tiny("llama"), [[1, 5, 7]], {"lookup": [PromptLookup()]}, max_new_tokens=3, cancel=stop, hardware=()
    )
    assert "Partial" in studies.outcome(study)
    assert "<table" in charts.table(study.table(text=True))
    assert "Something went wrong" not in charts.figures(study.tree, [run["name"] for run in study.runs])


def test_both_columns_the_baseline_is_nothing_to_compare():
    with pytest.raises(SettingError, match="choose a technique"):
        study_panel.recipes_of([[], []])
    assert list(study_panel.recipes_of([[PromptLookup()], [PromptLookup()]])) == ["prompt_lookup"]


@pytest.mark.bundled
def test_an_example_that_marks_its_context_is_asked_after_it_and_typed_text_is_not(bundled):
    example = next(each for each in loaded.examples().values() if each.question_at)
    ids, context = loaded.parts(bundled, example.prompt, example.chat)
    assert ids == loaded.encode(bundled, example.prompt, example.chat)
    assert bundled.decode(ids[context:]).startswith(example.prompt[example.question_at :])
    assert loaded.parts(bundled, "Hello", True)[1] is None
