"""Retrieval against a slow BM25, drafts against a fresh reader of the same passages, and a far answer drafted right."""

import math

import pytest
import torch
from engine.test_accept import assert_same_distribution
from helpers import random_tokens, run, tokens_of

from workbench.engine import Chance, Decoder, Run, Sampler
from workbench.engine.enumeration import text_distribution
from workbench.models.tiny import tiny
from workbench.techniques import RetrievalContextDraft
from workbench.techniques.draft._passages import bm25, retrieved_context

PROMPT = random_tokens(45)


def slow_bm25(query, passage, passages):
    score = 0.0
    mean = sum(len(each) for each in passages) / len(passages)
    for token in set(query):
        having = len([each for each in passages if token in each])
        rarity = math.log((len(passages) - having + 0.5) / (having + 0.5) + 1)
        times = passage.count(token)
        score += rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(passage) / mean))
    return score


def test_passages_are_scored_by_the_formula():
    passages = [random_tokens(length, seed=length) for length in (5, 9, 30, 31)]
    passages[1] = passages[1] * 2
    query = [passages[1][0], passages[2][4], passages[2][5], passages[2][5], 1]
    expected = [slow_bm25(query, passage, passages) for passage in passages]
    assert bm25(query, passages) == pytest.approx(expected) and max(expected) > 0


def test_what_is_asked_for_is_read_in_the_order_of_the_prompt():
    first, asked, other, about = list(range(4)), [50, 51, 52, 53], [20, 21, 22, 23], [60, 61, 62, 63]
    prompt = [*first, *other, *asked, *other, *about, *other, 50, 61, 62, 9]
    assert retrieved_context(prompt, 4, 16, 4) == [*first, *asked, *about, 50, 61, 62, 9]
    # Room for one: the one that has more of the query.
    assert retrieved_context(prompt, 4, 12, 4) == [*first, *about, 50, 61, 62, 9]
    assert retrieved_context(prompt, 4, 28, 4) == prompt
    assert retrieved_context(prompt, 4, 8, 26) == prompt


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_are_those_of_a_fresh_reader_of_the_passages(temperature):
    model = tiny("qwen2")
    run = Run(model, tuple(PROMPT), 40, Sampler(temperature, chance=Chance(5)), 5)
    policy = RetrievalContextDraft(draft=4, budget=24, chunk=4, query=8, model="/3").start(run)
    context = retrieved_context(PROMPT, 4, 24, 8)
    assert len(context) <= 24
    text = list(PROMPT)
    for accepted in (0, 2, 4, 1, 3):
        draft = policy.propose(text, 10)
        fresh = Decoder(model.shallow(3))
        logits = fresh.forward([*context, *text[len(PROMPT) :]])[0]
        for place, token in enumerate(draft.tokens):
            if temperature:
                expected = run.sampler.distribution(logits)
                torch.testing.assert_close(draft.probabilities[place], expected, atol=1e-5, rtol=1e-4)
            else:
                assert token == int(logits.argmax())
            assert draft.confidence[place] == pytest.approx(float(logits.softmax(-1)[token]), abs=1e-5)
            logits = fresh.forward([token])[0]
        text += [*draft.tokens[:accepted], 40 + accepted]


def test_a_prompt_that_fits_is_drafted_perfectly_by_the_model_itself():
    steps = run(tiny("llama"), PROMPT, [RetrievalContextDraft(draft=4, budget=64)], 31)
    assert len(steps) == 1 + 30 / 5


@pytest.mark.parametrize("settings", [{"temperature": 1.0, "top_k": 2}, {"temperature": 1.4, "top_k": 2, "top_p": 0.8}])
def test_the_distribution_is_the_models(settings):
    technique = RetrievalContextDraft(draft=2, budget=20, chunk=4, query=6)
    found = text_distribution(tiny("llama"), PROMPT, [technique], 4, **settings)
    assert_same_distribution(found, text_distribution(tiny("llama"), PROMPT, [], 4, **settings))


@pytest.mark.bundled
def test_a_far_answer_is_drafted_from_a_short_context(bundled):
    """With the passage that the question asks for the needle is in the draft; with the newest text alone it is not."""
    from workbench.tasks import encode_prompt
    from workbench.tasks.needle import needle

    prompt = encode_prompt(bundled.tokenizer, needle(bundled.tokenizer, 300, 0.3, seed=1, template=0))
    plain = tokens_of(run(bundled, prompt, new=8))
    kept = {}
    for query, budget in ((48, 160), (160, 160)):
        # A query as long as the budget leaves no room for passages: then only the end is read.
        steps = run(bundled, prompt, [RetrievalContextDraft(draft=4, budget=budget, chunk=32, query=query)], 8)
        assert tokens_of(steps) == plain
        kept[query] = sum(step.accepted for step in steps)
    assert kept[48] > kept[160]
