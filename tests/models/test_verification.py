"""The proof compares with the model as it was before its parameters were joined, so that joining hides no fault."""

import copy

import pytest
import torch

import workbench.models.parts as module
from workbench.errors import UnsupportedModel
from workbench.models.anatomy import Anatomy
from workbench.models.load import wrap
from workbench.models.tiny import tiny
from workbench.models.verification import untouched, verify


@pytest.fixture
def hf():
    """A transformers model that no anatomy has touched."""
    model = tiny("llama").hf
    fresh = type(model)(copy.deepcopy(model.config))
    fresh.load_state_dict(model.state_dict())
    return fresh.eval()


def test_joining_that_damages_the_model_is_seen(hf, monkeypatch):
    join = module._joined

    def damaged(parts):
        joined = join(parts)
        joined[0] = joined[0].flip(-1)
        return joined

    monkeypatch.setattr(module, "_joined", damaged)
    with pytest.raises(UnsupportedModel, match=r"the steps of Llama .* do not reproduce"):
        wrap(hf, None, "damaged")
    assert verify(hf, Anatomy(hf))["logits"] < 1e-4  # a model compared with itself afterwards shows nothing


def test_joining_that_leaves_the_models_own_parameters_behind_is_seen(hf, monkeypatch):
    def misplaced(parts):
        joined = torch.cat([part.detach() for part in parts])
        parts[0].data = joined[-parts[0].shape[0] :]
        return joined

    monkeypatch.setattr(module, "_joined", misplaced)
    with pytest.raises(UnsupportedModel, match="the joined projections of Llama"):
        wrap(hf, None, "misplaced")


def test_the_untouched_model_is_run_as_it_is(hf):
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    tokens, logits = untouched(hf)
    assert torch.equal(hf(tokens).logits, logits) and logits.shape == (1, 24, 96)
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())


def test_a_model_with_few_positions_is_proven_on_as_many():
    from transformers import GPT2Config, GPT2LMHeadModel

    short = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=7))
    assert wrap(short, None, "short").proof["logits"] < 1e-3
