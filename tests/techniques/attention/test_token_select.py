"""The vote against the formula written out, the choice reused, few keys read, and the needle still found."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Decoder, LayerCache, Run, Sampler
from workbench.engine.attention import attend
from workbench.models.attention import Scoring
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup, SnapKV, StreamingLLM, TokenSelect

HEADS, KV_HEADS, WIDTH = 4, 2, 8
SCORING = Scoring(0.3)


def selector(prompt=0, family="llama", **settings):
    return TokenSelect(**settings).start(Run(tiny(family), (3,) * prompt, 60, Sampler(), 0))


def cache_of(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cache = LayerCache(reserve=64)
    keys, values = (torch.randn(1, KV_HEADS, length, WIDTH, generator=generator) for _ in range(2))
    cache.append(keys, values, torch.arange(length))
    return cache


def more(cache, count, seed):
    """Append new tokens and return their queries."""
    generator = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(1, KV_HEADS, count, WIDTH, generator=generator) for _ in range(2))
    start = int(cache.positions.max()) + 1
    cache.append(key, value, torch.arange(start, start + count))
    return torch.randn(1, HEADS, count, WIDTH, generator=generator)


class Seen:
    """What the loop hands an attention policy, its mask given."""

    def __init__(self, mask):
        self._mask = mask

    def mask(self):
        return self._mask


def causal(cache, count):
    return torch.ones(count, cache.length, dtype=torch.bool).tril(cache.length - count)


def voted(query, cache, scale, settings, start):
    """Places read, written with loops: sinks, the k best of the middle by summed votes, and the newest."""
    middle = [p for p in range(settings.sinks, start - settings.recent)]
    votes = torch.zeros(len(middle), dtype=torch.float64)
    for head in range(HEADS):
        for row in range(query.shape[2]):
            keys = cache.keys[0, head // (HEADS // KV_HEADS), middle].double()
            votes += (keys @ query[0, head, row].double() * scale).softmax(0)
    chosen = [middle[i] for i in votes.topk(min(settings.k, len(middle))).indices.tolist()]
    return sorted({*range(settings.sinks), *chosen, *range(start - settings.recent, cache.length)})


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("k", "sinks", "recent"), [(5, 2, 4), (1, 0, 1), (12, 3, 7)])
def test_the_heads_vote_as_the_formula_says(count, k, sinks, recent):
    policy, cache = selector(k=k, sinks=sinks, recent=recent), cache_of(40)
    query = more(cache, count, seed=5)
    mask = causal(cache, count) if count > 1 else None
    out, keys_read = policy.attend(0, query, cache, Seen(mask), SCORING)
    places = voted(query, cache, 0.3, TokenSelect(k=k, sinks=sinks, recent=recent), 40)
    expected = attend(
        query, cache.keys[:, :, places], cache.values[:, :, places], None if mask is None else mask[:, places], SCORING
    )
    torch.testing.assert_close(out, expected)
    # Own tokens are read up to each query; a key that is only voted on is half a key.
    assert keys_read == pytest.approx(k + sinks + recent + (count + 1) / 2 + (40 - sinks - recent) / 2)


def test_a_choice_is_reused_while_queries_stay_similar():
    policy, cache = selector(k=4, sinks=1, recent=3, threshold=0.9), cache_of(40)
    query = more(cache, 1, seed=5)
    policy.attend(0, query, cache, Seen(None), SCORING)
    chosen = policy._choices[0].places.clone()
    more(cache, 1, seed=6)
    near = query + 0.01 * torch.randn(query.shape, generator=torch.Generator().manual_seed(1))
    out, keys_read = policy.attend(0, near, cache, Seen(None), SCORING)
    assert (policy.votes, policy.reuses) == (1, 1)
    # The token between the two is neither lost nor voted on.
    places = [*sorted(chosen[0].tolist()), 40, 41]
    assert len(places) == 4 + 1 + 3 + 2 == keys_read
    torch.testing.assert_close(out, attend(near, cache.keys[:, :, places], cache.values[:, :, places], None, SCORING))
    far = more(cache, 1, seed=8)
    policy.attend(0, far, cache, Seen(None), SCORING)
    assert (policy.votes, policy.reuses) == (2, 1)


def test_each_layer_has_its_own_choice():
    policy, cache = selector(k=4, sinks=1, recent=3), cache_of(40)
    query = more(cache, 1, seed=5)
    for layer in (0, 1, 0, 1):
        policy.attend(layer, query, cache, Seen(None), SCORING)
    assert (policy.votes, policy.reuses) == (2, 2)


def test_a_choice_does_not_outlive_its_size_nor_an_eviction():
    policy, cache = selector(k=3, sinks=0, recent=2, threshold=-1.0), cache_of(30)
    for turn in range(9):
        policy.attend(0, more(cache, 1, seed=turn), cache, Seen(None), SCORING)
    # Chosen at token 0, dropped when more than three tokens had followed.
    assert (policy.votes, policy.reuses) == (3, 6)
    cache.replace([1])
    policy.attend(0, more(cache, 1, seed=20), cache, Seen(None), SCORING)
    assert policy.votes == 4


def test_rejected_drafts_are_no_part_of_a_choice():
    policy, cache = selector(k=4, sinks=1, recent=3, threshold=-1.0), cache_of(40)
    query = more(cache, 4, seed=5)
    policy.attend(0, query, cache, Seen(causal(cache, 4)), SCORING)
    cache.crop(3)
    query = more(cache, 2, seed=6)
    out, _ = policy.attend(0, query, cache, Seen(causal(cache, 2)), SCORING)
    assert policy.reuses == 1
    places = [*sorted(policy._choices[0].places[0].tolist()), 40, 41, 42]
    assert max(places[:-3]) < 40
    expected = attend(query, cache.keys[:, :, places], cache.values[:, :, places], causal(cache, 2)[:, places], SCORING)
    torch.testing.assert_close(out, expected)


def test_heads_with_other_tokens_vote_by_themselves():
    policy, cache = selector(k=2, sinks=0, recent=1), cache_of(30)
    cache.keep(torch.stack((torch.arange(0, 20), torch.arange(10, 30))))
    query = more(cache, 1, seed=5)
    out, _ = policy.attend(0, query, cache, Seen(None), SCORING)
    for kv_head in range(KV_HEADS):
        keys, values = cache.keys[0, kv_head], cache.values[0, kv_head]
        heads = query[0, kv_head * 2 : kv_head * 2 + 2, 0]
        # Only the second head still holds the token before the new one, position 29.
        always = [place for place in range(20) if int(cache.positions[kv_head, place]) >= 29]
        middle = [place for place in range(20) if place not in always]
        votes = (heads @ keys[middle].T * 0.3).softmax(-1).sum(0)
        best = [middle[i] for i in votes.topk(2 + 1 - len(always)).indices.tolist()]
        places = [*always, *best, 20]
        expected = (heads @ keys[places].T * 0.3).softmax(-1) @ values[places]
        torch.testing.assert_close(out[0, kv_head * 2 : kv_head * 2 + 2, 0], expected)


def test_a_sliding_window_is_neither_read_nor_voted_on_from_outside():
    """Mistral's tiny window is 16: of 40 tokens 15 and the new one are visible."""
    policy, cache = selector(family="mistral", k=4, sinks=2, recent=3), cache_of(40)
    query = more(cache, 1, seed=5)
    mask = torch.arange(41)[None] > 40 - 16
    out, keys_read = policy.attend(0, query, cache, Seen(mask), SCORING)
    places = policy._choices[0].places[0].tolist()
    assert min(places) >= 25 and len(places) == 7
    assert keys_read == 8 + (15 - 3) / 2
    places = [*sorted(places), 40]
    torch.testing.assert_close(out, attend(query, cache.keys[:, :, places], cache.values[:, :, places], None, SCORING))


def test_heads_vote_with_the_models_own_weights():
    """A head whose sink takes nearly all has nearly no say, and a soft cap levels the votes of the others."""
    policy, cache = selector(k=3, sinks=0, recent=1), cache_of(40)
    query = more(cache, 1, seed=5)
    sinks = torch.tensor([20.0, 20.0, 0.0, -3.0])
    policy.attend(0, query, cache, Seen(None), Scoring(0.9, 1.5, sinks))
    weights = torch.zeros(HEADS, 39)
    for head in range(HEADS):
        scores = 1.5 * torch.tanh(0.9 * (cache.keys[0, head // 2, :39] @ query[0, head, 0]) / 1.5)
        weights[head] = scores.exp() / (scores.exp().sum() + sinks[head].exp())
    assert set(policy._choices[0].places[0].tolist()) == {39, *weights.sum(0).topk(3).indices.tolist()}
    plain = selector(k=3, sinks=0, recent=1)
    plain.attend(0, query, cache, Seen(None), Scoring(0.9))
    assert set(plain._choices[0].places[0].tolist()) != set(policy._choices[0].places[0].tolist())


@pytest.mark.parametrize("chunk", [None, 7])
def test_the_prompt_is_read_in_full(chunk):
    model, prompt = tiny("llama"), random_tokens(40)
    policy = TokenSelect(k=2, sinks=1, recent=2).start(Run(model, tuple(prompt), 10, Sampler(), 0))
    decoder = Decoder(model, 10, {"attention": policy})
    logits = decoder.prefill(prompt, chunk)
    assert policy.votes == 0
    torch.testing.assert_close(logits, Decoder(model).prefill(prompt, chunk))
    decoder.forward([5])
    assert policy.votes == model.layers


OTHERS = [SnapKV(keep=0.6, window=4), StreamingLLM(sinks=2, window=24), PromptLookup()]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.name)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3_moe", "gemma2", "gpt_oss"])
def test_it_reads_from_what_other_techniques_leave(other, family):
    model, prompt = tiny(family), random_tokens(20) * 3
    alone = run(model, prompt, [other], 20)
    never = run(model, prompt, [other, TokenSelect(k=1000)], 20)
    assert [step.tokens for step in never] == [step.tokens for step in alone]
    voting = run(model, prompt, [other, TokenSelect(k=2, sinks=0, recent=1)], 20)
    assert len(tokens_of(voting)) == 20
    # Even where every token votes, that is half a read and a few more.
    most = max(max(step.keys_read) for step in voting[1:])
    assert most < max(max(step.keys_kept) for step in voting) / 2 + 2 + 1 + 6


# Length, depth and seed.
NEEDLES = [(500, 0.3, 3), (900, 0.5, 5)]


@pytest.mark.bundled
@pytest.mark.parametrize("cases", [NEEDLES[:1], pytest.param(NEEDLES[1:], marks=pytest.mark.slow)], ids=["500", "900"])
def test_few_keys_find_the_needle_and_choices_are_reused(cases, bundled, monkeypatch):
    from workbench.engine import generate
    from workbench.tasks import needle, needle_found

    policies, start = [], TokenSelect.start
    monkeypatch.setattr(TokenSelect, "start", lambda self, run: policies.append(start(self, run)) or policies[-1])
    technique = TokenSelect(k=32, sinks=4, recent=16)
    for length, depth, seed in cases:
        prompt = needle(bundled.tokenizer, length, depth, seed, template=0)
        steps = list(generate(bundled, prompt.prompt, [technique], max_new_tokens=7))
        assert needle_found(bundled.decode([token for step in steps for token in step.tokens]), prompt)
        reading = [sum(step.keys_read) / len(step.keys_read) for step in steps[1:]]
        votes, reuses = policies[-1].votes, policies[-1].reuses
        print(f"{length} tokens: {max(reading):.0f} keys read at most, {votes} votes, {reuses} reuses")
        assert votes + reuses == (len(steps) - 1) * bundled.layers
        assert reuses > 0
        # A vote costs half of all keys; what is read beside it is k, sinks, recent and what came since.
        assert max(reading) < length / 2 + 32 + 4 + 16 + 7
        assert min(step.keys_read[layer] for step in steps[1:] for layer in range(bundled.layers)) < 70
