"""Tests reach the processes in the right company, their seconds are counted, and what is over its budget is named."""

import json
from pathlib import Path

import pytest
import sharing
from cpu_seconds import over_budget

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import cpu_seconds, sharing

def pytest_addoption(parser):
    parser.addoption("--cpu-seconds")

def pytest_configure(config):
    config.addinivalue_line("markers", "bundled: of real weights")
    config.addinivalue_line("markers", "slow: left out elsewhere")
    config.pluginmanager.register(cpu_seconds.Clock(config))
    config.pluginmanager.register(sharing)
"""
SWEEP = """
import pytest

@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["snap_kv", "goodput", "prompt_lookup"])
def test_in(name, family):
    pass
"""
HEAVY = """
import subprocess, sys, time, pytest

BURN = "import time; end = time.process_time() + 0.4\\nwhile time.process_time() < end: pass"

@pytest.fixture(scope="session")
def model():
    exec(BURN)

@pytest.mark.bundled(seconds=0.2)
def test_a_child(model):
    subprocess.run([sys.executable, "-c", BURN], check=True)

@pytest.mark.slow
def test_light(model):
    pass
"""


def test_a_file_stays_together_and_a_sweep_is_cut_by_technique():
    assert sharing.share("tests/app/test_page.py::test_a[snap_kv]") == sharing.share("tests/app/test_page.py::test_b")
    one, same, other, none = (
        sharing.share(f"tests/test_contract.py::{test}")
        for test in ("test_a[snap_kv-0-llama]", "test_b[snap_kv]", "test_a[goodput-0-llama]", "test_a")
    )
    assert one == same and len({one, other, none}) == 3


@pytest.fixture
def project(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_contract=SWEEP, test_real=HEAVY)
    return pytester


def test_two_processes_share_and_their_seconds_are_written(project):
    options = ("-p", "no:cacheprovider", "--cpu-seconds=seconds.json", "-v")
    result = project.runpytest_subprocess("-p", "xdist.plugin", "-n2", "--dist=loadfile", *options)
    result.assert_outcomes(passed=8)
    record = json.loads((project.path / "seconds.json").read_text("utf-8"))
    assert record["workers"] == 2 and len(record["tests"]) == 8
    assert {test["allowed"] for test in record["tests"].values()} == {0.2, 10.0, None}
    assert "test_real.py::test_a_child" in result.stdout.str().partition("CPU seconds: over")[2]
    assert record["tests"]["test_real.py::test_a_child"]["cpu"] >= 0.4, "seconds of a child are the test's"
    assert record["tests"]["test_real.py::test_light"]["cpu"] < 0.2, "those of a session's fixture are no test's"
    assert record["cpu"] > sum(test["cpu"] for test in record["tests"].values())
    ran = [line for line in result.outlines if " PASSED " in line]
    process = next(line[:5] for line in ran if "test_real.py" in line)
    mine = [line for line in ran if line.startswith(process)]
    assert "test_real.py" in mine[0] and len(mine) < 8, "what takes long comes first, and the rest is shared"


def test_what_is_over_its_budget_is_named_the_longest_first():
    tests = {
        "light": {"cpu": 1.0, "allowed": 3.0},
        "heavy": {"cpu": 4.0, "allowed": 3.0},
        "slow": {"cpu": 40.0, "allowed": None},
        "endless": {"cpu": 50.0, "allowed": 10.0},
    }
    assert list(over_budget(tests)) == ["  50.0 s  endless", "   4.0 s  heavy"]
