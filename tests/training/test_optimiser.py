"""States in eight bits: less memory, the same losses nearly, and a training that goes on as if it had not stopped."""

import dataclasses
import importlib.util
import json
import sys
import threading
import types

import pytest
import torch

from workbench.errors import CorruptModel, SettingError
from workbench.models.tiny import tiny
from workbench.training import RECIPES, DataSettings, train
from workbench.training.optimiser import check, optimiser_of, restore, size, states
from workbench.training.writing import write_texts


class LikeEightBit(torch.optim.Optimizer):
    """States as bitsandbytes keeps them: codes with a scale, a shared table, a step that is a plain number; and in 32
    bits of what is small. Momentum alone is enough to see whether they come back."""

    def __init__(self, params, lr, weight_decay):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state, small = self.state[p], p.numel() < 64
                if not state:
                    state["step"], state["state1"] = 0, torch.zeros_like(p, dtype=None if small else torch.uint8)
                    if not small:
                        state |= {"absmax1": torch.zeros(1), "qmap1": torch.linspace(-1, 1, 256)}
                state["step"] += 1
                before = state["state1"] if small else state["qmap1"][state["state1"].long()] * state["absmax1"]
                now = 0.9 * before + p.grad / state["step"]
                if small:
                    state["state1"].copy_(now)
                else:
                    state["absmax1"].fill_(float(now.abs().max()))
                    state["state1"].copy_(((now / state["absmax1"].clamp_min(1e-12) + 1) * 127.5).round())
                p -= group["lr"] * now


@pytest.fixture
def alike(monkeypatch):
    """A library that is as bitsandbytes to us, where that is not installed."""
    library, optim = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    optim.AdamW8bit = LikeEightBit
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)


@pytest.fixture
def real():
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes, which is optional, is not installed")


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def data(model):
    prompts = [torch.randint(3, 96, (6,), generator=torch.Generator().manual_seed(k)).tolist() for k in range(10)]
    return write_texts(model, prompts, prompts, DataSettings(new_tokens=12, length=24, sampled=0, continued=0))


def settings(steps=4):
    return {**dataclasses.asdict(RECIPES["tuned_lens"].example()), "steps": steps}


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = {"large": (64, 128), "small": (5,)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def step(optimiser, named, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in named.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimiser.step()


def goes_on(name):
    """After three steps states are put into a new optimiser: from there both do the same."""
    named = parameters()
    one = optimiser_of(name, named, 1e-2)
    for seed in range(3):
        step(one, named, seed)
    kept = {key: value.clone() for key, value in states(one, named).items()}
    copied = {key: torch.nn.Parameter(value.detach().clone()) for key, value in named.items()}
    other = optimiser_of(name, copied, 1e-2)
    restore(other, copied, 3, kept)
    assert all(torch.equal(copied[key], named[key]) for key in named)
    for seed in (3, 4):
        step(one, named, seed)
        step(other, copied, seed)
    assert all(torch.equal(copied[key], named[key]) for key in named)
    missing = dict(kept)
    del missing[next(key for key in kept if key.endswith("/large"))]
    with pytest.raises(CorruptModel, match="lacks the optimiser's state of large"):
        restore(other, copied, 3, missing)
    return size(one, named)


def test_adamw_goes_on_and_remembers_two_numbers_a_parameter():
    assert goes_on("adamw") == 2 * 4 * (64 * 128 + 5)


def test_eight_bits_go_on(alike):
    assert goes_on("adamw8bit") == 64 * 128 + 4 + 4 * 5


def test_eight_bits_of_the_library_go_on(real):
    blocks = 64 * 128 // 256
    assert goes_on("adamw8bit") == 2 * (64 * 128 + 4 * blocks + 4 * 5)


def is_the_same_after_a_stop(model, data, tmp_path):
    options = {"optimiser": "adamw8bit", **settings()}
    straight = train("tuned_lens", model, tmp_path / "straight", data, **options)
    cancel = threading.Event()

    def progress(done, *_):
        if done == 2:
            cancel.set()

    assert train("tuned_lens", model, tmp_path / "parts", data, progress=progress, cancel=cancel, **options) is None
    with pytest.raises(SettingError, match="another training"):
        train("tuned_lens", model, tmp_path / "parts", data, resume=True, **settings())
    resumed = train("tuned_lens", model, tmp_path / "parts", data, resume=True, **options)
    assert resumed["sha256"] == straight["sha256"] and resumed["curve"] == straight["curve"]
    plain = train("tuned_lens", model, tmp_path / "plain", data, **settings())
    assert straight["optimiser"]["name"] == "adamw8bit" and plain["optimiser"]["name"] == "adamw"
    assert plain["optimiser"]["bytes"] == 8 * plain["parameters"]
    assert straight["optimiser"]["bytes"] < 0.5 * plain["optimiser"]["bytes"]
    return straight, plain


def test_a_training_in_eight_bits_goes_on(alike, model, data, tmp_path):
    is_the_same_after_a_stop(model, data, tmp_path)


def test_a_training_with_the_library_goes_on_and_learns_as_well(real, model, data, tmp_path):
    eight, plain = is_the_same_after_a_stop(model, data, tmp_path)
    assert eight["result"]["held_out_loss"] == pytest.approx(plain["result"]["held_out_loss"], rel=0.01)
    assert eight["sha256"] != plain["sha256"]


def test_what_cannot_be_had_is_refused_before_any_work(monkeypatch, tmp_path):
    with pytest.raises(SettingError, match="no optimiser 'sgd'; there are adamw, adamw8bit"):
        check("sgd")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SettingError, match=r"needs the library bitsandbytes: pip install .* extra eightbit"):
        train("tuned_lens", None, tmp_path / "out", optimiser="adamw8bit")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [types.ModuleType("kernels"), None])
def test_importing_it_reaches_for_no_kernel_and_leaves_modules_as_they_were(alike, monkeypatch, there):
    """Other modules find the library ``kernels`` afterwards, if it was there."""
    seen = []

    class Library(types.ModuleType):
        def __getattr__(self, name):
            seen.append(sys.modules.get("kernels", "free"))
            return LikeEightBit

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", Library("bitsandbytes.optim"))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    if there is not None:
        monkeypatch.setitem(sys.modules, "kernels", there)
    check("adamw8bit")
    assert None in seen and "free" not in seen
    assert sys.modules.get("kernels") is there and ("kernels" in sys.modules) == (there is not None)


def test_both_shells_take_it(alike, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    import workbench as wb
    from workbench import cli
    from workbench.training import __main__

    def load(name, dtype="float32", device=None, revision="main"):
        return dataclasses.replace(tiny("llama"), name=name)

    monkeypatch.setattr(wb, "load", load, raising=False)
    monkeypatch.setattr(__main__, "load", load)
    prompts = [torch.randint(3, 96, (6,), generator=torch.Generator().manual_seed(k)).tolist() for k in range(10)]
    text = tmp_path / "text.safetensors"
    write_texts(tiny("llama"), prompts, prompts, DataSettings(new_tokens=12, length=24, sampled=0, continued=0)).save(
        text
    )
    small = ["steps=2", "batch=2", "length=24"]
    one = ["train", "draft_model", "--optimiser", "adamw8bit", "--data", str(text), "--out", str(tmp_path / "one")]
    said = CliRunner().invoke(cli.app, one + [part for each in small for part in ("--setting", each)])
    assert said.exit_code == 0, said.output
    other = ["draft_model", "--optimiser", "adamw8bit", "--data", str(text), "--out", str(tmp_path / "other")]
    assert __main__.main(other + [part for each in small for part in ("--set", each)]) == 0
    for folder in ("one", "other"):
        card = json.loads((tmp_path / folder / "draft_model.json").read_text("utf-8"))
        assert card["optimiser"]["name"] == "adamw8bit"
    said = CliRunner().invoke(cli.app, ["train", "draft_model", "--optimiser", "sgd"])
    assert said.exit_code == 2 and "no optimiser 'sgd'" in said.output
