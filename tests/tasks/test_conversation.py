import pytest

from workbench.errors import PromptError
from workbench.tasks import Prompt, encode_prompt, format_prompt, greedy_answer, next_turn, unroll

TURNS = ["First?", "Second?", "Third?"]
TALK = Prompt("81", "First?", metadata={"turns": TURNS, "references": ["", "two"], "category": "writing"})


def test_without_a_tokenizer_text_is_refused_in_one_line():
    with pytest.raises(PromptError, match="no tokenizer: give its prompts as token ids"):
        encode_prompt(None, TALK)


def test_a_turn_follows_the_answers_before_it(chat_tokenizer):
    second = next_turn(TALK, "  Yes.\n")
    assert (second.id, second.prompt, second.reference, second.task) == ("81/turn-2", "Second?", "two", "chat")
    third = next_turn(second, "No.")
    assert (third.id, third.prompt, third.reference) == ("81/turn-3", "Third?", None)
    assert next_turn(third, "Perhaps.") is None
    said = [("user", "First?"), ("assistant", "Yes."), ("user", "Second?"), ("assistant", "No."), ("user", "Third?")]
    expected = "".join(f"<|start|>{role}\n{text}<|end|>\n" for role, text in said) + "<|start|>assistant\n"
    assert format_prompt(chat_tokenizer, third) == expected
    assert TALK.metadata.keys() == {"turns", "references", "category"}  # the turns before are left as they were
    assert "Third?" not in format_prompt(chat_tokenizer, second)


@pytest.mark.parametrize(
    "metadata", [{}, {"turns": ["First?"]}, {"turns": 3}, {"turns": ["First?", 3]}, {"turns": ["Other?", "Second?"]}]
)
def test_other_prompts_have_no_next_turn(metadata):
    prompt = Prompt("a", "First?", metadata=metadata)
    assert next_turn(prompt, "Yes.") is None
    assert unroll([prompt], lambda _: pytest.fail("not asked")) == [prompt]


def test_references_of_a_users_own_kind_are_no_references():
    second = next_turn(Prompt("a", "First?", metadata={"turns": TURNS, "references": [1, 2]}), "Yes.")
    assert second.reference is None


def test_unroll_asks_for_every_answer_but_the_last():
    asked = []

    def answer(prompt):
        asked.append(prompt.id)
        return f"answer to {prompt.prompt}"

    plain = Prompt("plain", "Hello")
    found = unroll([plain, TALK, "a text", [1, 2]], answer)
    assert [getattr(each, "id", each) for each in found] == [
        "plain", "81", "81/turn-2", "81/turn-3", "a text", [1, 2]
    ]  # fmt: skip
    assert asked == ["81", "81/turn-2"]
    assert found[3].metadata["earlier_messages"][-1] == {"role": "assistant", "content": "answer to Second?"}


def test_a_model_without_tokenizer_cannot_go_on(tiny):
    with pytest.raises(PromptError, match="has no tokenizer"):
        unroll([TALK], greedy_answer(tiny("llama"), 4))


@pytest.mark.bundled
def test_the_bundled_model_answers_with_its_own_words_in_mind(bundled):
    import workbench as wb

    turns = ["What is the capital of France?", "Repeat your last answer."]
    first, second = unroll([Prompt("a", turns[0], metadata={"turns": turns})], greedy_answer(bundled, 24))
    said = second.metadata["earlier_messages"][1]["content"]
    tokens = [
        token
        for step in wb.generate(bundled, encode_prompt(bundled.tokenizer, first), max_new_tokens=24)
        for token in step.tokens
    ]
    assert said and said == bundled.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert "<|im_" not in said
    assert "Paris" in greedy_answer(bundled, 24)(second)
    assert "Paris" not in greedy_answer(bundled, 24)(Prompt("b", turns[1]))
