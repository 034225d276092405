"""The prefill of a long prompt ends between two of its chunks."""

import threading

import pytest
from helpers import random_tokens, tokens_of

from workbench.engine import Decoder, generate, teacher_force
from workbench.models.tiny import tiny
from workbench.techniques import SnapKV

PROMPT = random_tokens(40)


class After(threading.Event):
    """Set once it was looked at so often."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def passes(monkeypatch):
    """Tokens of every pass through a model."""
    seen, forward = [], Decoder.forward

    def counted(self, tokens, *arguments, **options):
        seen.append(len(tokens))
        return forward(self, tokens, *arguments, **options)

    monkeypatch.setattr(Decoder, "forward", counted)
    return seen


@pytest.mark.parametrize("techniques", [(), (SnapKV(),)], ids=["baseline", "snap_kv"])
@pytest.mark.parametrize("context", [None, 30])
def test_a_run_ends_between_two_chunks_and_goes_on_from_the_whole_prompt(passes, techniques, context):
    model = tiny("llama")
    options = {"max_new_tokens": 5, "stop_tokens": (), "prefill_chunk": 8, "context_tokens": context}
    stream = generate(model, PROMPT, techniques, cancel=After(3), **options)
    assert list(stream) == []
    assert passes == [8, 8, 8], "the first look is before the prefill"
    state = stream.state
    assert state.cached == 0 and state.tokens == tuple(PROMPT)
    again = tokens_of(generate(model, [], techniques, max_new_tokens=5, stop_tokens=(), past=state))
    assert again == tokens_of(generate(model, PROMPT, techniques, max_new_tokens=5, stop_tokens=()))


def test_a_prompt_in_one_pass_is_not_interrupted(passes):
    assert list(generate(tiny("llama"), PROMPT, max_new_tokens=5, cancel=After(1))) != []
    assert passes[0] == len(PROMPT)


def test_forced_rows_end_between_two_chunks_too(passes):
    rows = teacher_force(tiny("llama"), PROMPT, [3, 4, 5], prefill_chunk=8, cancel=After(3))
    assert list(rows) == [] and passes == [8, 8, 8]
