"""What a second model's name may be: a cut, a folder by any path, a cut of a folder; and what it may not."""

import dataclasses
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workbench.engine import Run, Sampler
from workbench.errors import SettingError
from workbench.models import fingerprint
from workbench.models.load import load
from workbench.models.second_model import is_cut, second_model
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import build, describe, parse
from workbench.techniques import DraftModel, EntropyAdaptive

NAMING = [
    (name, setting)
    for name, kind in TECHNIQUES.items()
    for setting, field in describe(kind).items()
    if field.get("outside") == "model"
]


def write(folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    tiny("qwen3", seed=seed).hf.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "models" / "small")


@pytest.fixture
def main(folder):
    return load(str(folder), device="cpu")


@pytest.mark.parametrize("technique", [DraftModel, EntropyAdaptive])
@pytest.mark.parametrize("cut", ["", "/3"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_is_a_model_by_any_path(technique, cut, relative, main, folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    path = str(folder.relative_to(folder.parent.parent)) if relative else str(folder)
    setting = "model" if technique is DraftModel else "small"
    (found,) = parse(f"{technique.name}:{setting}={path}{cut}", TECHNIQUES)
    policy = found.start(Run(main, (3, 4, 5), 8, Sampler(), 0))
    other = policy.models[1] if technique is EntropyAdaptive else policy._drafter.model
    assert other.name == path + cut and other.layers == (3 if cut else 4)


@pytest.mark.parametrize(("name", "setting"), NAMING)
def test_every_technique_takes_a_folder(name, setting, main, folder):
    values = {setting: str(folder)} | ({"weights": "untrained"} if name == "candidate_length" else {})
    assert build(TECHNIQUES[name], values).start(Run(main, (3, 4, 5), 8, Sampler(), 0)) is not None


@pytest.mark.parametrize("name", ["/half", "/nan", "/inf", "/1e5", "/-3", "/no/such/folder", "/²"])
def test_what_is_neither_a_cut_nor_a_folder_is_said_to_be_neither(name, main):
    with pytest.raises(SettingError, match=r"cut|share|folder"):
        second_model(main, name)


@pytest.mark.parametrize(("name", "cut"), [("/2", True), ("/0.5", True), ("/.5", True), ("/2/", False), ("x/2", False)])
def test_a_cut_is_told_by_its_form(name, cut):
    assert is_cut(name) is cut


def test_a_folder_can_be_cut_where_it_is_loaded(folder):
    assert load(f"{folder}/2", device="cpu").layers == 2
    with pytest.raises(SettingError, match="2 … 4 layers, not 9"):
        load(f"{folder}/9", device="cpu")


def test_changed_files_are_loaded_again(main, folder):
    before = second_model(main, str(folder))
    assert second_model(main, str(folder)) is before
    write(folder, seed=5)
    after = second_model(main, str(folder))
    assert after is not before and fingerprint.of_model(after) != fingerprint.of_model(before)


def test_a_fingerprint_is_of_content(folder, tmp_path):
    other = write(tmp_path / "elsewhere")
    (other / "README.md").write_text("nothing that matters")
    assert fingerprint.of_path(folder) == fingerprint.of_path(other)
    one, two = load(str(folder), device="cpu"), load(str(other), device="cpu")
    assert fingerprint.of_model(one) == fingerprint.of_model(two) != fingerprint.of_model(tiny("qwen3"))
    weights = load_file(other / "model.safetensors")
    name = min(weights)
    weights[name].view(-1)[0] += 1e-3
    about = (other / "model.safetensors").stat()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    os.utime(other / "model.safetensors", ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (other / "model.safetensors").stat().st_size == about.st_size
    assert fingerprint.of_path(folder) != fingerprint.of_path(other)
    assert fingerprint.of_model(load(str(other), device="cpu")) != fingerprint.of_model(one)


def test_weights_changed_in_memory_are_seen_once_forgotten(folder):
    model = load(str(folder), device="cpu")
    before = fingerprint.of_model(model)
    with torch.no_grad():
        model.hf.lm_head.weight[0, 0] += 1
    assert fingerprint.of_model(model) == before
    fingerprint.forget(model)
    assert fingerprint.of_model(model) != before


def test_tokenizer_and_ends_are_part_of_it(folder):
    model = load(str(folder), device="cpu")
    before = fingerprint.of_model(model)
    assert fingerprint.of_model(dataclasses.replace(model, tokenizer=None)) != before
    assert fingerprint.of_model(model.shallow(2)) == before
    model.hf.generation_config.eos_token_id = 9
    fingerprint.forget(model)
    assert fingerprint.of_model(model) != before
