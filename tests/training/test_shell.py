"""``workbench train`` and ``python -m workbench.training``: progress, files, errors in one line, no shell libraries."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import workbench as wb
from workbench import cli
from workbench.models.tiny import tiny
from workbench.training import RECIPES, DataSettings, __main__
from workbench.training.writing import write_texts

SMALL = ["--setting", "steps=2", "--setting", "batch=2", "--setting", "length=24"]


@pytest.fixture
def text(tmp_path):
    """A file with training text of the tiny model."""
    prompts = [torch.randint(3, 96, (6,), generator=torch.Generator().manual_seed(k)).tolist() for k in range(10)]
    data = write_texts(tiny("llama"), prompts, prompts, DataSettings(new_tokens=12, length=24, sampled=0, continued=0))
    data.save(tmp_path / "text.safetensors")
    return tmp_path / "text.safetensors"


@pytest.fixture
def shell(monkeypatch):
    def load(name, dtype="float32", device=None, revision="main"):
        return dataclasses.replace(tiny("llama", dtype=getattr(torch, dtype)), name=name)

    monkeypatch.setattr(wb, "load", load, raising=False)
    monkeypatch.setattr(__main__, "load", load)
    return lambda *arguments: CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


def test_the_list_is_the_registry(shell):
    said = shell("--list")
    assert said.exit_code == 0
    for name, kind in RECIPES.items():
        assert name in said.output and kind.paper in said.output
    assert shell().output == said.output


def test_a_training_writes_artefact_card_and_curve(shell, text, tmp_path):
    out, page = tmp_path / "out", tmp_path / "curve.html"
    said = shell("draft_model", *SMALL, "--data", text, "--out", out, "--curve", page)
    assert said.exit_code == 0, said.output
    assert "held out loss" in said.output and "2 steps" in said.output
    card = json.loads((out / "draft_model.json").read_text())
    assert card["settings"]["steps"] == 2 and card["model"]["name"] == "smollm2-135m"
    assert "Training of draft_model" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_recipe"], "no training recipe named"),
        (["draft_model", "--setting", "steps=0"], "draft_model: steps="),
        (["draft_model", "--setting", "speed=9"], "no setting 'speed'"),
        (["draft_model", "--setting", "steps"], "not key=value"),
        (["draft_model", "--data", "nowhere.safetensors"], "no training text at"),
        (["draft_model"], "no tokenizer"),
    ],
)
def test_what_is_wrong_is_one_line(shell, tmp_path, arguments, said):
    result = shell(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.output and "Traceback" not in result.output


def test_it_also_runs_as_a_module(shell, text, tmp_path, capsys):
    """And a folder may be said to hold the bundled model."""
    small = ["--set", "steps=2", "--set", "batch=2", "--set", "length=24", "--dtype", "float32"]
    place = ["--model", "some/folder", "--name", "smollm2-135m", "--data", str(text), "--out", str(tmp_path / "out")]
    assert __main__.main(["draft_model", *place, *small]) == 0
    card = json.loads((tmp_path / "out" / "draft_model.json").read_text())
    assert card["model"] == {"name": "smollm2-135m", "revision": wb.models.bundled.BUNDLED["smollm2-135m"].revision}
    assert json.loads(capsys.readouterr().out)["sha256"] == card["sha256"]
    assert __main__.main(["draft_model", *place, "--set", "steps=none"]) == 2
    assert __main__.main(["data", "--set", "speed=9"]) == 2


def test_the_module_needs_neither_figures_nor_the_shell():
    code = (
        "import sys, workbench.training.__main__\n"
        "assert not {'altair', 'xarray', 'typer', 'pandas', 'gradio', 'jaxtyping'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
