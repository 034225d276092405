"""Influences and angles against loops over hidden states."""

import math

import pytest
from helpers import random_tokens

from workbench.engine import Decoder
from workbench.models.tiny import tiny
from workbench.techniques.weights.layer_drop.calibration import Unit, angles, influences

TEXTS = [random_tokens(9), random_tokens(14, seed=2)]


def seen(model, text):
    sites = {}
    Decoder(model, watch=lambda site, layer, value: sites.update({(site, layer): value})).prefill(text)
    streams = [sites["embedding", -1][0], *(sites["residual", layer][0] for layer in range(model.layers))]
    return streams, sites


def turned(one, other):
    return 1 - float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox", "mixtral"])
def test_influence_is_one_less_the_cosine_of_what_goes_in_and_comes_out(family):
    model = tiny(family)
    sums, tokens = {}, 0
    for text in TEXTS:
        streams, sites = seen(model, text)
        tokens += len(text)
        for layer, block in enumerate(model.anatomy.blocks):
            attention, mlp = (sites[site, layer][0] for site in ("attention_output", "mlp_output"))
            before = streams[layer]
            middle = before if block.parallel else before + attention
            pairs = {"block": (before, streams[layer + 1]), "attention": (before, before + attention),
                     "mlp": (middle, middle + mlp)}  # fmt: skip
            for part, rows in pairs.items():
                unit = Unit(layer, part)
                sums[unit] = sums.get(unit, 0.0) + sum(turned(*pair) for pair in zip(*rows))
    for kind, parts in (("block", {"block"}), ("attention", {"attention"}), ("sublayer", {"attention", "mlp"})):
        expected = {unit: total / tokens for unit, total in sums.items() if unit.part in parts}
        assert influences(model, TEXTS, kind) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_angles_are_between_the_last_tokens_streams(count):
    model = tiny("llama")
    expected = []
    for layer in range(model.layers - count + 1):
        streams = [seen(model, text)[0] for text in TEXTS]
        turns = [math.acos(1 - turned(each[layer][-1], each[layer + count][-1])) / math.pi for each in streams]
        expected.append(sum(turns) / len(turns))
    assert angles(model, TEXTS, count) == pytest.approx(expected, abs=1e-4)
