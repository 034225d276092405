"""Prompts in every form that a study takes."""

from dataclasses import dataclass

import pytest
import torch

from workbench.errors import PromptError
from workbench.studies.cases import cases
from workbench.tasks import Prompt, encode_prompt


@dataclass
class Own:
    id: str
    prompt: list
    reference: str | None = None
    task: str = "summarising"


def test_token_ids_in_every_form(tiny):
    forms = [[3, 4], (5, 6), torch.tensor([[7, 8]]), {"prompt": [9], "id": 12}, Own("own", [10, 11])]
    found = cases(tiny("llama"), forms)
    assert [case.tokens for case in found] == [[3, 4], [5, 6], [7, 8], [9], [10, 11]]
    assert [case.id for case in found] == ["prompt-1", "prompt-2", "prompt-3", "12", "own"]
    assert [case.task for case in found] == ["", "", "", "chat", "summarising"]


def test_a_category_is_kept_where_a_prompt_has_one(tiny):
    found = cases(tiny("llama"), [{"id": "a", "prompt": [3], "category": "rag"}, {"prompt": [4]}, [5]])
    assert [case.category for case in found] == ["rag", "", ""]
    assert [case.record(tiny("llama")).get("category") for case in found] == ["rag", None, None]
    nested = {"id": "b", "prompt": [3], "metadata": {"category": "writing"}}
    assert cases(tiny("llama"), [nested])[0].category == "writing"


def test_a_reference_is_scored_by_its_task(tiny):
    question = {"id": "q", "prompt": [3], "reference": "7 8", "task": "question_answering"}
    summary, bare = Own("s", [3], "one two three"), [3]
    found = cases(tiny("llama"), [question, summary, bare])
    assert found[0].score("it is 7 8 .") == 1.0 and found[0].score("78") == 0.0
    assert 0 < found[1].score("one two four") < 1
    assert str(found[2].score("anything")) == "nan"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ([[]], "prompt prompt-1: .*empty"),
        ([[3], {"id": "b"}], "prompt b: .*'prompt' is missing"),
        ([{"id": "b", "prompt": [999]}], "prompt b: token ids"),
        ([{"id": "a", "prompt": [3]}, {"id": "a", "prompt": [4]}], "two prompts have the id 'a'"),
        (["some text"], "prompt prompt-1: .*no tokenizer"),
        ([{"id": "a", "prompt": [3], "reference": 3}], "prompt a: 'reference' must be text"),
        ([[3] * 300], "300 tokens"),
        ([{"id": "a", "prompt": [3], "metadata": "x"}], "prompt a: 'metadata' must be a mapping"),
    ],
)
def test_what_cannot_be_run_is_named(tiny, prompts, message):
    with pytest.raises(PromptError, match=message):
        cases(tiny("llama"), prompts)


def test_what_is_kept_of_a_long_prompt_is_its_beginning(tiny):
    (case,) = cases(tiny("llama"), [[3] * 200])
    record = case.record(tiny("llama"))
    assert record["tokens"] == 200 and record["text"] == "<3>" * 200


@pytest.mark.bundled
def test_text_is_taken_as_it_is_and_task_prompts_in_the_chat_format(bundled):
    tokenizer = bundled.tokenizer
    chat, continued = Prompt("c", "Hello"), Prompt("f", "def f(", task="code_completion", chat=False)
    found = cases(bundled, ["Hello", chat, continued, {"prompt": "Hello"}, {"prompt": "Hello", "chat": False}])
    plain = tokenizer("Hello")["input_ids"]
    assert found[0].tokens == plain and found[4].tokens == plain
    assert found[1].tokens == encode_prompt(tokenizer, chat) == found[3].tokens != plain
    assert found[2].tokens == tokenizer("def f(")["input_ids"]
    assert cases(bundled, "Hello")[0].tokens == plain
    with pytest.raises(PromptError, match="empty"):
        cases(bundled, [Prompt("e", " ")])
