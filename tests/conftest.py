"""Shared by all tests: shapes checked at every call, the models, and no network.

``WORKBENCH_TYPECHECK=0`` leaves the checks out, which shows whether a failure is one of types.
"""

import os

# Before anything imports transformers: no test may reach a hub, and none may say so to a telemetry service.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from datetime import date
from pathlib import Path

# What changes from one run of the longest tests to the next; set here, so that all processes of a run have the same.
os.environ.setdefault("WORKBENCH_ROTATION", date.today().isoformat())

import cpu_seconds
import jaxtyping
import pytest
import sharing


def shaped_modules():
    """Modules that annotate shapes; only these are checked, as checking every call would slow the decode loop."""
    root = Path(__file__).resolve().parents[1]
    for home in (root, root / "kernels"):
        for file in home.glob("workbench*/**/*.py"):
            if "from jaxtyping import" in file.read_text("utf-8"):
                yield ".".join(file.relative_to(home).with_suffix("").parts).removesuffix(".__init__")


if os.environ.get("WORKBENCH_TYPECHECK", "1") != "0":
    jaxtyping.install_import_hook(sorted(shaped_modules()), "beartype.beartype")


def pytest_addoption(parser):
    parser.addoption("--cpu-seconds", metavar="FILE", help="write the CPU seconds of every test as JSON")


def pytest_configure(config):
    config.pluginmanager.register(cpu_seconds.Clock(config), "cpu-seconds")
    config.pluginmanager.register(sharing, "sharing")


def pytest_report_header(config):
    if "not slow" not in config.getoption("markexpr"):
        return f"WORKBENCH_ROTATION={os.environ['WORKBENCH_ROTATION']} chooses the rotating cases, and repeats them"


@pytest.fixture
def plain_steps(monkeypatch):
    """Blocks run step by step, so that a test can reach into them, where one call of the kernel would run them all."""
    monkeypatch.setattr("workbench.engine.decoder.fused_blocks", lambda anatomy: None)


@pytest.fixture(scope="module")
def browser():
    """A Chromium for one module: while it is there, its event loop runs in this thread and no other can."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def bundled():
    """The bundled model with its real weights, in float32 on the CPU; fetched on first use."""
    import workbench

    return workbench.load("smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def tiny():
    """Make a tiny random model: ``tiny(family)``, with a seed if a second one is wanted."""
    from workbench.models.tiny import tiny

    return tiny
