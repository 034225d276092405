"""Training text of a model with a tokenizer: written once, kept by its settings, cancelled between batches."""

import dataclasses
import re
import threading

import pytest
import torch

from workbench.errors import CorruptModel, SettingError
from workbench.models.tiny import tiny
from workbench.tasks import load_prompts, shared_pages, training_prompts
from workbench.training import DataSettings, TrainingData, evaluation_data, training_data
from workbench.training.batches import Batches
from workbench.training.writing import ask, hold_out, write_texts

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


def test_a_page_is_on_one_side_of_the_split():
    """Of the project's prompts as they are split by default; by prompt, half of those held out shared a page."""
    prompts = training_prompts()
    groups = shared_pages(prompts)
    chosen = hold_out(groups, 0.1, torch.Generator().manual_seed(0)).tolist()
    assert sum(chosen) == 61 and len({p.task for p, held_out in zip(prompts, chosen) if held_out}) >= 6

    def pages(side):
        sources = [p.metadata["source"] for p, held_out in zip(prompts, chosen) if held_out == side]
        parts = {part.strip().split(":")[0] for source in sources for part in source.split(";")}
        return parts - {"written for this project"}

    def wordings(side):
        maths = [p for p, held_out in zip(prompts, chosen) if held_out == side and p.task == "mathematics"]
        return {re.sub(r"\d+|\b[A-Z]\w+", "", p.prompt).split(".")[0] for p in maths}

    assert pages(True) and not pages(True) & pages(False)
    assert wordings(True) and not wordings(True) & wordings(False)


def test_whole_groups_are_held_out_as_far_as_they_fit():
    groups = [0] * 5 + [1, 1, 2, 3, 3, 3, 4]
    for seed in range(8):
        chosen = hold_out(groups, 0.25, torch.Generator().manual_seed(seed))
        assert 1 <= int(chosen.sum()) <= 3
        sides = {group: {bool(c) for g, c in zip(groups, chosen) if g == group} for group in groups}
        assert all(len(side) == 1 for side in sides.values()) and sides[0] == {False}


def test_texts_of_a_group_are_held_out_together():
    prompts = [[5 + place] * 4 for place in range(8)]
    groups = [0, 1, 0, 1, 2, 2, 3, 3]
    settings = DataSettings(new_tokens=4, length=20, sampled=1, continued=0, held_out=0.3)
    data = write_texts(tiny("llama"), prompts, prompts, settings, groups=groups)
    held_out = {groups[int(row[0]) - 5] for row in data.tokens[data.held_out]}
    learned = {groups[int(row[0]) - 5] for row in data.tokens[~data.held_out]}
    assert len(held_out) == 1 and not held_out & learned


def test_a_model_asks_itself_questions_where_its_template_lets_the_user_speak(model):
    class Speaking(Letters):
        chat_template = "some"

        def apply_chat_template(self, messages, **_):
            return f"U:{messages[0]['content']}\nA:"

    before, after = [3 + ord(letter) % 90 for letter in "U:"], [3 + ord(letter) % 90 for letter in "\nA:"]
    speaking = dataclasses.replace(model, tokenizer=Speaking())
    settings = DataSettings(prompts=0, asked=6, sampled=0, continued=0, new_tokens=6, length=90)
    asked = ask(speaking, settings)
    assert 2 <= len(asked) <= 6 and len({tuple(question) for _, question in asked}) == len(asked)
    for whole, question in asked:
        assert whole == [*before, *question, *after] and 1 <= len(question) <= 64
        assert not set(question) & set(model.stop_tokens)
    assert ask(speaking, settings) == asked and ask(model, settings)[0][0][0] in model.stop_tokens
    data = training_data(speaking, settings)
    assert data.facts["prompts"] == len(asked) and "asked itself" in data.facts["sources"]
    assert "training_prompts" not in data.facts["sources"]


def test_the_same_seed_writes_the_same_text(model, tmp_path):
    one = training_data(model, SMALL)
    next((tmp_path / "training").iterdir()).unlink()
    assert torch.equal(training_data(model, SMALL).tokens, one.tokens)


def test_parts_are_scored_on_the_prompts_that_are_compared_on(model):
    settings = DataSettings(new_tokens=4, length=30, sampled=1, continued=0)
    data = evaluation_data(model, every=40, settings=settings)
    assert len(data.tokens) == 2 * len(load_prompts("all")[::40]) and "load_prompts" in data.facts["sources"]


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
