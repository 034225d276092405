"""Absurd arguments of a run are each refused in one line, before anything is computed; NaN from a technique ends it."""

import math

import numpy as np
import pytest
import torch

from workbench import load, teacher_force
from workbench.engine import Chance, Sampler, generate
from workbench.engine import loop as loop_module
from workbench.engine.arguments import MOST_SEED
from workbench.errors import NumericalError, PromptError, SettingError, WorkbenchError
from workbench.models.device import device_named
from workbench.models.tiny import tiny
from workbench.settings import settings
from workbench.studies.compare import compare
from workbench.techniques import DraftModel, Technique

PROMPT = [3, 4, 5]
NAN, INF, HUGE = math.nan, math.inf, 2**70
ABSURD = [
    *(("temperature", value) for value in (1e-40, 1e-300, 5e-324, 1e-7, NAN, INF, -1, 101, "hot", None, 10**400)),
    *(("seed", value) for value in (-1, MOST_SEED + 1, 2**64, HUGE, 1.5, "x", None, NAN)),
    *(("top_p", value) for value in (NAN, INF, 0, -1, 2, "x", None)),
    *(("top_k", value) for value in (NAN, INF, -1, 1.5, "x", None)),
    *(("max_new_tokens", value) for value in (NAN, INF, HUGE, 0, -1, 1.5, "9", None, 10**9)),
    *(("min_new_tokens", value) for value in (NAN, -1, 1.5, HUGE, "x", None)),
    *(("prefill_chunk", value) for value in (NAN, 0, -1, 1.5, "x", INF)),
    *(("stop_tokens", value) for value in ([NAN], ["x"], [1.5], 5, "abc", [None])),
]
ALONE = [
    *(("logprobs", value) for value in (NAN, -1, 1.5, "x", None)),
    *(("context_tokens", value) for value in (NAN, -1, 0, 3, 1.5, "x", HUGE)),
]


def refused(call, name):
    with pytest.raises((SettingError, PromptError)) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert name in str(error.value) or "positions" in str(error.value)


@pytest.fixture
def nothing_runs(monkeypatch):
    def ran(*arguments):
        raise AssertionError("something was computed")

    monkeypatch.setattr(loop_module.Loop, "_turn", ran)


@pytest.mark.parametrize(("name", "value"), ABSURD + ALONE)
def test_a_run_refuses_it_before_anything_is_computed(name, value, nothing_runs):
    refused(lambda: generate(tiny("llama"), PROMPT, **{"max_new_tokens": 4, name: value}), name)


@pytest.mark.parametrize(("name", "value"), [*ABSURD, ("repeats", 0), ("repeats", 1.5), ("repeats", NAN)])
def test_a_comparison_refuses_it_too(name, value, nothing_runs):
    refused(lambda: compare(tiny("llama"), [PROMPT], {}, **{"max_new_tokens": 4, "hardware": (), name: value}), name)


def test_whole_numbers_of_other_libraries_are_whole_numbers():
    options = {"max_new_tokens": np.int64(4), "seed": np.int32(3), "top_k": torch.tensor(5), "temperature": 1}
    assert sum(len(step.tokens) for step in generate(tiny("llama"), PROMPT, stop_tokens=np.array([2]), **options)) <= 4


def test_the_coldest_temperature_is_greedy_sampling():
    options = {"max_new_tokens": 8, "stop_tokens": ()}
    cold, greedy = (
        [token for step in generate(tiny("llama"), PROMPT, temperature=each, **options) for token in step.tokens]
        for each in (1e-6, 0)
    )
    assert cold == greedy
    distribution = Sampler(1e-6).distribution(torch.tensor([1e30, -1e30, 0.0]))
    assert distribution.tolist() == [1, 0, 0]


def test_the_largest_seed_can_be_forked():
    assert Chance(MOST_SEED).fork(0x5EED).uniform() != Chance(MOST_SEED).uniform()


@pytest.mark.parametrize("name", ["gpu", "tpu", "cuda:99", "meta", "", "a b", "cpu:x"])
def test_a_device_that_is_not_here_is_said_before_the_model_is_fetched(name):
    with pytest.raises(SettingError, match="there is no device") as error:
        device_named(name)
    assert "cpu" in str(error.value) and "\n" not in str(error.value)
    if name:
        with pytest.raises(SettingError, match="there is no device"):
            load("/no/such/folder", device=name)


@settings
class Spoiling(Technique):
    """Puts a number where no number should be, into all logits or into one."""

    number: str = "nan"
    everywhere: bool = True

    name = "spoiling"
    slots = ("logits",)
    exact = False
    paper = "None, made up for this test, 2026"

    def start(self, run):
        return self

    def adjust(self, tokens, logits):
        logits = logits.clone()
        logits[slice(None) if self.everywhere else 5] = float(self.number)
        return logits

    @classmethod
    def neutral(cls):
        return cls(number="0.0", everywhere=False)


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("more", [[], [DraftModel(model="/2")]])
def test_nan_from_a_technique_ends_the_run_and_names_it(number, everywhere, temperature, more):
    with pytest.raises(NumericalError, match="spoiling made NaN or infinite logits"):
        list(generate(tiny("llama"), PROMPT, [Spoiling(number, everywhere), *more], 4, temperature=temperature))


def test_a_token_that_is_ruled_out_ends_nothing():
    assert list(generate(tiny("llama"), PROMPT, [Spoiling("-inf", False)], 4))


def test_it_ends_a_forced_text_too():
    with pytest.raises(NumericalError, match="spoiling"):
        list(teacher_force(tiny("llama"), PROMPT, [7, 8, 9], [Spoiling()]))


def test_in_a_comparison_the_run_is_marked_failed():
    study = compare(tiny("llama"), [PROMPT], {"bad": [Spoiling()]}, 4, 1, hardware=())
    assert "spoiling made NaN" in study.runs[1]["failed"] and study.runs[0]["failed"] is None


def test_every_refusal_is_one_of_the_librarys_own():
    for name, value in ABSURD:
        with pytest.raises(WorkbenchError):
            generate(tiny("llama"), PROMPT, **{"max_new_tokens": 4, name: value})
