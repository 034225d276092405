import json

import pytest

from workbench.errors import PromptError
from workbench.tasks import (
    Prompt,
    PromptFileError,
    PromptFileWarning,
    load_prompts,
    load_spec_bench,
    next_turn,
    score,
    write_prompts,
)

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
        ({"question_id": 2, "category": "qa", "turns": ["a"], "reference": [["b", 1]]}, "'reference' must be a list"),
        ({"question_id": 2, "category": "qa", "turns": ["a"], "reference": [[["b"]]]}, "'reference' must be a list"),
        ({"question_id": 2, "category": "qa", "turns": ["a"], "reference": {"b": 1}}, "'reference' must be a text"),
        ({"question_id": 2, "category": "qa", "turns": ["\ud800"]}, "'turns' holds half of a surrogate pair"),
        (TALK, "the id '81' was already used"),
    ],
)
def test_a_bad_line_is_named_and_left_out(tmp_path, line, message):
    path = write(tmp_path, TALK, line, LINES[1])
    for load in (load_spec_bench, load_prompts) if "{" in str(line) else (load_spec_bench,):
        with pytest.warns(PromptFileWarning, match="1 of 3 rows cannot be read and are left out: line 2") as caught:
            assert [prompt.id for prompt in load(path)] == ["81", "161"]
        if load is load_spec_bench:
            assert message in str(caught[0].message)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PromptFileError, match=r"no Spec-Bench question file at .*nowhere\.jsonl"):
        load_spec_bench(tmp_path / "nowhere.jsonl")
    with pytest.raises(PromptFileError, match="not a regular file"):
        load_spec_bench(tmp_path)
    with pytest.raises(PromptFileError, match=r"line 1 \(id 'a'\): the field 'question_id' is missing"):
        load_spec_bench(write(tmp_path, {"id": "a", "prompt": "Hello"}))
    with pytest.raises(PromptFileError, match=r"line 1 \(id 1\): the field 'turns' is missing"):
        load_spec_bench(write(tmp_path, {"question_id": 1, "category": "qa"}))
    with pytest.raises(PromptFileError, match="holds no prompts"):
        load_spec_bench(write(tmp_path, ""))
    with pytest.raises(PromptError, match="limit must be 1 or more"):
        load_spec_bench(write(tmp_path, TALK), limit=0)


PUBLISHED = """\
{"question_id": 7, "category": "writing", "turns": ["Write two lines about a lighthouse.", "Now without the letter e."]}
{"question_id": 8, "category": "rag", "turns": ["Context: The mill was built in 1712 by Ines Vidal.\\nQuestion: who built the mill?"], "reference": [["Ines Vidal"], ["Vidal"]]}
{"question_id": 9, "category": "translation", "turns": ["Translate German to English: Das Boot liegt im Hafen."], "reference": ["The boat lies in the harbour."]}
{"question_id": 10, "category": "summarization", "turns": ["Summarise: The council met twice. It agreed on the bridge."], "reference": "The council agreed on the bridge."}
{"question_id": 11, "category": "qa", "turns": [], "reference": ["none"]}
{"question_id": 12, "category": "qa", "turns": ["Which sea lies north of Poland?"], "reference": []}
"""  # noqa: E501


@pytest.mark.parametrize("load", [load_prompts, load_spec_bench])
def test_the_published_shape_is_read(tmp_path, load):
    path = write(tmp_path, PUBLISHED)
    with pytest.warns(PromptFileWarning, match=r"1 of 6 rows .*: line 5 \(id 11\): 'turns' must hold"):
        found = {prompt.id: prompt for prompt in load(path)}
    assert list(found) == ["7", "8", "9", "10", "12"]
    assert (found["8"].reference, found["8"].metadata["answers"]) == ("Ines Vidal", ["Vidal"])
    assert score("It was Vidal who built it.", found["8"]) == 1.0
    references = [found[name].reference for name in ("9", "10", "12", "7")]
    assert references == ["The boat lies in the harbour.", "The council agreed on the bridge.", None, None]
    with pytest.warns(PromptFileWarning):
        taken = load(path, limit=3)
    assert [prompt.metadata["category"] for prompt in taken] == ["writing", "rag", "translation"]


def test_a_limit_takes_every_category_in_turn(tmp_path):
    rows = [
        {"question_id": number, "category": category, "turns": ["a"]}
        for number, category in enumerate(["writing"] * 9 + ["math"] * 2 + ["rag"] * 9)
    ]
    path = write(tmp_path, *rows)
    assert [prompt.id for prompt in load_spec_bench(path, 3)] == ["0", "9", "11"]
    assert [prompt.id for prompt in load_spec_bench(path, 8)] == ["0", "1", "2", "9", "10", "11", "12", "13"]
    assert load_spec_bench(path, 8) == load_prompts(path, 8) and len(load_spec_bench(path, 99)) == 20


def test_wordings_of_a_turn_are_its_answers(tmp_path):
    turns = {"turns": ["a?", "b?", "c?"], "reference": [["A", "a", "A"], "", ["C", "c"]]}
    path = write(tmp_path, {"question_id": 1, "category": "writing", **turns})
    [first] = load_spec_bench(path)
    second = next_turn(first, "x")
    third = next_turn(second, "x")
    assert [(turn.reference, turn.metadata.get("answers")) for turn in (first, second, third)] == [
        ("A", ["a"]), (None, None), ("C", ["c"])
    ]  # fmt: skip
    write_prompts([first, third], tmp_path / "mine.jsonl")
    assert load_prompts(tmp_path / "mine.jsonl") == [first, third]
