"""What the prompt's last queries look at stays: against the formula written out, and a needle that chance loses."""

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder, Run, Sampler, generate
from workbench.models.rotate import rotate
from workbench.models.tiny import tiny
from workbench.techniques import RandomEviction, SnapKV

# Length, depth and seed of needles that no setting was chosen on.
NEEDLES = [(350, 0.3, 11), (350, 0.7, 13), (600, 0.5, 11), (900, 0.2, 13)]

FAMILIES = ("llama", "gemma3_text", "gpt2", "gpt_neox", "mistral", "phi3", "gemma2", "gpt_oss")


class Seen:
    """Queries, keys and the sliding window of every layer of a plain prefill."""

    def __init__(self, model, prompt):
        self.layers = {}
        watch = lambda site, layer, value: site == "query_key_value" and self.layers.update({layer: value})  # noqa: E731
        Decoder(model, watch=watch).prefill(prompt)


def kept_by_formula(query, key, block, technique):
    """Positions that stay, for every KV head, written with loops from the paper's description."""
    heads, length = query.shape[1], query.shape[2]
    window, groups = technique.window, heads // key.shape[1]
    total = max(window, -(-int(1000 * technique.keep) * length // 1000))
    kept = []
    for kv_head in range(key.shape[1]):
        votes = torch.zeros(length - window, dtype=torch.float64)
        for head in range(kv_head * groups, (kv_head + 1) * groups):
            for row in range(length - window, length):
                first = 0 if block.window is None else max(0, row - block.window + 1)
                products = key[0, kv_head, first : row + 1].double() @ query[0, head, row].double() * block.scale
                cap, sinks = block.scoring.softcap, block.scoring.sinks
                products = products if cap is None else cap * (products / cap).tanh()
                beside = 0.0 if sinks is None else sinks[head].double().exp()
                weights = torch.zeros(length, dtype=torch.float64)
                weights[first : row + 1] = products.exp() / (products.exp().sum() + beside)
                votes += weights[: length - window] / groups
        half = technique.kernel // 2
        pooled = []
        for place in range(length - window):
            near = votes[max(0, place - half) : place - half + technique.kernel]
            pooled.append(float(near.max() if technique.pooling == "max" else near.mean()))
        best = sorted(range(length - window), key=lambda place: -pooled[place])[: total - window]
        kept.append((sorted(best), pooled))
    return kept


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "technique",
    [
        SnapKV(keep=0.5, window=6, kernel=1),
        SnapKV(keep=0.5, window=6, kernel=5),
        SnapKV(keep=0.4, window=3, kernel=3, pooling="max"),
        SnapKV(keep=0.5, window=1, kernel=4),
    ],
    ids=str,
)
def test_it_keeps_what_the_formula_ranks_highest(family, technique):
    model, prompt = tiny(family), random_tokens(30)
    seen = Seen(model, prompt)
    policy = technique.start(Run(model, tuple(prompt), 4, Sampler(), 0))
    decoder = Decoder(model, 4, {"evict": policy})
    decoder.prefill(prompt)
    for index, layer in enumerate(decoder.cache.layers):
        query, key, _ = seen.layers[index]
        expected = kept_by_formula(query, key, model.anatomy.blocks[index], technique)
        for head, (best, pooled) in enumerate(expected):
            held = layer.positions.expand(len(expected), -1)[head].tolist()
            assert held[-technique.window :] == list(range(30 - technique.window, 30))
            chosen = held[: -technique.window]
            assert len(chosen) == len(best)
            # Equal scores may be broken either way: the scores are compared, not the places.
            ours, theirs = ([sorted(pooled[place] for place in places)] for places in (chosen, best))
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-6)


def test_a_prompt_in_chunks_is_ranked_by_the_last_chunk():
    model, prompt = tiny("llama"), random_tokens(30)
    technique = SnapKV(keep=0.5, window=4, kernel=1)
    held = []
    for chunk in (None, 7, 10):  # the last of chunks of 7 has 2 tokens, of 10 more than the window
        policy = technique.start(Run(model, tuple(prompt), 4, Sampler(), 0))
        decoder = Decoder(model, 4, {"evict": policy})
        decoder.prefill(prompt, chunk)
        assert decoder.cache.keys_kept() == (15,) * model.layers
        held.append([layer.positions.tolist() for layer in decoder.cache.layers])
    assert held[0] == held[2]
    assert held[0] != held[1]


def test_what_stays_is_read_where_it_stood():
    """Kept keys keep their rotation and new tokens their positions in the text."""
    model, prompt = tiny("llama"), random_tokens(30)
    seen = Seen(model, prompt)
    policy = SnapKV(keep=0.3, window=2).start(Run(model, tuple(prompt), 4, Sampler(), 0))
    decoder = Decoder(model, 4, {"evict": policy})
    decoder.prefill(prompt)
    first = decoder.cache.layers[0]
    for head in range(2):
        assert torch.equal(first.keys[0, head], seen.layers[0][1][0, head, first.positions[head]])
        assert torch.equal(first.values[0, head], seen.layers[0][2][0, head, first.positions[head]])
    decoder.forward([5])
    assert first.positions[:, -1].tolist() == [30, 30]
    block = model.anatomy.blocks[0]
    with torch.inference_mode():
        x = model.anatomy.embed(torch.tensor([[5]]), torch.tensor([30]))
        _, unturned, _ = block.enter(x, model.anatomy.rope(torch.tensor([0]))["all"])
        cosine, sine = model.anatomy.rope(torch.tensor([30]))["all"]
    torch.testing.assert_close(first.keys[:, :, -1:], rotate(unturned, (cosine, sine)))


@pytest.mark.bundled
@pytest.mark.parametrize("cases", [NEEDLES[:1], pytest.param(NEEDLES, marks=pytest.mark.slow)], ids=len)
def test_it_finds_needles_that_random_eviction_loses(cases, bundled):
    from workbench.tasks import needle, needle_found

    techniques = {"all": [], "chosen": [SnapKV(keep=0.5)], "random": [RandomEviction(keep=0.5)]}
    hits = dict.fromkeys(techniques, 0)
    for length, depth, seed in cases:
        prompt = needle(bundled.tokenizer, length, depth, seed, template=0)
        for name, chosen in techniques.items():
            steps = generate(bundled, prompt.prompt, chosen, max_new_tokens=7)
            hits[name] += needle_found(bundled.decode([token for step in steps for token in step.tokens]), prompt)
    print(f"needles found of {len(cases)}: {hits}")
    assert hits["all"] == len(cases)
    assert hits["chosen"] >= hits["random"] + (3 * len(cases) + 3) // 4
