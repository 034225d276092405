"""Training text of a model with a tokenizer: written once, kept by its settings, cancelled between batches."""

import dataclasses
import threading

import pytest
import torch

from workbench.errors import CorruptModel, SettingError
from workbench.models.tiny import tiny
from workbench.training import DataSettings, TrainingData, training_data
from workbench.training.batches import Batches

SMALL = DataSettings(prompts=12, sampled=1, continued=1, new_tokens=6, length=40)


class Letters:
    """A tokenizer of one token to a letter."""

    chat_template = None

    def __call__(self, text, **_):
        return {"input_ids": [3 + ord(letter) % 90 for letter in text]}


@pytest.fixture
def model(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    return dataclasses.replace(tiny("llama"), tokenizer=Letters())


def test_it_is_written_once_for_its_settings(model, monkeypatch, tmp_path):
    said = []
    data = training_data(model, SMALL, lambda *progress: said.append(progress))
    assert said[-1][0] == said[-1][1] == data.facts["texts"] == 12 * 3
    assert data.facts["model"] == model.name and data.facts["settings"]["prompts"] == 12
    assert int(data.held_out.sum()) == 3, "one prompt of twelve with its three texts"
    with monkeypatch.context() as patch:
        patch.setattr(model.hf, "generate", lambda *_, **__: pytest.fail("it was written before"))
        assert torch.equal(training_data(model, SMALL).tokens, data.tokens)
        with pytest.raises(pytest.fail.Exception):
            training_data(model, dataclasses.replace(SMALL, seed=1))
    assert len(list((tmp_path / "training").iterdir())) == 1


def test_the_same_seed_writes_the_same_text(model, tmp_path):
    one = training_data(model, SMALL)
    next((tmp_path / "training").iterdir()).unlink()
    assert torch.equal(training_data(model, SMALL).tokens, one.tokens)


def test_writing_can_be_cancelled_and_needs_a_tokenizer(model):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(KeyboardInterrupt):
        training_data(model, SMALL, cancel=cancel)
    with pytest.raises(SettingError, match="no tokenizer"):
        training_data(tiny("llama"))


def test_a_damaged_or_foreign_file_is_refused(model, tmp_path):
    file = tmp_path / "text.safetensors"
    training_data(model, SMALL).save(file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CorruptModel):
        TrainingData.read(file)


def test_batches_hold_every_text_once_a_turn_and_keep_the_end_of_long_ones(model):
    data = training_data(model, SMALL)
    batches = Batches(data, 4, 20, 0, torch.device("cpu"))
    seen = []
    for step in range(9):
        tokens, answer = batches(step)
        assert tokens.shape == answer.shape and tokens.shape[1] <= 20
        assert bool(answer.any(1).all()), "a text without its answer teaches nothing"
        seen += [tuple(row[mask].tolist()) for row, mask in zip(tokens, answer)]
    said = [tuple(row[mask].tolist()) for row, mask in zip(data.tokens.long(), data.answer)]
    assert sorted(seen) == sorted(said)
    again = Batches(data, 4, 20, 0, torch.device("cpu"))
    assert torch.equal(again(13)[0], batches(13)[0]), "a step's batch does not depend on those before it"
