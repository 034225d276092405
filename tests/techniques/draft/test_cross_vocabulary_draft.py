"""Two tiny models with two tokenizers: exact, with drafts that are the drafter's words; and the two bundled ones."""

import dataclasses

import pytest
from helpers import random_tokens, run, tokens_of
from tokenizers_in_memory import of_words

from workbench import load
from workbench.engine import Decoder, Run, Sampler
from workbench.errors import SettingError
from workbench.models import bundled as bundled_models
from workbench.models.tiny import tiny
from workbench.techniques import CrossVocabularyDraft
from workbench.techniques.draft import cross_vocabulary_draft
from workbench.techniques.draft.cross_vocabulary_draft.alignment import Alignment, decode


def with_tokenizer(family, tokenizer):
    return dataclasses.replace(tiny(family), tokenizer=tokenizer)


@pytest.fixture
def main(monkeypatch):
    """A tiny model of 96 tokens of words, and as its drafter one whose 96 tokens mean something else."""
    drafter = with_tokenizer("qwen2", of_words(90))
    monkeypatch.setattr(cross_vocabulary_draft, "_loaded", lambda name, dtype, device: drafter)
    return with_tokenizer("llama", of_words(70))


def test_drafts_are_the_words_of_the_drafter(main):
    policy = CrossVocabularyDraft(draft=4).start(Run(main, (5,), 30, Sampler(), 0))
    drafter = cross_vocabulary_draft._loaded("", None, "")
    prompt = main.tokenizer("The river", add_special_tokens=False)["input_ids"]
    draft = policy.propose(prompt, 20)
    decoder, chain = Decoder(drafter), []
    logits = decoder.forward(Alignment(main.tokenizer, drafter.tokenizer).to_drafter(prompt))
    for _ in range(4):
        chain.append(int(logits[0].argmax()))
        logits = decoder.forward(chain[-1:])
    said = decode(drafter.tokenizer, chain, [drafter.tokenizer("r", add_special_tokens=False)["input_ids"][-1]])
    assert said and decode(main.tokenizer, draft.tokens, prompt[-1:]) == said
    assert len(draft.confidence) == len(draft.tokens) and all(0 < chance <= 1 for chance in draft.confidence)
    assert draft.flops > 0 and draft.probabilities is None
    assert len(policy.propose(prompt, 2).tokens) == 2 and policy.propose(prompt, 0).tokens == []


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_it_is_exact_and_the_same_for_a_seed(main, temperature):
    prompt = main.tokenizer("The river runs", add_special_tokens=False)["input_ids"]
    steps = run(main, prompt, [CrossVocabularyDraft(draft=4)], temperature=temperature)
    if not temperature:
        assert tokens_of(steps) == tokens_of(run(main, prompt))
    assert sum(step.drafted for step in steps) > 0
    assert tokens_of(run(main, prompt, [CrossVocabularyDraft(draft=4)], temperature=temperature)) == tokens_of(steps)


def test_the_same_model_with_the_same_words_is_always_right(monkeypatch):
    model = with_tokenizer("llama", of_words(96))
    monkeypatch.setattr(cross_vocabulary_draft, "_loaded", lambda name, dtype, device: model)
    policy = CrossVocabularyDraft(draft=4).start(Run(model, (5,), 30, Sampler(), 0))
    prompt = model.tokenizer("The river runs", add_special_tokens=False)["input_ids"]
    said = tokens_of(run(model, prompt, new=4))
    draft = policy.propose(prompt, 10)
    assert model.decode([*prompt, *draft.tokens]) == model.decode([*prompt, *said])


def test_models_without_tokenizers_are_refused():
    with pytest.raises(SettingError, match="needs tokenizers"):
        run_of = Run(tiny("llama"), tuple(random_tokens(5)), 8, Sampler(), 0)
        CrossVocabularyDraft().start(run_of)


def test_the_drafter_s_end_is_the_model_s_end(main, monkeypatch):
    policy = CrossVocabularyDraft(draft=4).start(Run(main, (5,), 30, Sampler(), 0))
    prompt = main.tokenizer("The river", add_special_tokens=False)["input_ids"]
    second = policy.propose(prompt, 20)
    drafter = cross_vocabulary_draft._loaded("", None, "")
    logits = Decoder(drafter).forward(Alignment(main.tokenizer, drafter.tokenizer).to_drafter(prompt))[0]
    policy._ends = {int(logits.argmax())}
    assert policy.propose(prompt, 20).tokens == list(main.stop_tokens[:1]) != second.tokens


@pytest.mark.bundled
@pytest.mark.skipif(
    bundled_models.installed("gemma3-270m") is None, reason="gemma3-270m is fetched on request only; it is not here"
)
def test_the_two_bundled_models_understand_each_other(bundled):
    gemma = load("gemma3-270m", dtype="float32", device="cpu")
    prompt = bundled.encode("The capital of France is Paris. The capital of Italy is")
    assert bundled.tokenizer.get_vocab() != gemma.tokenizer.get_vocab()
    steps = run(bundled, prompt, [CrossVocabularyDraft()])
    assert tokens_of(steps) == tokens_of(run(bundled, prompt))
    assert sum(step.accepted for step in steps) > 3
