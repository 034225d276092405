"""Chunks against a slow choice, the small cache against a masked large one, three tiers' distribution enumerated."""

import math
from copy import copy
from dataclasses import replace

import pytest
import torch
from engine.test_accept import assert_same_distribution
from helpers import random_tokens, run, tokens_of

from workbench.engine import Chance, Decoder, LayerCache, Run, Sampler
from workbench.engine.enumeration import text_distribution
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import RetrievalCacheDraft
from workbench.techniques.draft.retrieval_cache_draft import _Streaming, retrieved_cache
from workbench.techniques.draft.retrieval_cache_draft.retrieved_cache import RetrievedDecoder, chosen_entries

PROMPT = random_tokens(45)
SMALL = {"budget": 16, "chunk": 4, "refresh": 6, "model": "/2", "sinks": 2, "window": 8}


def slow_choice(query, keys, chunk, budget, scoring):
    """Entries [kv_heads][chosen] by the formula, one head, chunk and product at a time."""
    heads, held, _ = keys.shape
    chunks, groups = held // chunk, query.shape[0] // heads
    wanted = max(1, (budget - (held - chunks * chunk)) // chunk)
    if wanted >= chunks:
        return [list(range(held))] * heads
    chosen = []
    for head in range(heads):
        votes = [0.0] * chunks
        for member in range(groups):
            asks, scale = query[head * groups + member], scoring.scale
            products = [
                float(sum(keys[head, c * chunk : (c + 1) * chunk].mean(0) * asks)) * scale for c in range(chunks)
            ]
            cap = scoring.softcap
            products = products if cap is None else [cap * math.tanh(product / cap) for product in products]
            total = sum(map(math.exp, products))
            votes = [vote + math.exp(product) / total for vote, product in zip(votes, products)]
        best = sorted({0, *sorted(range(1, chunks), key=lambda c: -votes[c])[: wanted - 1]})
        entries = [c * chunk + place for c in best for place in range(chunk)]
        chosen.append([*entries, *range(chunks * chunk, held)])
    return chosen


@pytest.mark.parametrize(("held", "chunk", "budget"), [(21, 4, 13), (24, 4, 8), (9, 2, 100), (30, 7, 20)])
def test_chunks_are_those_of_the_formula(held, chunk, budget):
    generator = torch.Generator().manual_seed(held)
    cache = LayerCache(0)
    keys, query = torch.randn(1, 2, held, 8, generator=generator), torch.randn(4, 8, generator=generator)
    cache.append(keys, keys, torch.arange(held))
    block = tiny("llama").anatomy.blocks[0]
    assert chosen_entries(query, cache, chunk, budget, block).tolist() == slow_choice(
        query, keys[0], chunk, budget, block.scoring
    )


class Masked:
    """Attention over the whole cache in which only what :func:`slow_choice` chooses is seen; plain softmax."""

    def __init__(self, blocks, held, chunk, budget):
        self._blocks, self._held, self._chunk, self._budget = blocks, held, chunk, budget

    def attend(self, layer, query, cache, mask, scoring):
        count, keys, values = query.shape[2], cache.keys[0], cache.values[0]
        if cache.length == self._held:
            return None
        heads = keys.shape[0]
        window = self._blocks[layer].window
        if window is None:
            chosen = slow_choice(query[0, :, 0], keys[:, : self._held], self._chunk, self._budget, scoring)
        else:
            chosen = [list(range(self._held))] * heads
        out = torch.zeros_like(query)
        for head in range(query.shape[1]):
            own = head * heads // query.shape[1]
            for row in range(count):
                seen = [*chosen[own], *range(self._held, self._held + row + 1)]
                if window is not None:
                    seen = [place for place in seen if self._held + row - place < window]
                weights = scoring.scores(keys[own, seen] @ query[0, head, row]).softmax(0)
                out[0, head, row] = weights @ values[own, seen]
        return out, 0.0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mixtral", "gemma2"])
def test_the_small_cache_gives_what_a_mask_over_the_large_one_gives(family):
    model = tiny(family)
    full, masked = Decoder(model), Decoder(model)
    full.prefill(PROMPT)
    masked.prefill(PROMPT)
    masked.attend.policy = Masked(model.anatomy.blocks, len(PROMPT), 4, 17)
    small = RetrievedDecoder(model, 4, 17, 8)
    small.retrieve(full.cache)
    torch.testing.assert_close(small.forward([7, 8, 9]), masked.forward([7, 8, 9], logits="all"), rtol=1e-4, atol=1e-4)
    for layer, block in zip(small.decoder.cache.layers, model.anatomy.blocks):
        assert layer.length == (17 if block.window is None else block.window) + 3


def test_verified_entries_replace_the_drafters_own():
    model = tiny("llama")
    full = Decoder(model)
    full.prefill(PROMPT)
    small = RetrievedDecoder(model, 4, 17, 2)
    small.retrieve(full.cache)
    small.forward([7, 8, 9])
    small.keep(3, 2)
    full.forward([7, 5, 6, 4])
    assert small.follow(full.cache) and small.decoder.cache.length == full.cache.length
    for own, layer in zip(small.decoder.cache.layers, full.cache.layers):
        assert torch.equal(own.keys[:, :, -4:], layer.keys[:, :, -4:])
        assert own.length == 17 + 4
        assert own.positions[:, -4:].tolist() == [[45, 46, 47, 48]] * 2
    full.cache.layers[0].keep(torch.arange(10))
    assert not small.follow(full.cache)


@pytest.mark.parametrize("model", ["none", "/2"])
def test_with_room_for_everything_the_middle_tier_is_always_right(model):
    technique = RetrievalCacheDraft(draft=4, budget=200, chunk=4, model=model, window=8)
    steps = run(tiny("llama"), PROMPT, [technique], 31)
    assert len(steps) == 1 + 30 / 5
    assert all(step.accepted == step.drafted for step in steps)


def test_chunks_are_retrieved_anew_after_so_many_tokens():
    model = tiny("llama")
    counts = []
    for refresh in (4, 100):
        technique = RetrievalCacheDraft(**{**SMALL, "model": "none", "refresh": refresh}, draft=2)
        policy = technique.start(Run(model, tuple(PROMPT), 24, Sampler(chance=Chance()), 0))
        started = {"start": lambda self, run, policy=policy: policy}
        run(model, PROMPT, [type("Started", (RetrievalCacheDraft,), started)(draft=2)], 24)
        counts.append(policy.middle.retrievals)
    assert counts[0] >= 4 and counts[1] == 1


@pytest.mark.parametrize("settings", [{"temperature": 1.0, "top_k": 2}, {"temperature": 1.4, "top_k": 2, "top_p": 0.8}])
def test_three_tiers_keep_the_distribution(settings):
    technique = RetrievalCacheDraft(draft=2, guess=1, **SMALL)
    found = text_distribution(tiny("llama"), PROMPT, [technique], 4, **settings)
    assert_same_distribution(found, text_distribution(tiny("llama"), PROMPT, [], 4, **settings))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(SettingError, match="budget"):
        run_of = Run(tiny("llama"), tuple(PROMPT), 8, Sampler(), 0)
        RetrievalCacheDraft(budget=8, chunk=8).start(run_of)
    short = replace(tiny("llama"), anatomy=copy(tiny("llama").anatomy))
    short.anatomy.positions = 100
    with pytest.raises(SettingError, match="window"):
        _Streaming(short, RetrievalCacheDraft(window=60), Run(tiny("llama"), tuple(PROMPT * 5), 8, Sampler(), 0))


def newest_entries(query, cache, chunk, budget, block):
    """As a streaming cache chooses: the first chunk and the newest entries."""
    held = cache.length
    kept = [*range(chunk), *range(held - budget + chunk, held)]
    return torch.tensor(kept).expand(cache.keys.shape[1], -1)


@pytest.mark.slow
@pytest.mark.bundled
def test_retrieved_chunks_draft_better_than_the_newest_on_real_text(bundled, monkeypatch):
    """The paper's reason to retrieve: what is asked for stands far back."""
    from workbench.tasks.needle import haystack

    passage = (
        "The committee met on Tuesday to review the annual report. It found that spending had risen by four percent, "
        "mostly on repairs to the harbour wall, and asked the treasurer for a second estimate before the winter."
    )
    between = "\n".join(haystack()[:16])
    message = f"Report: {passage}\n\n{between}\n\nRepeat the report from its beginning, word for word."
    prompt = bundled.chat(message) + f"Report: {passage[:58]}"
    technique = RetrievalCacheDraft(draft=4, budget=96, chunk=8, refresh=4, model="none")
    retrieved = list(run(bundled, prompt, [technique], 32))
    monkeypatch.setattr(retrieved_cache, "chosen_entries", newest_entries)
    newest = list(run(bundled, prompt, [technique], 32))
    assert tokens_of(retrieved) == tokens_of(newest)
    rates = [sum(s.accepted for s in steps) / sum(s.drafted for s in steps) for steps in (retrieved, newest)]
    assert rates[0] > 1.5 * rates[1], rates
