"""No visitor names a path: models, trained parts and texts are those that are bundled, on the hub, or offered."""

import os

import gradio as gr
import pytest
from models.test_second_model import write

from workbench.errors import SettingError
from workbench.registry import PROBES, TECHNIQUES
from workbench.settings import build, describe, references
from workbench.techniques import SuffixDraft
from workbench_app import loaded, main
from workbench_app.controls import Settings
from workbench_app.offers import OFFERED, Offers

NAMING = [
    (kind, setting, field["outside"])
    for registry in (TECHNIQUES, PROBES)
    for kind in registry.values()
    for setting, field in describe(kind).items()
    if "outside" in field
]
PATHS = [
    "/etc/passwd", "/etc", "etc/../../etc/passwd", "../secret", "./x", "~/x", "~", "/", "//etc", "a/b/c", "x/..", "..",
    "/proc/self/environ", "file:///etc/passwd", "\\\\server\\share", "C:\\x", "/tmp/part.safetensors",
    "part.safetensors", "a b", "/etc/4", "x\0y", "owner/..", "-", "/½",
    "x" * 5000, "x" * 300 + ".txt",
]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of things that are offered, and one that is not."""
    for name in ("words.txt", "part.safetensors", "secret", "tiny.gguf"):
        (tmp_path / name).write_text("the river")
    write(tmp_path / "small")
    OFFERED.renew([f"texts={tmp_path / 'words.txt'}", f"head={tmp_path / 'part.safetensors'}", str(tmp_path / "small")])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    OFFERED.renew(())


@pytest.mark.parametrize(("kind", "setting", "what"), NAMING, ids=lambda each: getattr(each, "name", each))
def test_no_setting_takes_a_path(kind, setting, what, place):
    paths = [*PATHS, "secret", str(place / "words.txt"), str(place / "small"), "small/../secret"]
    if what == "technique":
        paths = [f"draft_model:model={path}" for path in paths] + [f"suffix_draft:corpus={path}" for path in paths]
        paths = [path for path in paths if "," not in path]
    if what == "device":
        return  # a device's name opens no file
    with gr.Blocks(analytics_enabled=False):
        made = Settings.render(kind)
    names = list(describe(kind))
    for path in paths:
        values = [component.value for component in made.components]
        values[names.index(setting)] = path
        with pytest.raises(SettingError):
            made.build(values)


@pytest.mark.parametrize("path", [*PATHS, "secret", "tiny.gguf", "small/x/y"])
def test_no_path_is_a_model(path, place):
    with pytest.raises(SettingError, match="no model that this page offers"):
        OFFERED.model(path)
    with pytest.raises(SettingError):
        loaded.Models().get(path, "float32")


def test_what_is_offered_stands_for_its_path(place):
    small = str(place / "small")
    assert OFFERED.model("small") == small and OFFERED.model("small/2") == small + "/2"
    assert OFFERED.setting("model", "small") == small and OFFERED.setting("text", "texts") == str(place / "words.txt")
    assert OFFERED.setting("part", "head") == OFFERED.setting("model", "head") == str(place / "part.safetensors")
    nested = OFFERED.setting("technique", "draft_model:model=small,draft=2")
    assert nested == f"draft_model:model={small},draft=2"
    for what, name in (("text", "head"), ("part", "texts"), ("text", "small"), ("part", "bundle")):
        with pytest.raises(SettingError, match="offers"):
            OFFERED.setting(what, name)


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-135m/20", "gpt2", "Qwen/Qwen2.5-0.5B", "o/m:q4.gguf"])
def test_bundled_models_and_ids_of_the_hub_are_free(name):
    assert OFFERED.model(name) == name


@pytest.mark.parametrize("value", ["auto", "distilled", "/12", "/0.5", "none", "smollm2-135m/4"])
def test_cuts_and_own_words_are_free(value):
    assert OFFERED.setting("model", value) == value


def test_an_id_of_the_hub_that_is_a_local_path_is_none(place):
    os.makedirs(place / "owner" / "model")
    with pytest.raises(SettingError):
        OFFERED.model("owner/model")


def test_controls_offer_what_there_is(place):
    with gr.Blocks(analytics_enabled=False):
        made = Settings.render(SuffixDraft)
        heads = Settings.render(TECHNIQUES["hydra_heads"])
        drafter = Settings.render(TECHNIQUES["draft_model"])
        exits = Settings.render(TECHNIQUES["confidence_exit"])
    corpus = made.components[list(made.fields).index("corpus")]
    assert corpus.choices == [("none", ""), ("texts", "texts")] and not corpus.allow_custom_value
    weights = heads.components[list(heads.fields).index("weights")]
    assert [value for _, value in weights.choices] == ["bundled", "untrained", "head"]
    lens = exits.components[list(exits.fields).index("lens")]
    assert [value for _, value in lens.choices] == ["bundled", "logit", "untrained", "head"]
    model = drafter.components[list(drafter.fields).index("model")]
    assert {"auto", "small", "head", "smollm2-135m"} <= {value for _, value in model.choices}
    values = [component.value for component in made.components]
    values[list(made.fields).index("corpus")] = "texts"
    assert made.build(values) == SuffixDraft(corpus=str(place / "words.txt"))


def test_a_model_that_is_offered_is_loaded_under_its_name(place, monkeypatch):
    models = loaded.Models()
    model = models.get("small", "float32")
    assert model.name == "small" and model.layers == 4 and models.holds("small", "float32")
    assert models.get("small/2", "float32").layers == 2


def test_an_offer_that_is_none_is_said_at_the_start(tmp_path):
    offers = Offers()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert offers.add(str(tmp_path / "one")) == "one" and offers.add(f"other={tmp_path / 'one'}") == "other"
    for offer in (str(tmp_path / "none"), f"x={tmp_path / 'none'}", f"one={tmp_path / 'two'}", f"auto={tmp_path}",
                  f"a/b={tmp_path}", f"={tmp_path}", f"smollm2-135m={tmp_path}", ""):  # fmt: skip
        with pytest.raises(SettingError):
            offers.add(offer)
    assert offers.names("model") == ["one", "other"]
    offers.renew(())
    assert offers.names("model") == []


def test_what_an_instance_names_is_known():
    made = build(TECHNIQUES["candidate_length"], {"model": "/2", "weights": "untrained"})
    assert list(references(made)) == [("model", "model", "/2"), ("weights", "part", "untrained")]


@pytest.mark.parametrize("model", ["/nope", "x" * 5000, "a/b/c", ""])
def test_a_first_model_that_is_none_is_said_at_the_start(model):
    with pytest.raises(SettingError, match="no model that this page offers"), main.served(None, model):
        raise AssertionError("the page was served")
