"""Influences and angles against loops over hidden states, and text that is none of what anything is compared on."""

import json
import math

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.tasks import training_prompts
from workbench.techniques.weights.layer_drop.calibration import LENGTH, Unit, angles, calibration_texts, influences

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


@pytest.mark.bundled
def test_the_texts_are_the_prompts_to_train_on(bundled):
    texts = calibration_texts(bundled, 24)
    prompts = {prompt.prompt for prompt in training_prompts()}
    ids = {json.dumps(bundled.tokenizer(prompt)["input_ids"][:LENGTH]) for prompt in prompts}
    assert len(texts) == 24 and {json.dumps(text) for text in texts} <= ids
    assert max(map(len, texts)) <= LENGTH


@pytest.mark.bundled
def test_a_text_of_ones_own_is_cut_into_pieces(bundled, tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 60, "utf-8")
    ids = bundled.tokenizer(file.read_text("utf-8"))["input_ids"]
    assert calibration_texts(bundled, 3, str(file)) == [
        ids[place : place + LENGTH] for place in range(0, 3 * LENGTH, LENGTH)
    ]
    file.write_text("x", "utf-8")
    with pytest.raises(SettingError, match="longer text"):
        calibration_texts(bundled, 3, str(file))
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SettingError, match="UTF-8"):
        calibration_texts(bundled, 3, str(file))
    with pytest.raises(SettingError, match="there is no text"):
        calibration_texts(bundled, 3, str(tmp_path / "none.txt"))


def test_without_a_tokenizer_tokens_are_drawn_once_and_for_all():
    texts = calibration_texts(tiny("llama"), 3)
    assert texts == calibration_texts(tiny("llama"), 3) and len(texts) == 3
    assert torch.tensor(texts).max() < 96
