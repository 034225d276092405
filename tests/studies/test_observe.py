"""observe: many probes, one forward pass, one trace; and every way to ask for too much."""

import json
import threading

import numpy as np
import pytest
import torch

from workbench import probes, trace
from workbench.engine.decoder import Decoder
from workbench.errors import NumericalError, PromptError, SettingError
from workbench.studies.observe import observe

IDS = torch.randint(0, 96, (23,), generator=torch.Generator().manual_seed(8)).tolist()


def everything():
    return [
        probes.LogitLens(),
        probes.AttentionSparsity(),
        probes.LayerSimilarity(),
        probes.ExpertCoactivation(),
        probes.ResidualContribution(),
        probes.ResidualVelocity(),
        probes.EffectiveRank(),
        probes.DepthUse(),
    ]


def test_all_probes_ride_one_forward_and_say_what_each_says_alone(tiny, monkeypatch):
    model, forwards = tiny("qwen3_moe"), []
    original = Decoder.forward
    monkeypatch.setattr(Decoder, "forward", lambda self, *a, **k: forwards.append(1) or original(self, *a, **k))
    together = observe(model, IDS, everything())
    assert len(forwards) == 1
    for probe in everything():
        alone = observe(model, IDS, [probe])
        path = f"probes/{probe.name}"
        assert together[path].to_dataset().identical(alone[path].to_dataset()), probe.name


def test_entropies_and_divergences_are_in_nats_everywhere(tiny):
    from workbench.studies.facts import steps_dataset
    from workbench.studies.tree import SCORES

    tree = observe(tiny("qwen3_moe"), IDS, everything())
    named = [(name, array.attrs["units"]) for node in tree.subtree for name, array in node.data_vars.items()]
    named += [(name, array.attrs["units"]) for name, array in steps_dataset([]).data_vars.items()]
    named += [(name, units) for name, (units, _) in SCORES.items()]
    found = {name: units for name, units in named if "entropy" in name or "kl" in name.split("_")}
    assert set(found) == {"entropy", "kl_to_last", "router_entropy", "skip_kl", "kl"}
    assert set(found.values()) == {"nats"}


def test_the_trace_says_where_it_comes_from(tiny):
    tree = observe(tiny("llama"), torch.tensor([IDS]), [probes.LogitLens(top_k=3)])
    trace.check(tree)
    assert tree.attrs["kind"] == "observe" and tree.attrs["model"] == "tiny-llama"
    assert json.loads(tree.attrs["recipe"]) == ["logit_lens:top_k=3"]
    assert tree["tokens"].id.values.tolist() == IDS
    shown = set(IDS) | set(tree["probes/logit_lens"].top_token.values.ravel().tolist())
    assert set(trace.vocabulary(tree)) == shown


def test_no_probes_give_the_tokens_alone(tiny):
    tree = observe(tiny("llama"), IDS, [])
    assert list(tree.children) == ["tokens"]


def test_a_probe_twice_is_refused(tiny):
    with pytest.raises(SettingError, match="logit_lens is given twice"):
        observe(tiny("llama"), IDS, [probes.LogitLens(), probes.LogitLens(top_k=2)])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [([], "empty"), ([96], "0 … 95"), ([-1], "0 … 95"), ([1] * 257, "256 positions"), ("text", "no tokenizer")],
)
def test_a_prompt_that_does_not_fit_is_refused(tiny, prompt, words):
    with pytest.raises(PromptError, match=words):
        observe(tiny("llama"), prompt, [probes.LogitLens()])


@pytest.mark.parametrize("layer", [0, 3])
def test_numbers_that_are_none_are_an_error_that_names_the_layer(tiny, layer):
    model = tiny("llama", seed=11)
    weight = model.anatomy.blocks[layer].down.weight
    old = weight.clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(NumericalError, match=f"after layer {layer}"):
            observe(model, IDS, [probes.LayerSimilarity()])
    finally:
        weight.data.copy_(old)


def test_infinite_logits_are_an_error(tiny):
    model = tiny("gpt2", seed=11)
    weight = model.anatomy.final_norm.weight
    old = weight.clone()
    try:
        weight.data.fill_(float("inf"))
        with pytest.raises(NumericalError, match="logits of tiny-gpt2"):
            observe(model, IDS, [probes.LogitLens()])
    finally:
        weight.data.copy_(old)


@pytest.mark.bundled
def test_text_of_every_token_shown_travels_along(bundled):
    tree = observe(bundled, "The capital of France is", [probes.LogitLens(top_k=2, first_layer=28)])
    words = trace.vocabulary(tree)
    assert "".join(words[token] for token in tree["tokens"].id.values.tolist()) == "The capital of France is"
    assert words[int(tree["probes/logit_lens"].final_token[-1])].strip() == "Paris"
    assert np.all(tree["probes/logit_lens"].top_probability.diff("candidate") <= 0)


def test_it_ends_at_the_next_layer_once_nobody_wants_it(tiny, monkeypatch):
    model, cancel, seen = tiny("llama"), threading.Event(), []
    reader = probes.LayerSimilarity().start(model, torch.tensor(IDS))
    monkeypatch.setattr(probes.LayerSimilarity, "start", lambda *_: reader)

    def see(site, layer, value):
        seen.append(layer)
        cancel.set()

    monkeypatch.setattr(type(reader), "see", lambda self, *told: see(*told))
    assert observe(model, IDS, [probes.LayerSimilarity()], cancel) is None
    assert len(seen) == 1
