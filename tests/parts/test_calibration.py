"""Text to calibrate on is none of what anything is compared on."""

import json

import pytest
import torch

from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.calibration import LENGTH, calibration_prompts, calibration_texts, told
from workbench.tasks import training_prompts


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


@pytest.mark.bundled
def test_prompts_to_answer_are_whole_and_in_the_chat_format(bundled):
    found = calibration_prompts(bundled, 6, longest=200)
    whole = [bundled.encode(bundled.chat(prompt.prompt)) for prompt in training_prompts(limit=64)]
    assert len(found) == 6 and all(ids in whole for ids in found) and max(map(len, found)) <= 200


def test_it_says_how_far_it_is(capsys):
    tick = told(3, "layer_drop", every=-1.0)
    tick(), tick()
    assert capsys.readouterr().err.splitlines() == ["layer_drop: 1 of 3 trials", "layer_drop: 2 of 3 trials"]
