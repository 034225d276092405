"""Whatever is given as the name of a file, a folder or a model: it is used, or refused in one line."""

import pytest
from models.test_second_model import write

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.models.load import load
from workbench.registry import TECHNIQUES
from workbench.settings import build, describe

LONG = "a" * 300
NAMES = [
    LONG, f"/{LONG}", f"/{LONG}/4", "a/" * 3000 + "b", f"{LONG}.safetensors", "/tmp/" + "9" * 5000, "x\0.safetensors",
    "/\0", "\ud800", ".", "/", "//", "..", "", " ", "~", "~nobody-of-that-name/x", "/dev/full", "/proc/self/mem",
]  # fmt: skip
SETTINGS = [
    (name, setting)
    for name, kind in TECHNIQUES.items()
    for setting, field in describe(kind).items()
    if field.get("outside") in ("model", "part", "text", "technique")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(str(write(tmp_path_factory.mktemp("model") / "main")), device="cpu")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def used_or_refused(use, *given):
    try:
        use(*given)
    except WorkbenchError as error:
        assert str(error).strip() and "\n" not in str(error)


@pytest.mark.parametrize(("technique", "setting"), SETTINGS)
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_setting(technique, setting, name, model):
    used_or_refused(
        lambda: list(wb.generate(model, [3, 4, 5], [build(TECHNIQUES[technique], {setting: name})], max_new_tokens=2))
    )


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_model_a_trace_prompts_and_a_folder_of_results(name, model, tmp_path):
    used_or_refused(load, name)
    used_or_refused(wb.tasks.load_prompts, name)
    for ending in ("", ".zarr", ".nc"):
        used_or_refused(wb.trace.open, name + ending)
    folder = f"{tmp_path}/{name}"
    used_or_refused(lambda: wb.compare(model, [[3]], {}, 1, 1, folder=folder, hardware=(), quality=False))
