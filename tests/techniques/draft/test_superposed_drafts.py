"""One blended pass against the formula, the n-gram filter, and how good the continuations are on real text."""

import math

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Decoder, Run, Sampler, generate, score
from workbench.errors import PromptError
from workbench.models.tiny import tiny
from workbench.techniques import SuperposedDrafts
from workbench.techniques.draft.superposed_drafts import as_tree
from workbench.techniques.draft.superposed_drafts.superposition import (
    _WEIGHTS,
    Ngrams,
    Superposed,
    blend,
    superposed_continuations,
)

PROMPT = random_tokens(20)


def slow_continuations(model, prompt, k, length):
    """Without a filter: every pass reads all rows afresh, the blended ones as weighted sums of embeddings."""
    anatomy = model.anatomy
    table = anatomy._embedding.weight.float()
    scale = float(anatomy.embed(torch.tensor([[5]]), torch.tensor([0]))[0, 0, 0] / table[5, 0])
    rows = anatomy.embed(torch.tensor([prompt]), torch.arange(len(prompt)))[0]
    drafts = [((), 0.0)]
    for _ in range(length):
        logits = Decoder(model).forward([0] * len(rows), inputs=rows)[0]
        logs, tokens = logits.float().log_softmax(-1).topk(3 * k)
        grown = [
            ((*draft, token), total + log)
            for draft, total in drafts
            for token, log in zip(tokens.tolist(), logs.tolist())
        ]
        drafts = sorted(grown, key=lambda each: -each[1])[:k]
        weights = [math.exp(total) for _, total in drafts]
        row = sum(weight / sum(weights) * table[draft[-1]] * scale for weight, (draft, _) in zip(weights, drafts))
        rows = torch.cat((rows, row[None]))
    return drafts


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_every_pass_reads_the_weighted_sum_of_the_last_embeddings(family):
    found = superposed_continuations(tiny(family), PROMPT, 3, 5, filter_weight=0.0)
    expected = slow_continuations(tiny(family), PROMPT, 3, 5)
    assert [tuple(tokens) for tokens, _ in found] == [draft for draft, _ in expected]
    assert [total for _, total in found] == pytest.approx([total for _, total in expected], abs=1e-4)


def test_one_draft_is_greedy_decoding():
    model = tiny("qwen2")
    ((tokens, total),) = superposed_continuations(model, PROMPT, 1, 6, filter_weight=0.0)
    assert tokens == tokens_of(run(model, PROMPT, new=6))
    logs = score(model, [[*PROMPT, *tokens]])[0].log_softmax(-1)
    assert total == pytest.approx(sum(float(logs[19 + place, token]) for place, token in enumerate(tokens)), abs=1e-4)


def test_learned_positions_are_added_once_to_a_blend():
    decoder = Decoder(tiny("gpt2"))
    decoder.prefill(PROMPT)
    found = blend(decoder, [Superposed([7], math.log(0.3), []), Superposed([9], math.log(0.1), [])])
    anatomy, place = decoder.anatomy, torch.tensor([20])
    seven, nine = (anatomy.embed(torch.tensor([[token]]), place)[0] for token in (7, 9))
    torch.testing.assert_close(found, 0.75 * seven + 0.25 * nine)


def test_the_filter_gives_a_token_to_the_draft_that_it_follows():
    ngrams = Ngrams()
    ngrams.add([1, 5, 6, 1, 5, 6, 2, 7, 8, 2, 7, 8])
    after_five = ngrams.interpolated([1, 5], [6, 8], [0.4, 0.5])
    after_seven = ngrams.interpolated([2, 7], [6, 8], [0.4, 0.5])
    one, two = _WEIGHTS[:2]
    assert after_five == pytest.approx([one + two + (1 - one - two) * 0.4, (1 - one - two) * 0.5])
    assert after_seven[1] > after_seven[0]
    assert ngrams.interpolated([50, 51], [6, 8], [0.4, 0.5]) == pytest.approx([0.4, 0.5])
    # A corpus counts as well, and does not run on into the text.
    joined = Ngrams([3, 4])
    joined.add([9, 3])
    assert joined.interpolated([3], [4], [0.2]) == pytest.approx([one + (1 - one) * 0.2])
    assert joined.interpolated([4], [9], [0.2]) == pytest.approx([0.2])


def test_the_tree_holds_every_draft_and_shares_beginnings():
    drafts = [Superposed([1, 2, 3], 0.0, [0.5, 0.4, 0.3]), Superposed([1, 4, 3], -1.0, [0.5, 0.2, 0.1])]
    tree = as_tree(drafts)
    assert {tuple(tree.path_to(node)) for node in range(5)} == {(1,), (1, 2), (1, 4), (1, 2, 3), (1, 4, 3)}
    assert tree.tokens == [1, 2, 4, 3, 3] and tree.parents == [-1, 0, 0, 1, 2]
    assert tree.confidence == [0.5, 0.4, 0.2, 0.3, 0.1]


def test_drafting_runs_one_row_for_each_level():
    model = tiny("llama")
    policy = SuperposedDrafts(k=4, length=5, model="/2").start(Run(model, tuple(PROMPT), 20, Sampler(), 0))
    policy.propose([*PROMPT, 5], 9)
    assert policy._drafter.decoder.forwards == 5


@pytest.mark.bundled
def test_continuations_end_at_the_last_position():
    model = tiny("gpt2")
    prompt = random_tokens(250)
    assert len(superposed_continuations(model, prompt, 2, 7)[0][0]) == 7
    with pytest.raises(PromptError, match="at most 7 tokens"):
        superposed_continuations(model, prompt, 2, 8)


def test_continuations_are_as_likely_as_samples_and_differ(bundled):
    """The paper's claim: for the forwards of one continuation, k different ones no worse than nucleus samples."""
    prompts = [
        "The capital of France is",
        "To make a cup of tea, first",
        "In the morning the farmer went out to",
        "The most important thing about learning a language is",
    ]

    def likelihoods(prompt, continuations):
        ids = bundled.encode(prompt)
        rows = score(bundled, [[*ids, *tokens] for tokens in continuations])
        return [
            sum(float(row.log_softmax(-1)[len(ids) - 1 + place, token]) for place, token in enumerate(tokens))
            for row, tokens in zip(rows, continuations)
        ]

    superposed, sampled = [], []
    for prompt in prompts:
        drafts = [tokens for tokens, _ in superposed_continuations(bundled, prompt, 3, 6)]
        assert len(set(map(tuple, drafts))) == 3
        superposed += likelihoods(prompt, drafts)
        draws = [
            tokens_of(generate(bundled, prompt, max_new_tokens=6, temperature=1.0, top_p=0.9, seed=s, stop_tokens=()))
            for s in range(3)
        ]
        sampled += likelihoods(prompt, draws)
    assert sum(superposed) > sum(sampled)
