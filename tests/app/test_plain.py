"""What is said and written has an end, and long prompts have room."""

import logging
import sys
from dataclasses import replace

import pytest

from workbench.errors import PromptError, SettingError
from workbench.models.tiny import tiny
from workbench_app import loaded, memory
from workbench_app.logs import LONGEST, bounded_output, clipped
from workbench_app.plain import message


def test_a_long_text_loses_its_middle():
    assert clipped("short") == "short"
    text = clipped("a" * 100_000 + "the end")
    assert len(text) < LONGEST + 100 and text.startswith("aaa") and text.endswith("the end")
    assert f"{100_007 - LONGEST:,} characters left out" in text


def test_printing_is_bounded_meanwhile_and_put_back(capsys):
    before = sys.stderr
    with bounded_output():
        print("x" * 60_000_000, file=sys.stderr)
        assert sys.stderr.isatty() is False
    assert sys.stderr is before
    assert len(capsys.readouterr().err) < 2 * LONGEST


def test_messages_and_the_log_are_bounded(caplog):
    assert len(message(SettingError("x" * 1_000_000))) < 3_000
    with caplog.at_level(logging.ERROR, "workbench_app"):
        try:
            raise RuntimeError("x" * 60_000_000)
        except RuntimeError as error:
            said = message(error)
    assert len(said) < 200 and len(caplog.text) < 2 * LONGEST
    assert "RuntimeError" in caplog.text or "test_plain" in caplog.text


def test_a_prompt_whose_keys_and_values_have_no_room_is_refused(monkeypatch):
    model = tiny("llama")
    each = sum(2 * block.kv_heads * block.head_dim * 4 for block in model.anatomy.blocks)
    assert memory.cache_bytes(model, 1000) == 1000 * each
    monkeypatch.setattr(memory, "free_bytes", lambda model: 3 * 1000 * each - 1)
    memory.check_memory(model, 999)
    with pytest.raises(PromptError, match=r"keys and values of 1,000 tokens .* shorten the prompt"):
        memory.check_memory(model, 1000)
    monkeypatch.setattr(memory, "free_bytes", lambda model: None)
    memory.check_memory(model, 10**9)


def test_free_memory_is_known_here():
    assert memory.free_bytes(tiny("llama")) > 10**6


def test_the_limits_of_a_prompt_are_said():
    for limit in (loaded.MOST_CHARACTERS, loaded.MOST_TOKENS):
        assert f"{limit:,}" in loaded.limits()
    with pytest.raises(PromptError, match="shorten it"):
        loaded.as_prompt("x" * (loaded.MOST_CHARACTERS + 1), False)
    assert loaded.as_prompt("x" * loaded.MOST_CHARACTERS, False).prompt


def test_what_a_models_files_ask_for_is_said_where_the_page_names_it():
    plain = tiny("llama")
    noted = replace(plain, notes=("generation_config.json asks for more than its stop tokens",))
    assert loaded.about(noted) == f"{loaded.about(plain)} generation_config.json asks for more than its stop tokens"
