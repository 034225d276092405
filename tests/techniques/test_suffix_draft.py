"""What is copied, how far it is trusted, and that copying pays on text that repeats."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Run, Sampler, Verification
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import SuffixDraft


def policy(prompt=(1, 2), **settings):
    return SuffixDraft(**settings).start(Run(tiny("llama"), tuple(prompt), 64, Sampler(), 0))


def settle(policy, draft, kept):
    logits = torch.zeros(1 + len(draft.tokens), 8)
    policy.verified(Verification(draft, kept, 0, logits, logits, None, None))


def test_the_longest_suffix_is_continued():
    made = policy()
    text = [1, 2, 3, 40, 41, 9, 2, 3, 50, 51, 8, 1, 2, 3]
    # The latest "2 3" went on with 50, but "1 2 3" is longer and went on with 40.
    assert made.propose(text, 3).tokens[:2] == [40, 41]


def test_nothing_is_drafted_where_nothing_repeats():
    assert policy().propose([1, 2, 3, 4, 5], 8).tokens == []
    assert policy(shortest=3).propose([1, 2, 9, 1, 2], 8).tokens == []


def test_longer_matches_are_drafted_further():
    lengths = []
    for matched in (1, 2, 4, 8, 16):
        piece = list(range(20, 20 + matched))
        text = [*piece, *range(60, 90), 5, *piece]
        lengths.append(len(policy().propose(text, 48).tokens))
    assert lengths == sorted(lengths) and lengths[0] < 4 < lengths[-1]


def test_trust_is_learned():
    piece = list(range(20, 24))
    text = [*piece, *range(60, 90), 5, *piece]
    trusting, doubting = policy(), policy()
    for made, right in ((trusting, True), (doubting, False)):
        for _ in range(12):
            draft = made.propose(text, 48)
            if draft.tokens:
                settle(made, draft, list(range(len(draft.tokens))) if right else [])
    assert len(trusting.propose(text, 48).tokens) > len(doubting.propose(text, 48).tokens)


def test_a_path_ends_where_its_chance_falls_below_the_least():
    draft = policy(least=0.5).propose([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], 48)
    chance = 1.0
    for said in draft.confidence:
        chance *= said
    assert draft.tokens and chance >= 0.5
    longer = policy(least=0.3).propose([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], 48)
    assert len(longer.tokens) > len(draft.tokens)


def test_a_corpus_needs_a_tokenizer(tmp_path):
    model = tiny("llama")
    with pytest.raises(SettingError, match="no tokenizer"):
        SuffixDraft(corpus=str(tmp_path / "missing.txt")).start(Run(model, (1,), 4, Sampler(), 0))


def test_text_that_repeats_is_accepted_in_runs_on_a_tiny_model():
    model, prompt = tiny("llama"), random_tokens(24) * 2
    plain = tokens_of(run(model, prompt, new=64))
    steps = run(model, prompt, [SuffixDraft()], new=64)
    assert tokens_of(steps) == plain
    assert all(step.drafted <= 48 for step in steps)


@pytest.mark.bundled
def test_copying_takes_few_forwards_on_the_bundled_model(bundled):
    passage = "The old lighthouse keeper, Maren, counted seven ships before the fog came in from the western shore. "
    prompt = bundled.encode(passage * 3)
    steps = run(bundled, prompt, [SuffixDraft()], new=60)
    assert tokens_of(steps) == tokens_of(run(bundled, prompt, new=60))
    assert len(steps) < 15


@pytest.mark.bundled
def test_a_corpus_helps_where_the_text_itself_does_not(bundled, tmp_path):
    prompt = bundled.encode("Q: Name the planets of the solar system.\nA:")
    answer = tokens_of(run(bundled, prompt, new=40))
    file = tmp_path / "corpus.txt"
    file.write_text("Q: Name the planets of the solar system.\nA:" + bundled.decode(answer))
    alone, helped = (run(bundled, prompt, [SuffixDraft(corpus=where)], new=40) for where in ("", str(file)))
    assert tokens_of(helped) == answer == tokens_of(alone)
    assert len(helped) < len(alone)
    with pytest.raises(SettingError, match="no text file"):
        SuffixDraft(corpus=str(tmp_path / "missing.txt")).start(Run(bundled, (1,), 4, Sampler(), 0))
