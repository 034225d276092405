"""Classes as the paper labels them, the maps against their formula, and parts that do not fit."""

import pytest
import torch

from workbench import artifacts
from workbench.errors import ArtifactError
from workbench.models.tiny import tiny
from workbench.parts.exit_controller import (
    EXIT,
    GO_ON,
    NAME,
    STOP,
    ExitController,
    classes_of,
    load_controller,
    right_at,
)
from workbench.parts.exits import load_lens


def test_a_token_is_of_the_class_that_the_first_layer_which_is_right_makes_it():
    """As the paper's own program counts: of a layer that is right, or of one before it, exit; of a later one, go on."""
    found = classes_of(torch.arange(7), 6)
    assert found.shape == (5, 7)
    for layer in range(5):
        for first in range(7):
            assert found[layer, first] == (STOP if first == 6 else EXIT if first <= layer else GO_ON)


@pytest.mark.parametrize("maps", [1, 3])
def test_chances_are_those_of_the_formula_and_the_maps_are_counted(tmp_path, maps):
    model = tiny("llama")
    torch.manual_seed(0)
    part = ExitController(maps, 32)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    stored = {key: value.bfloat16() for key, value in part.state_dict().items()}
    artifacts.save(NAME, stored, {"model": {"name": model.name, "revision": model.revision}}, tmp_path)
    controller = load_controller(model, str(tmp_path / f"{NAME}.safetensors"))
    x = torch.randn(5, 32)
    for layer in range(3):
        place = layer if maps > 1 else 0
        weight, bias = stored["weight"][place].float(), stored["bias"][place].float()
        for row, said in zip(x, controller.chances(layer, x), strict=True):
            odds = weight @ (row / row.square().mean().sqrt()) + bias
            torch.testing.assert_close(said, odds.exp() / odds.exp().sum(), rtol=1e-4, atol=1e-5)
        assert controller.flops(layer, 5) == 2 * 5 * 3 * 32 and controller.bytes(layer, 5) >= 4 * 3 * 32
    log_odds = part(torch.stack([x] * 3)).softmax(-1)
    torch.testing.assert_close(log_odds[2], controller.chances(2, x), rtol=0.05, atol=0.02)


def test_a_layer_is_right_where_its_lens_names_the_token():
    model, lens = tiny("llama"), load_lens(tiny("llama"), "untrained")
    x = torch.randn(7, 32)
    named = model.anatomy.unembed(lens.stream(x, 1)).argmax(-1)
    token = torch.where(torch.arange(7) % 2 == 0, named, (named + 1) % 96)
    assert right_at(lens, 1, x, token).tolist() == [True, False, True, False, True, False, True]


def test_a_controller_of_another_model_is_refused(tmp_path):
    model, file = tiny("llama"), str(tmp_path / f"{NAME}.safetensors")
    for maps, width in ((3, 16), (5, 32)):
        stored = ExitController(maps, width).state_dict()
        artifacts.save(NAME, stored, {"model": {"name": model.name, "revision": model.revision}}, tmp_path)
        with pytest.raises(ArtifactError, match="does not fit tiny-llama"):
            load_controller(model, file)
    with pytest.raises(ArtifactError, match="workbench train completion_stop"):
        load_controller(model)
