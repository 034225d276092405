"""A drafter of the same tokenizer whose embedding has more or fewer rows drafts, and every technique stays exact."""

import dataclasses

import pytest
import torch
from helpers import applicable, run, tokens_of

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine.enumeration import text_distribution, total_variation
from workbench.errors import SettingError
from workbench.models import second_model as module
from workbench.models.fitted import fitted
from workbench.models.second_model import second_model
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import describe
from workbench.studies.distribution import model_of, prompt_of
from workbench.techniques import DraftModel, EntropyAdaptive, OptimalTransportAccept

PROMPT = list(range(3, 23))
# Across vocabularies there is nothing to share.
NAMING = {
    name: setting
    for name, kind in TECHNIQUES.items()
    for setting, field in describe(kind).items()
    if field.get("outside") == "model" and name != "cross_vocabulary_draft"
}

# What it takes for the other model to have a say.
MORE = {
    "candidate_length": {"weights": "untrained"},
    "entropy_adaptive": {"threshold": 32.0, "dwell": 1},
    "overlapped_draft": {"first": 1},
}


class Words:
    """A tokenizer of so many words, which no more can be asked than what it holds."""

    def __init__(self, count):
        self._words = {f"w{place}": place for place in range(count)}

    def get_vocab(self):
        return dict(self._words)


def named(technique, model="beside"):
    """A technique at its smallest that drafts with the model of this name."""
    small = TECHNIQUES[technique].smallest() if TECHNIQUES[technique].exact else TECHNIQUES[technique].examples()[0]
    return dataclasses.replace(small, **{NAMING[technique]: model}, **MORE.get(technique, {}))


@pytest.fixture
def beside(monkeypatch):
    """Puts a model of so many rows where a name would load one; gives the main model the same words."""

    def put(main, rows, words):
        other = tiny("llama", seed=2, dtype=main.dtype, vocabulary=rows)
        monkeypatch.setattr(
            module, "_loaded", lambda *_: dataclasses.replace(other, name="beside", tokenizer=Words(words))
        )
        return dataclasses.replace(main, tokenizer=Words(words))

    return put


def test_the_techniques_that_name_a_model_are_found():
    assert {"draft_model", "entropy_adaptive", "overlapped_draft", "dynamic_tree", "retrieval_cache_draft"} <= {*NAMING}


@pytest.mark.parametrize("rows", [90, 128])
@pytest.mark.parametrize("name", NAMING)
def test_greedy_text_is_the_models_own(name, rows, beside):
    main = beside(tiny("llama"), rows, 90)
    steps = run(main, PROMPT, [named(name)], new=16)
    if TECHNIQUES[name].exact:
        assert tokens_of(steps) == tokens_of(run(main, PROMPT, new=16))
        assert sum(step.drafted for step in steps) > 0
        assert all(node[0] < min(rows, 96) for step in steps for node in step.nodes)
    else:
        assert max(tokens_of(steps)) < 96
        assert name != "entropy_adaptive" or {step.model for step in steps} == {main.name, "beside"}


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("name", [name for name in NAMING if TECHNIQUES[name].exact])
def test_sampling_keeps_the_distribution(name, rows, beside):
    """Every outcome of a model of three tokens is walked through, beside a drafter that lacks one, or has one more."""
    main = beside(model_of(3), rows, 2)
    plain = text_distribution(main, prompt_of(3), (), 3, given=1, temperature=1.5)
    with applicable():
        found = text_distribution(main, prompt_of(3), [named(name)], 3, given=1, temperature=1.5)
    assert total_variation(found, plain) < 1e-6


@pytest.mark.parametrize("rows", [3, 5])
def test_optimal_transport_over_several_paths_keeps_it_too(rows, beside):
    main = beside(model_of(4), rows, 3)
    recipe = [DraftModel(model="beside", draft=1, paths=2), OptimalTransportAccept()]
    distributions = [text_distribution(main, prompt_of(4), each, 3, given=1, temperature=1.5) for each in ((), recipe)]
    assert total_variation(*distributions) < 1e-6


@pytest.mark.parametrize("rows", [90, 128])
def test_logits_are_the_drafters_own_of_the_tokens_that_both_have(rows):
    other = tiny("llama", seed=2, vocabulary=rows)
    beside, tokens = fitted(other, 96), torch.tensor([PROMPT])
    x = beside.anatomy.embed(tokens, torch.arange(len(PROMPT)))
    assert torch.equal(x, other.anatomy.embed(tokens, torch.arange(len(PROMPT))))
    ours, theirs = beside.anatomy.unembed(x), other.anatomy.unembed(x)
    both = min(rows, 96)
    assert ours.shape[-1] == beside.anatomy.vocabulary == 96 and torch.equal(ours[..., :both], theirs[..., :both])
    assert bool((ours[..., both:] == float("-inf")).all()) and other.anatomy.vocabulary == rows
    assert fitted(other, rows) is other


def test_a_text_with_a_token_that_the_drafter_lacks_is_drafted_for(beside):
    main = beside(tiny("llama"), 90, 90)
    prompt = [*PROMPT, 95, 94]
    steps = run(main, prompt, [DraftModel(model="beside")], new=12)
    assert tokens_of(steps) == tokens_of(run(main, prompt, new=12)) and sum(step.drafted for step in steps) > 0
    assert tokens_of(run(main, prompt, [EntropyAdaptive(small="beside", threshold=32.0, dwell=1)], new=8))


def test_without_a_tokenizer_the_rows_decide(monkeypatch):
    monkeypatch.setattr(module, "_loaded", lambda *_: tiny("llama", seed=2, vocabulary=128))
    with pytest.raises(SettingError, match=r"no tokenizer to compare, and 128 and 96 rows"):
        second_model(tiny("llama"), "beside")
    monkeypatch.setattr(module, "_loaded", lambda *_: tiny("llama", seed=2))
    assert second_model(tiny("llama"), "beside").anatomy.vocabulary == 96


def test_other_words_are_refused_even_with_as_many_rows(beside, monkeypatch):
    main = beside(tiny("llama"), 96, 90)
    other = dataclasses.replace(tiny("llama", seed=2), tokenizer=Words(89))
    monkeypatch.setattr(module, "_loaded", lambda *_: other)
    with pytest.raises(SettingError, match="share a vocabulary"):
        second_model(main, "beside")
