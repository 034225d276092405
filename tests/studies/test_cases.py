"""Prompts in every form that a study takes."""

from dataclasses import dataclass

import pytest
import torch

from workbench.errors import PromptError
from workbench.studies.cases import cases
from workbench.tasks import Prompt, encode_prompt, question_view


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


def test_a_context_is_a_number_for_all_what_a_prompt_marks_or_none(tiny):
    model = tiny("llama")
    assert [case.context_tokens for case in cases(model, [[3, 4, 5], [5, 6, 7, 8]], 2)] == [2, 2]
    assert [case.context_tokens for case in cases(model, [[3, 4, 5]])] == [None]
    with pytest.raises(PromptError, match=r"prompt prompt-2: context_tokens must leave .* 1 … 1"):
        cases(model, [[3, 4, 5], [5, 6]], 2)
    with pytest.raises(PromptError, match="'marked' or None"):
        cases(model, [[3, 4, 5]], "all")


def test_whether_the_question_was_seen_is_said_in_words():
    assert question_view(None, None) == "with the question seen" == question_view()
    assert question_view(3, 4) == "compressed before the question"
    assert question_view(3, None, 4) == (
        "compressed before the question in 2 of 3 prompts, with the question seen in the others"
    )


@pytest.mark.bundled
def test_marks_of_prompts_and_of_records_are_found_in_the_chat_format(bundled):
    context, question = "The gate opens at nine.\n\n", "When does the gate open?"
    record = {"id": "r", "context": context, "prompt": question}
    marked = Prompt("m", context + question, question_at=len(context))
    for case in cases(bundled, [record, marked]):
        assert case.tokens == encode_prompt(bundled.tokenizer, Prompt("m", context + question))
        assert bundled.decode(case.tokens[: case.context_tokens]).endswith(context)
        assert bundled.decode(case.tokens[case.context_tokens :]).startswith(question)
    assert [case.context_tokens for case in cases(bundled, [record, marked], None)] == [None, None]
    assert cases(bundled, [record])[0].record(bundled)["question"] == "compressed before the question"
    for wrong in ({"context": 5, "prompt": "a"}, {"context": " ", "prompt": "a"}):
        with pytest.raises(PromptError, match="context"):
            cases(bundled, [wrong])


def test_a_tokenizer_that_cannot_say_where_its_tokens_stand_still_reads_prompts_as_one(tiny):
    import dataclasses

    class Slow:
        chat_template = None

        def __call__(self, text, **_):
            return {"input_ids": [3 + ord(letter) % 90 for letter in text]}

    model, prompt = dataclasses.replace(tiny("llama"), tokenizer=Slow()), Prompt("m", "a b?", question_at=2)
    assert cases(model, [prompt], None)[0].context_tokens is None
    assert cases(model, [prompt], 3)[0].context_tokens == 3
    with pytest.raises(PromptError, match=r"prompt m: .*--question-seen"):
        cases(model, [prompt])
