import re
from collections import Counter

import pytest

from making.training_selections import EVALUATION_PAGES
from workbench.errors import PromptError
from workbench.tasks import (
    SCORERS,
    TRAINING_TASKS,
    Prompt,
    list_tasks,
    load_prompts,
    score,
    shared_pages,
    training_prompts,
)


def runs_of_words(text, length=12):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + length]) for place in range(len(words) - length + 1)}


def test_nothing_that_is_evaluated_is_trained_on():
    trained = {run: prompt.id for prompt in training_prompts() for run in runs_of_words(prompt.prompt)}
    assert len(trained) > 30_000
    for prompt in load_prompts("all"):
        shared = (runs_of_words(prompt.prompt) | runs_of_words(prompt.reference)) & trained.keys()
        assert not shared, (prompt.id, sorted({trained[run] for run in shared}))


def test_the_comparison_would_find_a_shared_sentence():
    # The same measure does find the passages that evaluation tasks have in common with one another.
    translated = {run for prompt in load_prompts("translation") for run in runs_of_words(prompt.reference)}
    asked = {run for prompt in load_prompts("question_answering") for run in runs_of_words(prompt.prompt)}
    assert translated & asked


def test_neither_a_page_nor_a_function_serves_both():
    def pages(prompts):
        sources = "; ".join(prompt.metadata["source"] for prompt in prompts)
        return set(re.findall(r"Handbook, ([\w.-]+)", sources)), set(re.findall(r"library, ([\w.]+)\.\w+", sources))

    evaluated_pages, evaluated_modules = pages(load_prompts("all"))
    trained_pages, trained_modules = pages(training_prompts())
    assert evaluated_pages <= EVALUATION_PAGES and not trained_pages & EVALUATION_PAGES
    assert len(trained_pages) > 40 and len(trained_modules) > 40
    assert not evaluated_modules & trained_modules


def test_there_are_several_hundred_varied_prompts_of_every_task():
    found = training_prompts()
    assert 400 <= len(found) <= 700
    assert len({prompt.id for prompt in found}) == len({prompt.prompt for prompt in found}) == len(found)
    counts = Counter(prompt.task for prompt in found)
    assert counts.keys() == set(TRAINING_TASKS) == {task.name for task in list_tasks() if task.count} - {"humaneval"}
    assert min(counts.values()) >= 50
    evaluated = {prompt.id for prompt in load_prompts("all")}
    for prompt in found:
        assert prompt.id not in evaluated
        assert prompt.metadata["source"] and prompt.metadata["licence"]
        assert prompt.chat is (prompt.task != "code_completion")
        assert prompt.task in SCORERS and 15 <= len(prompt.prompt) <= 4500


def test_a_small_limit_sees_every_task():
    assert [prompt.task for prompt in training_prompts(limit=len(TRAINING_TASKS))] == list(TRAINING_TASKS)
    assert training_prompts("chat", limit=3) == training_prompts("chat")[:3]
    assert {prompt.task for prompt in training_prompts("translation")} == {"translation"}


def test_word_problems_have_answers_and_no_other_task_has():
    for prompt in training_prompts():
        if prompt.task == "mathematics":
            assert score(prompt.reference, prompt) == 1.0 and int(prompt.reference) > 0
        else:
            assert prompt.reference is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"task": "needle"}, "no training prompts for 'needle'"), ({"limit": 0}, "limit must be 1 or more")],
)
def test_what_there_is_not_is_refused(arguments, message):
    with pytest.raises(PromptError, match=message):
        training_prompts(**arguments)


def test_prompts_that_share_a_page_are_one_group():
    def prompt(number, source, **more):
        return Prompt(str(number), "?", metadata={"source": source, **more})

    own = "written for this project"
    prompts = [
        prompt(0, "Python 3.11 documentation, library/os: walk"),
        prompt(1, "Python 3.11 documentation, library/re"),
        prompt(2, "Python 3.11 documentation, library/os; King James Version, ruth1:1-5"),
        prompt(3, "King James Version, ruth1:8-9"),
        prompt(4, "King James Version, ruth2:1-4"),
        prompt(5, "Python standard library, os.walk"),
        prompt(6, "Python standard library, os.listdir"),
        prompt(7, own),
        prompt(8, own),
        prompt(9, own, pattern=3),
        prompt(10, own, pattern=3),
        Prompt("11", "without a source"),
    ]
    assert shared_pages(prompts) == [0, 1, 0, 0, 2, 3, 3, 4, 5, 6, 6, 7]
