"""The control: the same budget as what it controls, chance decides the rest, and the seed decides chance."""

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder, Run, Sampler
from workbench.models.tiny import tiny
from workbench.techniques import RandomEviction, SnapKV

LENGTH = 40


def cache_after(technique, seed=0, family="llama"):
    model, prompt = tiny(family), random_tokens(LENGTH)
    policy = technique.start(Run(model, tuple(prompt), 4, Sampler(), seed))
    decoder = Decoder(model, 4, {"evict": policy})
    decoder.prefill(prompt)
    return decoder.cache


def kept(technique, seed=0):
    """Positions kept, [layers, kv_heads, kept]."""
    return torch.stack([layer.positions for layer in cache_after(technique, seed).layers])


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("window", [1, 8, 64])
def test_the_budget_is_that_of_a_chosen_eviction(keep, window):
    random = cache_after(RandomEviction(keep=keep, window=window))
    chosen = cache_after(SnapKV(keep=keep, window=window))
    assert (random.keys_kept(), random.bytes) == (chosen.keys_kept(), chosen.bytes)


def test_sinks_and_window_always_stay():
    for seed in range(20):
        held = kept(RandomEviction(keep=0.3, window=5, sinks=3), seed)
        assert held.shape == (4, 2, 12)
        assert torch.equal(held[..., :3], torch.arange(3).expand(4, 2, 3))
        assert torch.equal(held[..., -5:], torch.arange(LENGTH - 5, LENGTH).expand(4, 2, 5))


def test_a_budget_of_fewer_than_the_sinks_keeps_no_more_for_them():
    assert kept(RandomEviction(keep=0.1, window=2, sinks=8)).shape == (4, 2, 4)


def test_every_key_between_stays_equally_often():
    counts = torch.zeros(LENGTH)
    draws = 150
    for seed in range(draws):
        held = kept(RandomEviction(keep=0.5, window=4, sinks=2), seed)
        counts += torch.bincount(held.flatten(), minlength=LENGTH)
    share = counts / (draws * 4 * 2)
    middle = share[2:-4]
    assert torch.equal(share[:2], torch.ones(2)) and torch.equal(share[-4:], torch.ones(4))
    # 14 of 34; the standard deviation of a share of 1,200 draws is 0.014, and the largest of 34 stays within five.
    assert middle.sub(14 / 34).abs().max() < 5 * 0.0143


def test_seed_layer_and_head_draw_differently():
    technique = RandomEviction(keep=0.5, window=4)
    first = kept(technique, seed=1)
    assert torch.equal(first, kept(technique, seed=1))
    assert not torch.equal(first, kept(technique, seed=2))
    draws = {tuple(row) for row in first.flatten(0, 1).tolist()}
    assert len(draws) == 8
