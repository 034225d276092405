"""The budget that all evictions after the prompt share."""

import math

import pytest
import torch

from workbench.engine import Decoder
from workbench.models.tiny import tiny
from workbench.techniques.evict._prompt_eviction import PromptEviction


class Even(PromptEviction):
    """Prefers entries with even places, differently for every head."""

    def scores(self, layer, query, cache, earlier):
        self.seen = query.shape, earlier
        heads = torch.arange(cache.keys.shape[1])[:, None]
        return ((torch.arange(earlier) + heads) % 2 == 0).float() + torch.arange(earlier) / 1000


@pytest.mark.parametrize(
    ("keep", "window", "length", "kept"),
    [
        (0.5, 4, 20, 10),
        (0.5, 4, 21, 11),  # rounded up
        (0.1, 6, 20, 6),  # the window alone exceeds the share
        (0.5, 40, 20, 20),  # the window holds the whole prompt
        (1.0, 4, 20, 20),
        (0.99, 1, 20, 20),
        (0.01, 1, 1, 1),
    ],
)
def test_the_budget_includes_the_window(keep, window, length, kept):
    policy = Even(keep, window)
    decoder = Decoder(tiny("llama"), 8, {"evict": policy})
    decoder.prefill(list(range(3, 3 + length)))
    assert decoder.cache.keys_kept() == (kept,) * 4
    for layer in decoder.cache.layers:
        assert layer.contiguous is (kept == length)
        newest = layer.positions[:, -min(window, kept) :]
        assert torch.equal(newest, torch.arange(length - min(window, kept), length).expand_as(newest))


def test_every_head_keeps_its_own_best():
    policy = Even(0.5, 2)
    decoder = Decoder(tiny("llama"), 8, {"evict": policy})
    decoder.prefill(list(range(3, 23)))
    assert policy.seen == ((1, 4, 20, 8), 18)
    best = [[2, 4, 6, 8, 10, 12, 14, 16, 18, 19], [3, 5, 7, 9, 11, 13, 15, 17, 18, 19]]
    assert decoder.cache.layers[3].positions.tolist() == best


def test_full_caches_of_all_layers_never_stand_together():
    length, keep = 64, 0.25
    decoder = Decoder(tiny("llama"), 0, {"evict": Even(keep, 2)})
    most = 0

    class Watching(Even):
        def prefilled(self, layer, query, cache):
            nonlocal most
            most = max(most, decoder.cache.bytes)
            super().prefilled(layer, query, cache)

    decoder.cache_policy = Watching(keep, 2)
    decoder.prefill(list(range(3, 3 + length)))
    full = 2 * 2 * 8 * 4 * length
    assert most == full + 3 * math.ceil(keep * length) * full // length
    assert decoder.cache.bytes == 4 * full * keep
