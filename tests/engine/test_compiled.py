"""The compiled step gives the plain step's tokens, falls back where it must, and says when it could not be had."""

import pytest
import torch
from helpers import random_tokens, tokens_of

from workbench.engine import generate
from workbench.engine.compiled import CompiledSteps, compiled_steps
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup, SnapKV, UnifiedLayerSkip

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
