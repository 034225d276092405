"""Table and search against slow restatements, and what the table saves where text repeats itself."""

import math

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Chance, Draft, Run, Sampler, Verification
from workbench.models.tiny import tiny
from workbench.techniques import TrigramDraft


def started(technique, prompt):
    return technique.start(Run(tiny("llama"), tuple(prompt), 40, Sampler(chance=Chance()), 0))


def verification(draft, path, token, logits):
    return Verification(draft, path, token, logits, torch.zeros(len(logits), 4), None, None)


def searched(successors, last, nodes, explore, limit):
    """Lines added by a tree search that scores every child, visited or not, from its definition."""
    visits, worth, added = {(): 0}, {}, []

    def children(line):
        context = ((last[0], *last[1:], *line))[-2:]
        return successors(*context)

    def open_below(line):
        return len(line) < limit and any(
            (*line, token) not in visits or open_below((*line, token)) for token, _ in children(line)
        )

    while len(added) < nodes and open_below(()):
        line, chances = (), []
        while line in visits:
            scores = {}
            for token, chance in children(line):
                child = (*line, token)
                if child in visits and not open_below(child):
                    continue
                value = sum(worth[child]) / len(worth[child]) if child in visits else 0.0
                count = len(worth[child]) if child in visits else 0
                scores[child] = value + explore * chance * math.sqrt(visits[line]) / (1 + count)
            chosen = max(scores, key=lambda child: (scores[child], child in visits))
            chances.append(dict(children(line))[chosen[-1]])
            line = chosen
        visits[line] = 0
        added.append(line)
        for depth in range(len(line) + 1):
            product = math.prod(chances[max(0, depth - 1) :])
            worth.setdefault(line[:depth], []).append(product)
            visits[line[:depth]] += 1
    return added


@pytest.mark.parametrize("explore", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("limit", [2, 9])
@pytest.mark.parametrize("seed", range(3))
def test_the_search_adds_the_lines_of_a_slow_one(seed, limit, explore):
    text = [token % 7 for token in random_tokens(60, seed=seed)]
    policy = started(TrigramDraft(nodes=14, explore=explore, k=4), text)
    draft = policy.propose(text, limit)
    lines = [tuple(draft.path_to(node)) for node in range(len(draft.tokens))]
    expected = searched(policy._successors, text[-2:], 14, explore, limit)
    assert set(lines) == set(expected) and len(lines) == len(expected) >= (10 if limit > 2 else 3)


def test_without_exploring_the_best_line_is_followed():
    text = [1, 2, 3, 4, 5, 6, 1, 2, 9, 1, 2, 3, 4, 7, 1, 2]
    draft = started(TrigramDraft(nodes=3, explore=0.0), text).propose(text, 9)
    assert draft.tokens == [3, 4, 5] and draft.parents == [-1, 0, 1]
    assert draft.confidence == pytest.approx([2 / 4, 2 / 3, 1 / 3])


def test_the_prompt_is_counted_and_single_tokens_stand_in_for_unknown_pairs():
    policy = started(TrigramDraft(k=2), [1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2, 5])
    assert policy._successors(1, 2) == [(3, 2 / 5), (4, 1 / 5)]
    assert policy._successors(9, 3) == [(1, 2 / 3)]
    assert policy._successors(9, 9) == []


def test_every_verified_row_is_learned_under_its_last_two_tokens():
    policy = started(TrigramDraft(k=3, rate=0.25), [4, 5, 8, 4, 5])
    rows = torch.randn(3, 96, generator=torch.Generator().manual_seed(2))

    def best(row):
        values, tokens = row.topk(3)
        return dict(zip(tokens.tolist(), values.softmax(-1).tolist()))

    draft = Draft([6, 7], [-1, 0])
    policy.verified(verification(draft, [0], 9, rows))
    seen = best(rows[0])
    mixed = {token: 0.25 * chance for token, chance in seen.items()}
    mixed[8] = mixed.get(8, 0.0) + 0.75 / 2
    expected = sorted(mixed.items(), key=lambda each: -each[1])[:3]
    assert [token for token, _ in policy.pairs[4, 5]] == [token for token, _ in expected]
    assert dict(policy.pairs[4, 5]) == pytest.approx(dict(expected))
    assert dict(policy.pairs[5, 6]) == pytest.approx(best(rows[1]))
    assert dict(policy.pairs[6, 7]) == pytest.approx(best(rows[2]))
    assert dict(policy.singles[7]) == pytest.approx(best(rows[2]))
    # The text goes on with the kept node and the model's own token.
    policy.verified(verification(Draft(), [], 3, rows[:1]))
    assert dict(policy.pairs[6, 9]) == pytest.approx(best(rows[0]))


def test_a_text_that_repeats_is_drafted_better_with_time():
    model = tiny("gemma3_text")
    steps = run(model, list(range(3, 23)), [TrigramDraft()], 80)
    assert tokens_of(steps) == tokens_of(run(model, list(range(3, 23)), new=80))
    half = len(steps) // 2
    assert sum(step.accepted for step in steps[half:]) > sum(step.accepted for step in steps[:half])


@pytest.mark.bundled
def test_what_the_model_said_before_saves_forwards(bundled):
    """The table that follows the model drafts better than the one that stays as the prompt left it."""
    prompt = bundled.chat("Explain how a bicycle stays upright, then explain it again for a child.")
    plain = run(bundled, prompt, new=48)
    adapted = run(bundled, prompt, [TrigramDraft()], 48)
    assert tokens_of(adapted) == tokens_of(plain)
    fixed_policy = started(TrigramDraft(), bundled.encode(prompt))
    text, saved = bundled.encode(prompt), 0
    output = tokens_of(plain)
    while output:
        fixed_policy._last = tuple(text[-2:])
        draft = fixed_policy.propose(text, len(output))
        kept = max((len(p) for n in range(len(draft.tokens)) if output[: len(p := draft.path_to(n))] == p), default=0)
        saved += kept
        text, output = text + output[: kept + 1], output[kept + 1 :]
    assert sum(step.accepted for step in adapted) > 1.5 * saved
    assert len(adapted) < 0.75 * len(plain)
