"""Decayed sums, the objective and its best place, against loops over rounds."""

import numpy as np
import pytest

from workbench.techniques.draft.dynamic_exit_layer.shadows import Shadows

LAYERS, BELIEVED, DECAY, DEPTH, HEAD, MOST = [2, 5, 9], [0.1, 0.4, 0.8], 0.9, 12, 1.5, 6


def rounds(seed=0, count=9, drawn=False):
    chance = np.random.default_rng(seed)
    for _ in range(count):
        tokens = int(chance.integers(1, 5))
        agreed = chance.random((3, tokens))
        yield agreed if drawn else (agreed < [[0.2], [0.6], [0.9]]).astype(float), chance.random((3, tokens))


@pytest.mark.parametrize("drawn", [False, True])
def test_acceptance_and_thresholds_are_means_in_which_old_rounds_weigh_less(drawn):
    shadows, seen = Shadows(LAYERS, BELIEVED, DECAY, DEPTH, HEAD, MOST), []
    assert shadows.acceptance.tolist() == BELIEVED and not shadows.thresholds.any()
    for given in rounds(drawn=drawn):
        shadows.learn(*given)
        seen.append(given)
    for place in range(3):
        accepted, tokens = BELIEVED[place] * DECAY ** len(seen), DECAY ** len(seen)
        sums = {"right": [0.0, 0.0], "wrong": [0.0, 0.0]}
        for age, (agreed, confidence) in enumerate(reversed(seen)):
            for one, sure in zip(agreed[place], confidence[place], strict=True):
                weight = DECAY**age
                accepted, tokens = accepted + weight * one, tokens + weight
                for name, part in (("right", one), ("wrong", 1 - one)):
                    sums[name][0] += weight * part * sure
                    sums[name][1] += weight * part
        assert shadows.acceptance[place] == pytest.approx(accepted / tokens)
        halfway = sum(sure / count for sure, count in sums.values()) / 2
        assert shadows.thresholds[place] == pytest.approx(halfway)


def test_the_choice_has_the_most_tokens_for_a_layer():
    for seed in range(8):
        shadows = Shadows(LAYERS, BELIEVED, DECAY, DEPTH, HEAD, MOST)
        for given in rounds(seed):
            shadows.learn(*given)
        worth = {}
        for place, layer in enumerate(LAYERS):
            a = shadows.acceptance[place]
            for length in range(MOST + 1):
                worth[place, length] = (1 - a ** (length + 1)) / (1 - a) / (length * (layer + HEAD) + DEPTH + HEAD)
        found = {(p, d): shadows.tokens_per_layer()[p, d] for p, d in worth}
        assert found == pytest.approx(worth)
        assert shadows.choose() == max(worth, key=worth.get)


def test_nothing_is_drafted_where_no_exit_pays_and_all_where_one_is_always_right():
    never, always = (Shadows(LAYERS, [rate] * 3, DECAY, DEPTH, 0.0, MOST) for rate in (0.05, 1.0))
    assert never.choose()[1] == 0
    assert always.choose() == (0, MOST)
