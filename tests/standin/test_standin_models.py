"""Models of every family are loaded, proven and run on the stand-in; so are probes, a study and the page's race."""

import copy
import threading

import numpy as np
import pytest
import torch
from helpers import random_tokens, tokens_of

import workbench as wb
import workbench.probes  # fills the registry
from workbench.engine.score import score
from workbench.models import FAMILIES
from workbench.models.load import wrap
from workbench.models.tiny import tiny
from workbench.registry import PROBES
from workbench.standin import NAME, standin
from workbench.techniques import DraftModel, EntropyAdaptive, PromptLookup, SnapKV, TokenSelect
from workbench_app import memory
from workbench_app.race import Column, Race

PROMPT = random_tokens(24) * 2
OPTIONS = {"max_new_tokens": 8, "stop_tokens": ()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_proven_there_and_gives_the_host_s_text(family):
    host = tiny(family)
    expected = tokens_of(wb.generate(host, PROMPT, **OPTIONS))
    with standin() as device:
        with torch.no_grad():
            hf = copy.deepcopy(host.hf).to("cuda")
        model = wrap(hf, None, "there")
        assert model.device.type == "cuda" and model.arithmetic.endswith(f"on {NAME}")
        steps = wb.generate(model, PROMPT, **OPTIONS)
        found = list(next(steps).tokens)
        device.counts.reset()
        found += tokens_of(steps)
        sparse = sum(block.router is not None for block in model.anatomy.blocks)
        assert device.counts.synchronisations == (1 + sparse) * (OPTIONS["max_new_tokens"] - 1), device.counts.places
    assert found == expected


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_sees_what_it_sees_on_the_host(name):
    for probe in PROBES[name].examples():
        for family in ("mixtral", "gemma2", "gpt2") if "router_logits" not in probe.sites else ("mixtral",):
            expected = wb.observe(tiny(family), PROMPT, [probe])[f"probes/{name}"]
            with standin():
                found = wb.observe(tiny(family).variant(device="cuda"), PROMPT, [probe])[f"probes/{name}"]
            assert set(found.data_vars) == set(expected.data_vars)
            for variable in expected.data_vars:
                one, other = found[variable].values, expected[variable].values
                if one.dtype.kind in "fc":
                    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=variable)
                else:
                    np.testing.assert_array_equal(one, other, err_msg=variable)


def test_a_race_gives_the_same_columns():
    recipes = [[PromptLookup()], [DraftModel(model="/2")], [SnapKV(keep=0.5), TokenSelect(k=4)], [EntropyAdaptive()]]

    def columns(model):
        options = {**OPTIONS, "prefill_chunk": 16}
        race = Race(model, PROMPT, [Column([]), *map(Column, recipes)], options, threading.Event())
        list(race.turns())
        return [(column.state, column.problem, column.tokens) for column in race.columns]

    expected = columns(tiny("llama"))
    with standin():
        model = tiny("llama").variant(device="cuda")
        assert columns(model) == expected
        assert memory.free_bytes(model) > 2**30
    assert {state for state, *_ in expected} == {"done"}


def test_a_study_is_made_there():
    named = {"lookup": [PromptLookup()], "half": [SnapKV(keep=0.5)]}
    with standin():
        study = wb.compare(
            tiny("llama").variant(device="cuda"), [PROMPT, PROMPT[:30]], named, max_new_tokens=6, repeats=1
        )
        assert study.tree.attrs["device"] == "cuda:0"
    assert len(study.runs) >= 3


def test_a_run_goes_on_from_a_state_that_lies_there():
    def twice(model):
        first = wb.generate(model, PROMPT, [SnapKV(keep=0.5)], **OPTIONS)
        said = tokens_of(first)
        return said + tokens_of(wb.generate(model, PROMPT[:5], [PromptLookup()], past=first.state, **OPTIONS))

    expected = twice(tiny("llama"))
    with standin():
        assert twice(tiny("llama").variant(device="cuda")) == expected


def test_a_text_is_scored_there():
    expected = score(tiny("llama"), [PROMPT, PROMPT[:20]])
    with standin():
        found = [rows.cpu() for rows in score(tiny("llama").variant(device="cuda"), [PROMPT, PROMPT[:20]])]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
