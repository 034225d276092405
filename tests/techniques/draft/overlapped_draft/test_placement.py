"""A drafter of its own: the same numbers, no shared state, and weights of its own where it goes elsewhere."""

import pytest
import torch

from workbench.engine import Decoder
from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.tiny import tiny
from workbench.techniques.draft.overlapped_draft.placement import _moved, placed

PROMPT = list(range(3, 23))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_the_same(family):
    model = tiny(family)
    torch.testing.assert_close(Decoder(placed(model)).forward(PROMPT), Decoder(model).forward(PROMPT))


def test_what_a_forward_changes_is_its_own():
    model = tiny("llama").shallow(2)
    other = placed(model)
    assert other.anatomy._ropes is not model.anatomy._ropes
    assert model.anatomy.blocks[0] is not other.anatomy.blocks[0]
    weight = model.anatomy.blocks[0].query_key_value.weight
    assert other.anatomy.blocks[0].query_key_value.weight.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("family", FAMILIES)
def test_elsewhere_every_weight_is_copied(family):
    """The device without memory takes all of it and computes shapes."""
    other = placed(tiny(family), "meta").anatomy
    for block in other.blocks:
        held = [value for value in vars(block).values() if hasattr(value, "weight")]
        assert held and all(each.weight.device.type == "meta" for each in held)
    assert other.unembedding.device.type == other._embedding.weight.device.type == "meta"
    assert other.device.type == "meta" and tiny(family).anatomy.unembedding.device.type == "cpu"


def test_moving_copies_within_containers():
    norm = tiny("llama").anatomy.final_norm
    moved = _moved(norm, torch.device("meta"))
    assert moved.weight.device.type == "meta" and moved.kind == norm.kind and moved.eps == norm.eps
    assert _moved(None, torch.device("meta")) is None


def test_a_device_that_is_not_there_is_refused():
    for name in ("cuda:77", "nonsense"):
        with pytest.raises(SettingError, match="there is no device"):
            placed(tiny("llama"), name)
