"""A corpus is a regular text file of a modest size; a match at its very end drafts nothing."""

import dataclasses
import os
import random

import pytest
from helpers import run, tokens_of
from tokenizers_in_memory import of_words

from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import SuffixDraft
from workbench.techniques.draft.suffix_draft import corpus
from workbench.techniques.draft.suffix_draft.corpus import indexed
from workbench.techniques.draft.suffix_draft.suffix_automaton import SuffixAutomaton


@pytest.fixture(scope="module")
def model():
    return dataclasses.replace(tiny("llama"), tokenizer=of_words(90))


def longest_followed(text, query):
    """Length of the longest suffix of ``query`` that stands in ``text`` with something after it, by looking."""
    for length in range(len(query), 0, -1):
        if any(text[at : at + length] == query[-length:] for at in range(len(text) - length)):
            return length
    return 0


@pytest.mark.parametrize("seed", range(20))
def test_a_closed_text_finds_what_something_follows(seed):
    chance = random.Random(seed)
    text = [chance.randrange(3) for _ in range(chance.randrange(1, 24))]
    automaton, state, query = SuffixAutomaton.closed(text), (0, 0), []
    for token in [*(chance.randrange(3) for _ in range(30)), *text, *text]:
        query.append(token)
        state = automaton.advance(*state, token)
        assert state[1] == longest_followed(text, query)
        if state[1]:
            place = automaton.ended(state[0])
            assert text[place - state[1] : place] == query[-state[1] :] and place < len(text)


def test_an_empty_text_finds_nothing():
    assert SuffixAutomaton.closed([]).advance(0, 0, 5) == (0, 0)


@pytest.mark.parametrize("whole", [True, False])
def test_a_prompt_that_ends_as_the_file_does_is_drafted_for(whole, model, tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("The river runs through the valley")
    prompt = model.tokenizer(file.read_text() if whole else "the valley", add_special_tokens=False)["input_ids"]
    steps = run(model, prompt, [SuffixDraft(corpus=str(file), least=0.01)])
    assert tokens_of(steps) == tokens_of(run(model, prompt))


def refused(model, path, match):
    with pytest.raises(SettingError, match=match) as error:
        indexed(model, str(path))
    assert "\n" not in str(error.value)


def test_what_is_no_text_file_is_refused_with_a_word_on_what_to_do(model, tmp_path, monkeypatch):
    refused(model, tmp_path / "missing.txt", "there is no text file")
    refused(model, tmp_path, "there is no text file")
    refused(model, "/dev/zero", "there is no text file")
    os.mkfifo(tmp_path / "pipe")
    refused(model, tmp_path / "pipe", "there is no text file")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    refused(model, tmp_path / "latin.txt", "UTF-8")
    (tmp_path / "long.txt").write_text("the river " * 40)
    monkeypatch.setattr(corpus, "MOST_TOKENS", 20)
    refused(model, tmp_path / "long.txt", "tokens, more than the 20")
    with pytest.raises(SettingError, match="no tokenizer"):
        indexed(tiny("llama"), str(tmp_path / "long.txt"))


def test_a_large_file_is_not_read(model, tmp_path, monkeypatch):
    file = tmp_path / "large.txt"
    with file.open("wb") as sparse:
        sparse.truncate(50 * 10**9)
    refused(model, file, "larger than 8,000,000 bytes")


def test_a_changed_file_is_read_again(model, tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("the river")
    before = indexed(model, str(file)).text
    file.write_text("the sea")
    assert indexed(model, str(file)).text != before
