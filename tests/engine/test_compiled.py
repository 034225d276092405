"""The compiled step gives the plain step's tokens, falls back where it must, and says when it could not be had."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import random_tokens, tokens_of
from torch._inductor.runtime import cache_dir_utils

from workbench.engine import compiled, generate
from workbench.engine.compiled import CompiledSteps, compiled_steps
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup, SnapKV, UnifiedLayerSkip

FOLDER = "TORCHINDUCTOR_CACHE_DIR"
PROMPT = random_tokens(20)


def written(model, techniques=(), compiled=False):
    return tokens_of(generate(model, PROMPT, techniques, max_new_tokens=24, stop_tokens=(), compiled=compiled))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_compiled_tokens_are_the_plain_ones(family):
    model = tiny(family, seed=3)
    steps = compiled_steps(model.anatomy)
    assert steps.failure == "" and steps.warm_up_seconds > 0
    assert compiled_steps(model.anatomy) is steps, "compiled once per model"
    for techniques in ((), [PromptLookup()], [SnapKV(keep=0.5, window=4)], [UnifiedLayerSkip(speedup=2.0)]):
        assert written(model, techniques, compiled=True) == written(model, techniques)


def test_layers_of_one_structure_share_one_compiled_function():
    model = tiny("llama", seed=4, layers=6)
    torch._dynamo.utils.counters.clear()
    compiled_steps(model.anatomy)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 1


def test_without_a_compiler_the_plain_steps_run_and_the_reason_is_kept(monkeypatch):
    def broken(function, **_):
        def call(*_, **__):
            raise RuntimeError("no C++ compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model = tiny("llama", seed=5)
    assert "no C++ compiler" in CompiledSteps(model.anatomy).failure
    assert written(model, compiled=True) == written(model)


def test_what_torch_compiles_is_kept_in_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    for before in (None, cache_dir_utils.default_cache_dir()):  # torch itself sets the second
        monkeypatch.setenv(FOLDER, before) if before else monkeypatch.delenv(FOLDER, raising=False)
        compiled._keep_to_ourselves()
        assert os.environ[FOLDER] == str(tmp_path / "compiled")
        assert (tmp_path / "compiled").stat().st_mode & 0o077 == 0
    monkeypatch.setenv(FOLDER, str(tmp_path / "mine"))
    compiled._keep_to_ourselves()
    assert os.environ[FOLDER] == str(tmp_path / "mine"), "one that was chosen stays"


COMPILE = """
from workbench.engine.compiled import CompiledSteps
from workbench.models.tiny import tiny
print(repr(CompiledSteps(tiny("llama", layers=2).anatomy).failure))
"""


@pytest.mark.slow
def test_nothing_is_loaded_from_the_folder_that_anybody_can_guess(tmp_path):
    (tmp_path / "tmp").mkdir()
    places = {"WORKBENCH_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    environment = {name: value for name, value in os.environ.items() if name != FOLDER} | places
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout == "''\n", done.stderr
    assert list((tmp_path / "cache" / "compiled").rglob("*.so"))
    guessable = [item for item in (tmp_path / "tmp").rglob("*") if item.is_file()]
    assert {item.suffix for item in guessable} <= {".h", ".gch", ".pch", ".i", ".lock", ""}, guessable
    assert all(not item.stat().st_mode & 0o022 for item in guessable)


def test_in_a_folder_of_others_nothing_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(0o777)
    model = tiny("llama", seed=7)
    assert "can be changed by others" in CompiledSteps(model.anatomy).failure
    assert written(model, compiled=True) == written(model)
    assert not list((tmp_path / "compiled").iterdir())


def test_headers_are_not_kept_where_the_guessable_folder_is_not_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "guessable").mkdir()
    monkeypatch.setattr(cache_dir_utils, "default_cache_dir", lambda: str(tmp_path / "guessable"))
    monkeypatch.delenv(FOLDER, raising=False)
    assert compiled._keep_to_ourselves() == {}
    (tmp_path / "guessable").chmod(0o777)
    assert compiled._keep_to_ourselves() == {"cpp_cache_precompile_headers": False}
