"""Start tokens, chat templates and token ids: what people give, and what the model gets."""

import numpy as np
import pytest
import torch
from tokenizers_of_kinds import START, TEMPLATE, byte_fallback, byte_level

from workbench.errors import PromptError
from workbench.models.stop_text import stop_texts
from workbench.models.tiny import tiny
from workbench.tasks import Prompt, encode_parts, encode_prompt, next_turn
from workbench.tokenizing import prompt_ids, token_ids, write_chat

SYSTEM_REFUSED = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
NO_START = TEMPLATE.removeprefix("{{ bos_token }}")


def with_tokenizer(tokenizer):
    """A model of which only what turns text into ids is used."""
    from types import SimpleNamespace

    from workbench.models import Model

    return Model(None, tokenizer, SimpleNamespace(vocabulary=10**6, positions=10**6), "texts")


@pytest.mark.parametrize("template", [TEMPLATE, NO_START])
@pytest.mark.parametrize("kind", [byte_level, lambda template: byte_fallback(True, template)])
def test_a_chat_text_has_one_start_token_whichever_way_it_is_encoded(kind, template):
    tokenizer = kind(template)
    model, start = with_tokenizer(tokenizer), tokenizer.bos_token_id
    due = tokenizer.apply_chat_template([{"role": "user", "content": "two"}], add_generation_prompt=True)["input_ids"]
    assert model.encode(model.chat("two")) == due == encode_prompt(tokenizer, Prompt("a", "two"))
    assert due.count(start) == (template == TEMPLATE)
    # Joined with what the assistant begins with, it is a plain text that begins with the start token, or gets one.
    assert model.encode(model.chat("two") + " and").count(start) == 1


@pytest.mark.parametrize("kind", [byte_level, lambda: byte_fallback(True)])
def test_a_text_that_begins_with_the_start_token_has_it(kind):
    tokenizer = kind()
    start = tokenizer.bos_token_id
    model = with_tokenizer(tokenizer)
    for text in (f"{START}two", f"{START}two" * 50):
        ids = model.encode(text)
        assert ids[0] == start != ids[1]
        assert ids == encode_prompt(tokenizer, Prompt("a", text, chat=False))
    assert model.encode("two") == [start, *model.encode("two", start=False)]
    assert model.encode(f" two {START}")[0] == start, "only at the beginning is it the start"
    assert model.encode([start, start, 5]) == [start, start, 5], "ids are taken as they are"


def test_a_context_is_found_behind_one_start_token():
    tokenizer = byte_level()
    for text in ("two three. and?", f"{START}two three. and?"):
        ids, context = encode_parts(tokenizer, Prompt("a", text, chat=False, question_at=len(text) - 4))
        assert ids.count(tokenizer.bos_token_id) == 1 and tokenizer.decode(ids[context:]).strip() == "and?"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (SYSTEM_REFUSED, "System role not supported"),
        ("{% for %}", "Expected an expression"),
        ("{{ missing.part }}", "'missing' is undefined"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate str"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_raises_is_one_line(template, said):
    tokenizer = byte_level(template)
    prompt = Prompt("talk", "two", metadata={"earlier_messages": [{"role": "system", "content": "be brief"}]})
    for write in (
        lambda: encode_prompt(tokenizer, prompt),
        lambda: encode_parts(tokenizer, prompt),
        lambda: write_chat(tokenizer, [{"role": "system", "content": "x" * 99}] * 20),
    ):
        with pytest.raises(PromptError, match=r"chat template cannot write (the )?prompt.*roles: system") as caught:
            write()
        assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    if template != SYSTEM_REFUSED:
        with pytest.raises(PromptError, match="chat template cannot write the prompt"):
            with_tokenizer(tokenizer).chat("two")


def test_a_template_that_wants_turns_to_alternate_refuses_the_second_turn_in_one_line():
    tokenizer = byte_level(
        "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"
    )
    first = Prompt("talk", "two", metadata={"turns": ["two", "three"], "references": []})
    assert encode_prompt(tokenizer, first)
    with pytest.raises(PromptError, match=r"prompt 'talk/turn-2' \(roles: user, assistant, user\).*one turn only"):
        encode_prompt(tokenizer, next_turn(first, "and"))


@pytest.mark.parametrize("text", ["a \udcff", "\ud83d"])
def test_what_is_no_character_is_refused(text):
    tokenizer = byte_level()
    for encode in (
        lambda: token_ids(tokenizer, text),
        lambda: encode_prompt(tokenizer, Prompt("a", text)),
        lambda: encode_parts(tokenizer, Prompt("a", f"two {text}", question_at=3)),
        lambda: with_tokenizer(tokenizer).encode(text),
        lambda: stop_texts(with_tokenizer(tokenizer), ["two", text], 1),
    ):
        with pytest.raises(PromptError, match="no character at place"):
            encode()


@pytest.mark.parametrize(
    "ids",
    [
        [5, 6, 7], (5, 6, 7), range(5, 8), torch.tensor([5, 6, 7]), torch.tensor([[5, 6, 7]]), [[5, 6, 7]],
        np.array([5, 6, 7]), np.array([[5, 6, 7]], dtype=np.uint16), [np.int32(5), torch.tensor(6), 7],
        [torch.tensor([5, 6, 7])], (token for token in (5, 6, 7)),
    ],
)  # fmt: skip
def test_ids_of_one_prompt_in_any_form(ids):
    assert prompt_ids(ids) == [5, 6, 7]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[5, 6], [7, 8]]), "2 prompts at once"),
        ([[5, 6], [7, 8, 9]], "2 prompts at once"),
        (np.zeros((3, 1), dtype=int), "3 prompts at once"),
        ([torch.tensor([5]), torch.tensor([6])], "2 prompts at once"),
        (["two", "three"], "2 prompts at once"),
        ([5, [6]], "2 prompts at once"),
        ([True, False], r"whole numbers, not bool \(True\)"),
        (torch.tensor([True, False]), "whole numbers, not bool"),
        ([1.0, 2.0], r"whole numbers, not float \(1.0\)"),
        (torch.tensor([1.5]), "whole numbers, not float"),
        (np.array([1.0]), "whole numbers, not float"),
        ([None], "whole numbers, not NoneType"),
        (7, "sequence of token ids, not int"),
        (torch.tensor(7), "sequence of token ids, not Tensor"),
        (None, "sequence of token ids, not NoneType"),
        (b"two", "sequence of token ids, not bytes"),
        ({"input_ids": [5]}, "give the input_ids"),
        ([{"input_ids": [5]}], "give the input_ids"),
    ],
)
def test_other_ids_are_refused(ids, message):
    with pytest.raises(PromptError, match=message):
        prompt_ids(ids)


def test_models_refuse_them_too():
    model = tiny("llama")
    encoding = byte_level()(["two"], return_tensors="pt")
    with pytest.raises(PromptError, match="give the input_ids"):
        model.encode(encoding)
    assert with_tokenizer(None).encode(encoding["input_ids"])
    with pytest.raises(PromptError, match="2 prompts at once"):
        model.encode(torch.tensor([[5, 6], [7, 8]]))
    with pytest.raises(PromptError, match="empty"):
        model.encode([[]])


def test_text_for_a_model_without_a_tokenizer_is_refused():
    for encode in (
        lambda: encode_prompt(None, Prompt("a", "two")),
        lambda: encode_parts(None, Prompt("a", "two")),
        lambda: tiny("llama").encode("two"),
    ):
        with pytest.raises(PromptError, match="no tokenizer"):
            encode()


class PanicException(BaseException):
    """What the native code of a tokenizer raises."""


@pytest.mark.parametrize(
    "error", [TypeError("'>' between\nint and dict"), PanicException("unwrap on None"), Exception()]
)
def test_a_tokenizer_that_breaks_says_one_line(error):
    def tokenizer(text, **options):
        raise error

    with pytest.raises(PromptError, match="tokenizer breaks on the text, it says") as raised:
        with_tokenizer(tokenizer).encode("w3 w4")
    assert "\n" not in str(raised.value) and type(error).__name__ in str(raised.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_not_the_tokenizers_own_is_passed_on(error):
    def tokenizer(text, **options):
        raise error

    with pytest.raises(error):
        with_tokenizer(tokenizer).encode("w3 w4")
