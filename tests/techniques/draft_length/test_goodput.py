"""Draft lengths follow acceptance and cost, and zero is an answer."""

import pytest
import torch
from engine.scripted import Scripted
from helpers import random_tokens, run, tokens_of

from workbench.engine import Draft, Run, Sampler, Verification, VerifyCost
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel, Goodput
from workbench.techniques.draft_length.goodput import _Goodput

PROMPT = random_tokens(24) * 2


def policy(seconds, **settings):
    """A policy whose forwards of 1, 2, … tokens cost the given seconds."""
    model = tiny("llama")
    one = Run(model, tuple(PROMPT), 64, Sampler(), 0)
    chosen = Goodput(**settings)
    return _Goodput(chosen, one, VerifyCost(range(1, len(seconds) + 1), seconds), chosen.cost == "measured")


def outcome(draft, path):
    logits = torch.zeros(1 + len(draft.tokens), 8)
    return Verification(draft, path, 0, logits, logits, None, None)


def drive(policy, rate, steps, draft_seconds=0.0, limit=8):
    """Let chains be accepted with chance ``rate`` a token, deterministically on average; lengths proposed."""
    generator, lengths = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        length = policy.limit([1], limit)
        draft = policy.prune(Draft([1] * length)) if length else Draft()
        right = 0
        while right < len(draft.tokens) and float(torch.rand((), generator=generator)) < rate:
            right += 1
        seconds = policy._forward(1 + len(draft.tokens))
        policy.measured(outcome(draft, list(range(right))), draft_seconds * length, seconds)
        lengths.append(len(draft.tokens))
    return lengths


FLAT = [1.0] * 9
STEEP = [1.0 + 0.5 * extra for extra in range(9)]


def test_free_verification_of_sure_drafts_takes_all_of_them():
    assert drive(policy(FLAT), 0.95, 40)[-10:] == [8] * 10


def test_dear_verification_shortens_drafts():
    cheap, dear = drive(policy(FLAT), 0.7, 200), drive(policy(STEEP), 0.7, 200)
    assert sum(dear) < 0.5 * sum(cheap)


def test_hopeless_drafts_end_in_none_with_rare_tries():
    lengths = drive(policy(STEEP), 0.0, 400)
    assert sum(length == 0 for length in lengths[50:]) > 0.9 * 350
    assert max(lengths[150:]) <= 2 and any(lengths[150:]), "it must go on trying, with little"


def test_it_comes_back_when_drafts_get_right():
    made = policy(STEEP)
    drive(made, 0.0, 100)
    assert sum(length > 0 for length in drive(made, 1.0, 400)[-50:]) > 40


def test_dear_drafting_counts():
    free, dear = (drive(policy(STEEP), 0.8, 200, seconds) for seconds in (0.0, 0.6))
    assert sum(dear) < sum(free)


def test_a_tree_is_cut_to_its_probable_part():
    made = policy(STEEP)
    draft = Draft([1, 2, 3, 4], [-1, -1, 0, 1], confidence=[0.95, 0.03, 0.9, 0.5])
    cut = made.prune(draft)
    assert cut.tokens == [1, 3] and cut.parents == [-1, 0] and cut.confidence == [0.95, 0.9]


def test_the_length_maximises_tokens_for_each_second():
    """Against a plain restatement: (1 + sum of path chances) / (cost of a forward of 1 + n), chances as given."""
    made, chances = policy(STEEP), [0.9, 0.85, 0.8, 0.6, 0.4, 0.2, 0.1, 0.1]
    best, best_rate, expected, path = 0, 1.0 / STEEP[0], 0.0, 1.0
    for length, chance in enumerate(chances, 1):
        path *= chance
        expected += path
        if (1 + expected) / STEEP[length] > best_rate:
            best, best_rate = length, (1 + expected) / STEEP[length]
    assert 0 < best < 8
    assert len(made.prune(Draft([1] * 8, confidence=chances)).tokens) == best


def test_smartspecs_length_is_that_of_its_series():
    """(1 - a^(k+1)) / (1 - a) tokens for the seconds of drafting k and verifying k + 1, one a at every depth."""
    seconds = [1.0 + 0.25 * extra for extra in range(9)]
    made = policy(seconds, estimator="smartspec")
    rate, draft = 0.7, Draft([1, 2, 3, 4], confidence=[0.9, 0.01, 0.01, 0.01])
    for kept in (4, 1, 0, 4, 4):
        goodput = [(1 - rate ** (length + 1)) / (1 - rate) / seconds[length] for length in range(9)]
        best = max(range(1, 9), key=lambda length: goodput[length])
        assert made.limit([1], 8) == (best if goodput[best] > 1.05 * goodput[0] else 0)
        assert made.prune(draft) is draft, "it sets the length and cuts nothing"
        made.measured(outcome(draft, list(range(kept))), 0.0, seconds[4])
        rate += 0.1 * (kept / 4 - rate)


def test_drawn_drafts_are_limited_before_they_are_made_and_never_cut(monkeypatch):
    """Not even where asking for all that a drafter has would cost nothing: what cannot be cut must be short."""
    made = policy([1.0 + 0.2 * extra for extra in range(9)])
    assert made.limit([1], 8) == 8, "as long as nothing is known, it may turn out to be cut"
    drawn = Draft([1] * 8, None, torch.full((8, 8), 1 / 8))
    made.measured(outcome(drawn, [0, 1, 2]), 0.0, 2.6)
    assert 0 < made.limit([1], 8) < 8
    monkeypatch.setattr(_Goodput, "prune", lambda self, draft: pytest.fail("asked to prune"))
    steps = run(tiny("llama"), PROMPT, [DraftModel(model="/1.0", draft=4), Goodput(cost="modelled")], temperature=1.0)
    assert any(step.drafted for step in steps)


def test_zero_never_drafts_and_the_longest_is_kept():
    never = Scripted(lambda tokens, limit: pytest.fail("asked for a draft"))
    plain = tokens_of(run(tiny("llama"), PROMPT))
    assert tokens_of(run(tiny("llama"), PROMPT, [never, Goodput(longest=0)])) == plain
    asked = []
    right = Scripted(lambda tokens, limit: asked.append(limit) or Draft(plain[len(tokens) - len(PROMPT) :][:limit]))
    steps = run(tiny("llama"), PROMPT, [right, Goodput(longest=3, cost="modelled")])
    assert tokens_of(steps) == plain and max(asked) == 3 and max(step.drafted for step in steps) == 3


@pytest.mark.bundled
def test_on_the_bundled_model_right_guesses_are_taken_and_wrong_ones_given_up(bundled, monkeypatch):
    mild = VerifyCost(range(1, 10), [1.0 + 0.2 * extra for extra in range(9)])
    monkeypatch.setattr("workbench.techniques.draft_length.goodput.verify_cost", lambda model, kind: mild)
    prompt = bundled.encode("The capital of France is")
    plain = tokens_of(run(bundled, prompt, new=48))
    guesses = {
        "wrong": lambda tokens, limit: Draft([0] * min(limit, 4)),
        "right": lambda tokens, limit: Draft(plain[len(tokens) - len(prompt) :][: min(limit, 4)]),
    }
    drafted = {}
    for name, guess in guesses.items():
        steps = run(bundled, prompt, [Scripted(guess), Goodput(cost="modelled")], new=48)
        assert tokens_of(steps) == plain
        drafted[name] = sum(step.drafted for step in steps) / len(steps)
    assert drafted["wrong"] < 1 and drafted["right"] > 2, drafted
