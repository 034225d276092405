import json

import pytest

from workbench.errors import PromptError
from workbench.tasks import Prompt, PromptFileError, load_prompts, load_spec_bench, score, write_prompts

TALK = {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite it."], "reference": ["", "Better."]}
LINES = (
    TALK,
    {"question_id": 161, "category": "translation", "turns": ["German to English: Hallo."], "reference": ["Hi."]},
    {"question_id": 241, "category": "summarization", "turns": ["Summarize: a long text"], "reference": ["a text"]},
    {"question_id": 321, "category": "qa", "turns": ["who?"], "reference": ["Ada", "Ada Lovelace"]},
    {"question_id": 401, "category": "math_reasoning", "turns": ["How many?"], "reference": ["2 + 3 = 5\n#### 5"]},
    {"question_id": 481, "category": "rag", "turns": ["Passages ... who?"], "reference": "Bob", "source": "extra"},
    {"question_id": "last", "category": "reasoning", "turns": ["Think."]},
)  # fmt: skip


def write(tmp_path, *lines):
    path = tmp_path / "question.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_every_question_is_a_prompt_of_the_task_of_its_category(tmp_path):
    found = load_spec_bench(write(tmp_path, *LINES))
    assert [(prompt.id, prompt.task) for prompt in found] == [
        ("81", "chat"), ("161", "translation"), ("241", "summarising"), ("321", "question_answering"),
        ("401", "mathematics"), ("481", "retrieval_augmented"), ("last", "chat"),
    ]  # fmt: skip
    assert [prompt.prompt for prompt in found] == [line["turns"][0] for line in LINES]
    assert [prompt.reference for prompt in found] == [
        None, "Hi.", "a text", "Ada", "2 + 3 = 5\n#### 5", "Bob", None
    ]  # fmt: skip
    assert [prompt.metadata["category"] for prompt in found] == [line["category"] for line in LINES]
    assert all(prompt.chat for prompt in found)
    assert found[0].metadata["turns"] == TALK["turns"] and "turns" not in found[1].metadata


def test_answers_are_scored_by_the_task(tmp_path):
    found = {prompt.id: prompt for prompt in load_spec_bench(write(tmp_path, *LINES))}
    assert score("It was Ada Lovelace.", found["321"]) == 1.0
    assert score("That makes 5.", found["401"]) == 1.0 and score("That makes 6.", found["401"]) == 0.0
    assert score("bob", found["481"]) == 1.0


def test_load_prompts_knows_such_a_file_by_its_fields(tmp_path):
    path = write(tmp_path, *LINES, "")
    assert load_prompts(path) == load_spec_bench(path)
    assert load_prompts(path, limit=2) == load_spec_bench(path, limit=2) == load_spec_bench(str(path))[:2]


def test_a_line_with_a_prompt_is_no_question_of_the_benchmark(tmp_path):
    [found] = load_prompts(write(tmp_path, {"id": "a", "prompt": "Hello", "turns": 3}))
    assert found == Prompt("a", "Hello", metadata={"turns": 3})


def test_what_was_read_is_written_and_read_again(tmp_path):
    found = load_spec_bench(write(tmp_path, *LINES))
    write_prompts(found, tmp_path / "mine.jsonl")
    assert load_prompts(tmp_path / "mine.jsonl") == found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "expected an object"),
        ({"category": "qa", "turns": ["a"]}, "the field 'question_id' is missing"),
        ({"question_id": 2, "turns": ["a"]}, "the field 'category' is missing"),
        ({"question_id": 2, "category": 3, "turns": ["a"]}, "'category' must be text, not int"),
        ({"question_id": True, "category": "qa", "turns": ["a"]}, "'question_id' must be a number or text"),
        ({"question_id": " ", "category": "qa", "turns": ["a"]}, "'question_id' must be a number or text"),
        ({"question_id": 2, "category": "qa", "turns": "a"}, "'turns' must be a list of texts"),
        ({"question_id": 2, "category": "qa", "turns": ["a", 3]}, "'turns' must be a list of texts"),
        ({"question_id": 2, "category": "qa", "turns": []}, "'turns' must hold at least one text"),
        ({"question_id": 2, "category": "qa", "turns": ["a", " "]}, "'turns' must hold at least one text"),
        ({"question_id": 2, "category": "qa", "turns": ["a"], "reference": [1]}, "'reference' must be a list of texts"),
        ({"question_id": 2, "category": "qa", "turns": ["\ud800"]}, "'turns' holds half of a surrogate pair"),
        (TALK, "the id '81' was already used"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path, TALK, line)
    with pytest.raises(PromptFileError) as caught:
        load_spec_bench(path)
    assert f"{path}, line 2: {message}" in str(caught.value)
    if not isinstance(line, str) or line.startswith("{"):
        with pytest.raises(PromptFileError, match="line 2"):
            load_prompts(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PromptFileError, match=r"no Spec-Bench question file at .*nowhere\.jsonl"):
        load_spec_bench(tmp_path / "nowhere.jsonl")
    with pytest.raises(PromptFileError, match="not a regular file"):
        load_spec_bench(tmp_path)
    with pytest.raises(PromptFileError, match=r"line 1: the field 'question_id' is missing"):
        load_spec_bench(write(tmp_path, {"id": "a", "prompt": "Hello"}))
    with pytest.raises(PromptFileError, match="line 1: the field 'turns' is missing"):
        load_spec_bench(write(tmp_path, {"question_id": 1, "category": "qa"}))
    with pytest.raises(PromptFileError, match="holds no prompts"):
        load_spec_bench(write(tmp_path, ""))
    with pytest.raises(PromptError, match="limit must be 1 or more"):
        load_spec_bench(write(tmp_path, TALK), limit=0)
