"""Names of techniques and probes."""

import pytest

from workbench.errors import SettingError
from workbench.registry import PROBES, TECHNIQUES, Registry, UnknownName, snake_case


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SnapKV", "snap_kv"),
        ("StreamingLLM", "streaming_llm"),
        ("PromptLookup", "prompt_lookup"),
        ("UnifiedLayerSkip", "unified_layer_skip"),
        ("ExpertCoactivation", "expert_coactivation"),
        ("KVCache", "kv_cache"),
        ("H2O", "h2o"),
        ("Eagle2Draft", "eagle2_draft"),
        ("Medusa", "medusa"),
    ],
)
def test_class_names_in_snake_case(name, expected):
    assert snake_case(name) == expected


@pytest.fixture
def registry():
    made = Registry("technique")

    @made.register
    class SnapKV:
        pass

    @made.register
    class PromptLookup:
        pass

    return made


def test_a_registered_class_is_found_under_its_name_and_knows_it(registry):
    assert list(registry) == ["snap_kv", "prompt_lookup"]
    assert len(registry) == 2
    assert registry["snap_kv"].name == "snap_kv"
    assert "snap_kv" in registry
    assert "other" not in registry
    assert registry.get("other") is None


def test_a_name_is_taken_once(registry):
    with pytest.raises(SettingError, match="technique name 'snap_kv' is taken"):
        registry.register(type("SnapKV", (), {}))


@pytest.mark.parametrize("kind", [UnknownName, SettingError, KeyError, ValueError])
def test_an_unknown_name_gives_near_ones_and_all(registry, kind):
    with pytest.raises(kind) as caught:
        registry["snap_vk"]
    message = "There is no technique named 'snap_vk'. Did you mean snap_kv? Known: snap_kv, prompt_lookup."
    assert str(caught.value) == message
    with pytest.raises(kind, match="Known: none"):
        Registry("probe")["anything"]


def test_a_registry_is_filled_by_its_decorator_alone(registry):
    with pytest.raises(TypeError):
        registry["other"] = int


def test_there_are_two_of_them():
    assert (TECHNIQUES.kind, PROBES.kind) == ("technique", "probe")
