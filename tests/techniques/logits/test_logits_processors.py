"""transformers' processors: the same text greedily, the same distribution sampled, and drafts change neither."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
)

from workbench.engine import Run, Sampler, generate
from workbench.engine.enumeration import text_distribution, total_variation
from workbench.errors import SettingError
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny
from workbench.techniques import LogitsProcessors, PromptLookup, TokenRecycling

PROMPT = random_tokens(16) * 2
NEW = 24
SETTINGS = [
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram": 2},
    {"no_repeat_ngram": 1},
    {"repetition_penalty": 1.2, "no_repeat_ngram": 3},
]


def greedy(model, prompt, new=NEW, repetition_penalty=1.0, no_repeat_ngram=0):
    ids = torch.tensor([prompt])
    return model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None,
        pad_token_id=0, repetition_penalty=repetition_penalty, no_repeat_ngram_size=no_repeat_ngram,
    )[0, len(prompt) :].tolist()  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_greedy_text_is_transformers_own(settings, family):
    expected = greedy(tiny(family), PROMPT, **settings)
    assert tokens_of(run(tiny(family), PROMPT, [LogitsProcessors(**settings)], NEW)) == expected
    drafted = run(tiny(family), PROMPT, [LogitsProcessors(**settings), PromptLookup(ngram=1, draft=5)], NEW)
    assert tokens_of(drafted) == expected


def test_the_settings_matter():
    plain = greedy(tiny("llama"), PROMPT)
    assert all(greedy(tiny("llama"), PROMPT, **settings) != plain for settings in SETTINGS)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("min_p", "epsilon"), [(0.1, 0.0), (0.0, 0.02), (0.9, 0.0), (0.0, 0.9), (0.05, 0.03)])
def test_the_distribution_is_that_of_transformers_warpers(min_p, epsilon, temperature):
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(1.3), NoRepeatNGramLogitsProcessor(2), TemperatureLogitsWarper(temperature)]
    )
    processors += [MinPLogitsWarper(min_p)] if min_p else []
    processors += [EpsilonLogitsWarper(epsilon)] if epsilon else []
    technique = LogitsProcessors(repetition_penalty=1.3, no_repeat_ngram=2, min_p=min_p, epsilon_cutoff=epsilon)
    sampler = Sampler(temperature)
    policy = technique.start(Run(tiny("llama"), tuple(PROMPT), NEW, sampler, 0))
    for row in torch.randn(8, 96, generator=torch.Generator().manual_seed(3)) * 4:
        ours = sampler.distribution(policy.adjust(PROMPT, row))
        expected = processors(torch.tensor([PROMPT]), row[None].clone())[0].softmax(-1)
        torch.testing.assert_close(ours, expected)
        assert int((ours == 0).sum()) > 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_ruled_out_never_comes_as_in_transformers(family):
    model, ids = tiny(family), torch.tensor([PROMPT])
    text = greedy(model, PROMPT)
    ruled_out = {
        "begin_suppress_tokens": text[:1],
        "suppress_tokens": [text[3]],
        "bad_words_ids": [text[1:3], text[6:7]],
    }
    expected = model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=95, pad_token_id=0,
        **ruled_out,
    )[0, len(PROMPT) :].tolist()  # fmt: skip
    words = "/".join("-".join(map(str, word)) for word in ruled_out["bad_words_ids"])
    technique = LogitsProcessors(suppress_tokens=str(text[3]), begin_suppress_tokens=str(text[0]), bad_words=words)
    assert tokens_of(run(model, PROMPT, [technique], NEW)) == expected != text
    assert tokens_of(run(model, PROMPT, [technique, PromptLookup(ngram=1, draft=5)], NEW)) == expected
    assert expected[0] != text[0] and text[3] not in expected


def test_each_rule_has_its_own_reach():
    row, prompt = torch.zeros(96), [5, 3]
    policy = LogitsProcessors(suppress_tokens="7-40", begin_suppress_tokens="5", bad_words="9/3-4/2-2-8").start(
        Run(tiny("llama"), tuple(prompt), NEW, Sampler(), 0)
    )

    def gone(*tokens):
        return policy.adjust([*prompt, *tokens], row).isinf().nonzero().flatten().tolist()

    assert gone() == [4, 5, 7, 9, 40]
    assert gone(2) == [7, 9, 40] and gone(2, 2) == [7, 8, 9, 40] and gone(3) == [4, 7, 9, 40]


@pytest.mark.parametrize(
    ("setting", "value"), [("suppress_tokens", "96"), ("bad_words", "3-4/1000"), ("begin_suppress_tokens", "200")]
)
def test_a_token_that_the_model_has_not_is_refused(setting, value):
    with pytest.raises(SettingError, match=f"tiny-llama has no token {value.split('/')[-1]}"):
        next(generate(tiny("llama"), PROMPT, [LogitsProcessors(**{setting: value})], 1))


def test_greedy_the_cuts_do_nothing():
    row = torch.randn(96, generator=torch.Generator().manual_seed(3))
    policy = LogitsProcessors(min_p=0.5, epsilon_cutoff=0.5).start(Run(tiny("llama"), (3,), NEW, Sampler(), 0))
    assert policy.adjust([3], row) is row


def test_drafted_text_has_the_same_distribution():
    model = tiny("llama")
    processors = LogitsProcessors(repetition_penalty=1.3, min_p=0.3)
    expected = text_distribution(model, PROMPT, [processors], 3, temperature=1.0)
    for drafter in (PromptLookup(ngram=1, draft=2), TokenRecycling()):
        drafted = text_distribution(model, PROMPT, [drafter, processors], 3, temperature=1.0)
        assert total_variation(drafted, expected) < 1e-6


def test_half_precision_is_processed_in_float32_as_transformers_does():
    model = tiny("llama", dtype=torch.bfloat16)
    technique = LogitsProcessors(repetition_penalty=1.01)
    (step,) = generate(model, PROMPT, [technique], 1, stop_tokens=(), logits=True)
    (plain,) = generate(model, PROMPT, [], 1, stop_tokens=(), logits=True)
    row = plain.logits.float()
    expected = RepetitionPenaltyLogitsProcessor(1.01)(torch.tensor([PROMPT]), row.clone())
    assert torch.equal(step.logits, expected) and not torch.equal(expected, expected.bfloat16().float())


@pytest.mark.bundled
def test_a_penalty_ends_the_loops_of_the_bundled_model_as_it_does_in_transformers(bundled):
    prompt = bundled.encode("One fish, two fish, red fish, blue fish. One fish, two fish, red fish, blue fish. One")
    plain, penalised = greedy(bundled, prompt, 12), greedy(bundled, prompt, 12, 1.3, 3)
    assert plain != penalised
    technique = LogitsProcessors(repetition_penalty=1.3, no_repeat_ngram=3)
    assert tokens_of(run(bundled, prompt, [technique], 12)) == penalised
    assert tokens_of(run(bundled, prompt, [technique, PromptLookup()], 12)) == penalised
