"""What is copied, how far it is trusted, and that copying pays on text that repeats."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Draft, Run, Sampler, Verification
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import spell
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


def test_the_auxiliary_is_asked_where_the_match_is_short():
    made = policy(auxiliary="token_recycling", alone=3)
    made.verified(Verification(Draft(), [], 7, torch.eye(96)[:3], torch.zeros(3, 4), None, None))
    asked = []
    inner = made._auxiliary.propose
    made._auxiliary.propose = lambda tokens, limit: asked.append(len(tokens)) or inner(tokens, limit)
    made.propose([1, 2, 3, 4, 9, 2, 3, 4], 4)
    assert asked == []
    made.propose([1, 2, 3, 4, 9, 2, 3, 4, 60, 61, 9], 4)
    assert asked == [11]


def test_both_drafts_stand_in_one_tree():
    class Other:
        def propose(self, tokens, limit):
            return Draft([50, 4], [-1, -1], confidence=[0.5, 0.2])

    made = policy(least=0.01)
    made._auxiliary = Other()
    draft = made.propose([3, 4, 5, 6, 3], 3)
    assert draft.tokens[:3] == [4, 5, 6] and 50 in draft.tokens and draft.tokens.count(4) == 1


def test_trust_is_learned_from_what_came_whoever_drafted_it():
    made, text = policy(auxiliary="token_recycling", least=0.01), [3, 4, 5, 6, 3]
    made.propose(text, 3)
    before = made._trust.of(1)
    # The draft was cut to nothing, and the copy would have been right.
    settle_to = Verification(Draft(), [], 4, torch.zeros(1, 96), torch.zeros(1, 4), None, None)
    made.verified(settle_to)
    assert made._trust.of(1) > before
    made.propose(text, 3)
    made.verified(Verification(Draft(), [], 9, torch.zeros(1, 96), torch.zeros(1, 4), None, None))
    after = made._trust.of(1)
    made.propose(text, 3)
    made.verified(Verification(Draft(), [], 9, torch.zeros(1, 96), torch.zeros(1, 4), None, None))
    assert made._trust.of(1) < after


@pytest.mark.parametrize("spec", ["suffix_draft", "snap_kv", "dynamic_tree", "token_recycling+snap_kv"])
def test_only_a_drafter_may_be_the_auxiliary(spec):
    with pytest.raises(SettingError, match="auxiliary"):
        policy(auxiliary=spec)


DRAFTERS = [
    name for name, kind in TECHNIQUES.items() if kind.slots == ("draft",) and kind.exact and name != "suffix_draft"
]


@pytest.mark.parametrize("name", DRAFTERS)
def test_every_drafter_may_be_the_auxiliary_and_changes_no_token(name):
    model, prompt = tiny("llama"), [5, 6, 7, 5, 6, 8, 5, 6]
    expected = tokens_of(run(model, prompt, [], new=40))
    steps = run(model, prompt, [SuffixDraft(auxiliary=spell(TECHNIQUES[name].examples()[0]), alone=6)], new=40)
    assert tokens_of(steps) == expected


@pytest.mark.parametrize(
    "spec", ["self_speculative:threshold=0.1", "self_speculative:threshold=1", "dynamic_exit_layer:stride=1,every=1"]
)
def test_a_drafter_that_holds_the_pass_or_looks_at_it_drafts_in_place_of_a_copy_or_not_at_all(spec):
    model = tiny("llama", layers=6)
    for seed in range(5):
        prompt = random_tokens(8, seed) * 2
        steps = run(model, prompt, [SuffixDraft(auxiliary=f"{spec},lens=logit", alone=8)])
        assert tokens_of(steps) == tokens_of(run(model, prompt))
        assert any(step.drafted for step in steps)
