"""Trained parts that fit, and those that do not: one plain error each, before anything runs."""

import pytest
import torch
from helpers import random_tokens
from safetensors.torch import load_file

from workbench import artifacts, training
from workbench.engine import Chance, Run, Sampler
from workbench.errors import ArtifactError, CorruptModel, SettingError
from workbench.models.tiny import tiny
from workbench.parts.heads import DraftHeads
from workbench.parts.loading import part_tensors
from workbench.parts.lookahead import PromptTokens
from workbench.parts.lookahead.padding import Padding
from workbench.parts.trained import ROWS
from workbench.registry import TECHNIQUES
from workbench.settings import describe
from workbench.techniques import HiddenTransfer, ParallelPrompt
from workbench.techniques.draft._drafter import Drafter
from workbench.techniques.draft._trained_tree import TrainedTreeTechnique
from workbench.training import RECIPES, recipe_of

TRAINED = [kind for kind in TECHNIQUES.values() if issubclass(kind, TrainedTreeTechnique)]
techniques = pytest.mark.parametrize("kind", TRAINED)


def start(technique, model):
    return technique.start(Run(model, tuple(random_tokens(6)), 8, Sampler(chance=Chance(0)), 0))


@techniques
def test_its_recipe_is_named_like_it_and_trains_its_part(kind):
    assert RECIPES[kind.name].kind is kind.kind and kind.kind in ROWS
    assert getattr(training, kind.__name__) is RECIPES[kind.name]
    assert RECIPES[kind.name].__doc__.strip() and RECIPES[kind.name].paper == kind.kind.paper


def test_a_recipe_that_there_is_not_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Telepathy'"):
        training.Telepathy  # noqa: B018


def test_a_part_s_own_settings_join_those_of_its_kind():
    match, shared = describe(RECIPES["hidden_transfer"]), describe(RECIPES["parallel_prompt"])
    assert list(match) == [*shared, "layer", "match"]
    assert match["learning_rate"]["default"] == 2e-4 and shared["learning_rate"]["default"] == 5e-3


def test_a_part_of_no_kind_has_no_recipe():
    with pytest.raises(SettingError, match="derive it from DraftHeads or LookaheadPart"):
        recipe_of(torch.nn.Linear)


@techniques
def test_the_neutral_setting_needs_no_part(kind):
    assert type(start(kind.neutral(), tiny("llama"))) is Drafter


@techniques
def test_a_model_without_a_part_is_told_how_to_make_one(kind):
    with pytest.raises(ArtifactError, match=kind.name):
        start(kind(cost="modelled", weights="/nowhere/" + kind.name + ".safetensors"), tiny("llama"))


def test_an_untrained_part_is_always_the_same_and_leaves_chance_alone():
    before = torch.get_rng_state()
    made = [part_tensors("x", tiny("llama"), "untrained", lambda: torch.nn.Linear(3, 3)) for _ in range(2)]
    assert torch.equal(made[0]["weight"], made[1]["weight"]) and made[0]["weight"].abs().sum() > 0
    assert torch.equal(torch.get_rng_state(), before)


def stored(kind, tmp_path, change):
    """Path of an untrained part with one thing changed, as if trained for the tiny Llama."""
    model = tiny("llama")
    policy = start(kind(weights="untrained", cost="modelled"), model)
    part = policy.heads if hasattr(policy, "heads") else policy._part
    tensors = {key: value.clone() for key, value in part.state_dict().items()}
    change(tensors)
    facts = {"model": {"name": model.name, "revision": ""}}
    artifacts.save(kind.name, tensors, facts, tmp_path)
    return str(tmp_path / f"{kind.name}.safetensors")


@techniques
def test_a_part_that_was_stored_drafts_as_before(kind, tmp_path):
    path = stored(kind, tmp_path, lambda tensors: None)
    assert load_file(path)
    start(kind(weights=path, cost="modelled"), tiny("llama"))


@techniques
@pytest.mark.parametrize("wrong", ["missing", "flat", "unknown"])
def test_tensors_of_something_else_are_refused(kind, wrong, tmp_path):
    def change(tensors):
        if wrong == "missing":
            del tensors["acceptance"]
        elif wrong == "flat":
            tensors["acceptance"] = tensors["acceptance"].flatten()
        else:
            tensors["surprise"] = torch.zeros(2)

    with pytest.raises(ArtifactError):
        start(kind(weights=stored(kind, tmp_path, change), cost="modelled"), tiny("llama"))


@techniques
def test_whole_numbers_where_fractions_are_due_are_refused(kind, tmp_path):
    for key, tensor in load_file(stored(kind, tmp_path, lambda tensors: None)).items():
        path = stored(kind, tmp_path, lambda tensors, key=key, kept=tensor: tensors.update({key: other(kept)}))
        with pytest.raises(ArtifactError):
            start(kind(weights=path, cost="modelled"), tiny("llama"))


def other(tensor):
    return tensor.long() if tensor.is_floating_point() else tensor.float()


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    path = stored(HiddenTransfer, tmp_path, lambda tensors: tensors["acceptance"].fill_(torch.nan))
    with pytest.raises(CorruptModel, match="not finite in acceptance"):
        start(HiddenTransfer(weights=path, cost="modelled"), tiny("llama"))


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if issubclass(kind.kind, DraftHeads)])
def test_tokens_that_the_model_does_not_have_are_refused(kind, tmp_path):
    path = stored(kind, tmp_path, lambda tensors: tensors["vocabulary"].fill_(96))
    with pytest.raises(ArtifactError, match="draft vocabulary"):
        start(kind(weights=path, cost="modelled"), tiny("llama"))


def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path):
    path = stored(HiddenTransfer, tmp_path, lambda tensors: tensors["before_layer"].fill_(4))
    with pytest.raises(ArtifactError, match="before layer 4"):
        start(HiddenTransfer(weights=path, cost="modelled"), tiny("llama"))


def test_rows_of_another_width_are_refused(tmp_path):
    def change(tensors):
        tensors["embeddings"] = torch.zeros(3, 16)

    with pytest.raises(ArtifactError, match="width 16"):
        start(ParallelPrompt(weights=stored(ParallelPrompt, tmp_path, change), cost="modelled"), tiny("llama"))


@pytest.mark.parametrize("part", [PromptTokens(torch.ones(3, 8), 4), Padding(torch.ones(3, 8), 2, 4)])
def test_parts_with_an_embedding_look_at_their_file_alike(part):
    good = {name: value.bfloat16() for name, value in part.state_dict().items()}
    again = type(part).of(good)
    assert again.orders == 3 and again.acceptance.shape == (3, 4)
    assert all(torch.equal(value, good[name]) for name, value in again.state_dict().items())
    for name, value in good.items():
        for wrong in (value[..., None], value.flatten(), value[:0], value[1:], None):
            tensors = {**good, name: wrong} if wrong is not None else {key: good[key] for key in good if key != name}
            with pytest.raises(ArtifactError, match=f"{name}|due"):
                type(part).of(tensors)
    with pytest.raises(ArtifactError, match="an unknown tensor more"):
        type(part).of(good | {"more": good["embeddings"]})
