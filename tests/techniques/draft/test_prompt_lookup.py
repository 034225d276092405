"""The n-gram index against a plain search, and what it saves where text repeats."""

import random

import pytest

from workbench.engine import generate
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup
from workbench.techniques.draft.prompt_lookup import _Lookup


def searched(tokens, ngram, draft, limit):
    """What follows the latest earlier occurrence of the longest matching n-gram, by looking everywhere."""
    for size in range(min(ngram, len(tokens) - 1), 0, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:]:
                period = tokens[end:]
                return [period[place % len(period)] for place in range(min(draft, limit))]
    return []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ngram", [1, 3])
def test_index_finds_what_a_search_finds(seed, ngram):
    generator = random.Random(seed)
    text = [generator.randrange(6) for _ in range(12)]
    lookup = _Lookup(ngram, 5)
    for _ in range(60):
        assert lookup.propose(text, 4).tokens == searched(text, ngram, 5, 4)
        text += [generator.randrange(6) for _ in range(generator.randrange(1, 4))]


def test_nothing_is_drafted_without_a_match():
    assert _Lookup(3, 10).propose([1, 2, 3, 4], 10).tokens == []
    assert _Lookup(3, 10).propose([1], 10).tokens == []


def test_a_periodic_text_is_drafted_to_its_end():
    model = tiny("gemma3_text")
    steps = list(generate(model, list(range(3, 23)), [PromptLookup()], max_new_tokens=80, stop_tokens=()))
    text = [token for step in steps for token in step.tokens]
    assert text[-10:] == text[-20:-10], "this model's text must end in a period for this to show anything"
    assert 10 in {step.accepted for step in steps}


@pytest.mark.bundled
def test_copying_takes_few_forwards_on_real_text(bundled):
    passage = (
        "The committee met on Tuesday to review the annual report. It found that spending had risen by four percent, "
        "mostly on repairs to the harbour wall, and asked the treasurer for a second estimate before the winter."
    )
    prompt = bundled.chat(f"Repeat this text word for word:\n\n{passage}")
    plain = list(generate(bundled, prompt, max_new_tokens=40))
    drafted = list(generate(bundled, prompt, [PromptLookup()], max_new_tokens=40))
    assert [t for step in drafted for t in step.tokens] == [t for step in plain for t in step.tokens]
    assert len(drafted) < 0.5 * len(plain)
