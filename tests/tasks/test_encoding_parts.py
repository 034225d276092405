"""Where the context ends among the tokens: at the last one that stands before the question as a whole."""

import copy

import pytest

from workbench.errors import PromptError
from workbench.tasks import Prompt, encode_parts, encode_prompt, needle

CONTEXT = "And Abraham was old, and well stricken in age.\n\n"
QUESTION = "Who was old? Answer: "


def parts(tokenizer, prompt):
    """Both parts of a prompt as text, and whether the tokens are those of the prompt as a whole."""
    ids, context = encode_parts(tokenizer, prompt)
    assert ids == encode_prompt(tokenizer, prompt)
    return tokenizer.decode(ids[:context]), tokenizer.decode(ids[context:])


@pytest.mark.parametrize("chat", [True, False])
def test_the_question_begins_at_its_own_token(plain_tokenizer, chat_tokenizer, chat):
    prompt = Prompt("a", CONTEXT + QUESTION, chat=chat, question_at=len(CONTEXT))
    assert parts(plain_tokenizer, prompt) == ("<|begin|>" + CONTEXT, QUESTION)
    before, after = parts(chat_tokenizer, prompt)
    if chat:
        assert (before, after) == ("<|start|>user\n" + CONTEXT, QUESTION + "<|end|>\n<|start|>assistant\n")
    else:
        assert (before, after) == ("<|begin|>" + CONTEXT, QUESTION)


def test_a_token_across_the_boundary_belongs_to_the_question(plain_tokenizer):
    text = "And Abraham was old"
    pieces = [plain_tokenizer.decode([token]) for token in encode_prompt(plain_tokenizer, Prompt("a", text))[1:]]
    word = next(piece for piece in pieces if "Abraham" in piece)
    assert len(word) > 5, "the word is no token of its own: the test shows nothing"
    for inside in range(text.index(word), text.index(word) + len(word)):
        before, after = parts(plain_tokenizer, Prompt("a", text, chat=False, question_at=max(1, inside)))
        assert before == "<|begin|>" + text[: text.index(word)] and after.startswith(word)


@pytest.mark.parametrize("question", ["Wer war alt? 🎉é", " à qui?", "\n\n?"])
def test_characters_of_several_tokens_are_not_torn(plain_tokenizer, question):
    context = "été 🎉 – fin."
    before, after = parts(plain_tokenizer, Prompt("a", context + question, chat=False, question_at=len(context)))
    assert before + after == f"<|begin|>{context}{question}" and (f"<|begin|>{context}").startswith(before)
    assert "\ufffd" not in before + after


def test_a_template_that_strips_the_message(chat_tokenizer):
    stripping = copy.deepcopy(chat_tokenizer)
    stripping.chat_template = chat_tokenizer.chat_template.replace("message['content']", "message['content'] | trim")
    prompt = Prompt("a", f"\n {CONTEXT}{QUESTION} \n", question_at=2 + len(CONTEXT))
    before, after = parts(stripping, prompt)
    assert before == "<|start|>user\n" + CONTEXT and after.startswith("Who was old? Answer:<|end|>")


def test_the_last_message_is_meant_where_an_earlier_one_says_the_same(chat_tokenizer):
    said = [{"role": "user", "content": CONTEXT + QUESTION}, {"role": "assistant", "content": "Abraham."}]
    prompt = Prompt("a", CONTEXT + QUESTION, metadata={"earlier_messages": said}, question_at=len(CONTEXT))
    before, after = parts(chat_tokenizer, prompt)
    assert before.count(CONTEXT) == 2 and before.count("Abraham.") == 1 and QUESTION in after


@pytest.mark.parametrize("templated", [False, True])
def test_a_needle_marks_its_question(plain_tokenizer, chat_tokenizer, templated):
    tokenizer = chat_tokenizer if templated else plain_tokenizer
    prompt = needle(tokenizer, 300, 0.5, seed=3)
    before, after = parts(tokenizer, prompt)
    assert prompt.metadata["needle"] in before and prompt.metadata["needle"] not in after
    assert (after.startswith(("What is the", "\n\nWhat")) and before.rstrip() in prompt.context) or not templated


def test_without_parts_there_is_no_boundary(plain_tokenizer):
    assert encode_parts(plain_tokenizer, Prompt("a", "Hello"))[1] is None


def test_what_cannot_be_found_is_said(plain_tokenizer, chat_tokenizer):
    prompt = Prompt("a", CONTEXT + QUESTION, question_at=len(CONTEXT))
    shouting = copy.deepcopy(chat_tokenizer)
    shouting.chat_template = chat_tokenizer.chat_template.replace("message['content']", "message['content'] | upper")
    with pytest.raises(PromptError, match="changes the text"):
        encode_parts(shouting, prompt)

    class Slow:
        is_fast = False

    with pytest.raises(PromptError, match="fast tokenizer"):
        encode_parts(Slow(), prompt)
    bare = copy.deepcopy(plain_tokenizer)
    bare._tokenizer.post_processor = None
    with pytest.raises(PromptError, match="fills no whole token"):
        encode_parts(bare, Prompt("a", " Abraham", chat=False, question_at=3))
