"""What every probe keeps, over registry x examples x tiny models of every family."""

import dataclasses

import pytest
import torch

from workbench import trace
from workbench.engine.decoder import Decoder
from workbench.errors import SettingError
from workbench.models import FAMILIES, SITES
from workbench.probes import Reader
from workbench.registry import PROBES
from workbench.settings import describe, parse, spell
from workbench.studies.observe import observe

IDS = torch.randint(0, 96, (29,), generator=torch.Generator().manual_seed(2)).tolist()
CASES = [
    pytest.param(probe, family, id=f"{name}-{index}-{family}")
    for name, kind in PROBES.items()
    for index, probe in enumerate(kind.examples())
    for family in FAMILIES
]


def reader_of(probe, model):
    """A reader, or a reasoned skip where the probe refuses the model."""
    try:
        return probe.start(model, torch.tensor(IDS))
    except SettingError as refusal:
        sparse = any(block.router is not None for block in model.anatomy.blocks)
        assert "router_logits" in probe.sites and not sparse, f"refused without need: {refusal}"
        pytest.skip(str(refusal))


def hooks_of(model):
    """Hooks of all modules; transformers leaves some of its own where a test has asked it for hidden states."""
    return [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.hf.modules()]


def parts_of(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize(("probe", "family"), CASES)
def test_never_changes_the_forward(tiny, probe, family):
    """Logits are the same bit for bit, and nothing that passed a site was written to."""
    model = tiny(family)
    reader = reader_of(probe, model)
    passed = set()

    def watch(site, layer, value):
        if site in probe.sites:
            before = [part.clone() for part in parts_of(value)]
            reader.see(site, layer, value)
            passed.add(site)
            for part, old in zip(parts_of(value), before, strict=True):
                assert torch.equal(part, old), f"{probe.name} wrote to {site} of layer {layer}"

    plain = Decoder(model).prefill(IDS, logits="all")
    watched = Decoder(model, watch=watch).prefill(IDS, logits="all")
    assert torch.equal(plain, watched)
    assert passed == set(probe.sites)


@pytest.mark.parametrize(("probe", "family"), CASES)
def test_writes_a_trace_that_passes_the_gate_and_is_the_same_twice(tiny, probe, family):
    model = tiny(family)
    reader_of(probe, model)
    state = torch.get_rng_state()
    first, second = (observe(model, IDS, [probe]) for _ in range(2))
    trace.check(first)
    assert torch.equal(state, torch.get_rng_state())
    found = first[f"probes/{probe.name}"]
    assert found.data_vars
    assert found.to_dataset().identical(second[f"probes/{probe.name}"].to_dataset())
    for name, values in found.data_vars.items():
        assert set(values.dims) <= set(found.coords), f"{name} has a dimension without a coordinate"
        assert name == "angular_distance" or values.notnull().all(), f"{name} holds NaN"


@pytest.mark.parametrize(("probe", "family"), CASES)
def test_leaves_nothing_behind_when_the_pass_breaks(tiny, probe, family, monkeypatch):
    """An error at the last layer comes through as it is; no hook stays, weights and answers are as before."""
    model = tiny(family)
    reader_of(probe, model)
    expected = Decoder(model).prefill(IDS, logits="all")
    weights = [weight.clone() for weight in model.hf.parameters()]
    hooks = hooks_of(model)
    kind = type(probe.start(model, torch.tensor(IDS)))
    original, last = kind.see, max(block.index for block in model.anatomy.blocks)

    def breaking(self, site, layer, value):
        if layer == last:
            raise RuntimeError("broken on purpose")
        original(self, site, layer, value)

    monkeypatch.setattr(kind, "see", breaking)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        observe(model, IDS, [probe])
    monkeypatch.undo()
    assert hooks_of(model) == hooks
    assert all(torch.equal(weight, old) for weight, old in zip(model.hf.parameters(), weights, strict=True))
    assert torch.equal(Decoder(model).prefill(IDS, logits="all"), expected)


@pytest.mark.parametrize("name", PROBES)
def test_says_what_it_is(name):
    kind = PROBES[name]
    assert set(kind.sites) <= set(SITES)
    assert any(part.isdigit() and len(part) == 4 for part in kind.paper.replace(",", " ").split()), "a year"
    described = describe(kind)
    for field in dataclasses.fields(kind):
        assert described[field.name].get("description"), f"{name}.{field.name} has no description"
    assert len(kind.examples()) >= 1 and all(type(example) is kind for example in kind.examples())
    assert all(parse(spell(example), PROBES) == [example] for example in kind.examples())
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().anything = 1


@pytest.mark.parametrize("name", PROBES)
def test_readers_are_readers(tiny, name):
    assert isinstance(PROBES[name].examples()[0].start(tiny("mixtral"), torch.tensor(IDS)), Reader)
