"""The type checker sees what it is there for: a policy that does not fit its slot, and an argument of another type."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

WRONG = """
from collections.abc import Sequence

from torch import Tensor

from workbench.engine import Draft, Run
from workbench.engine.slots import DepthPolicy, SwitchPolicy
from workbench.techniques import PromptLookup
from workbench.techniques.draft._drafter import Drafter


class OtherArguments(Drafter):
    def propose(self, tokens: Sequence[int]) -> Draft:  # override
        return Draft()


class OtherResult(DepthPolicy):
    def next_layer(self, layer: int, x: Tensor) -> str:  # override
        return ""


class HalfDone(SwitchPolicy):
    pass


def start(run: Run) -> None:
    HalfDone()  # abstract
    PromptLookup(ngram="three")  # arg-type
    PromptLookup(grams=3)  # call-arg
    run.check_positions("a model")  # arg-type


def right(run: Run) -> Drafter:
    return PromptLookup(ngram=3).drafter(run)
"""


@pytest.mark.slow
def test_a_policy_that_does_not_fit_is_seen(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", file]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600).stdout
    expected = {number: line.rpartition("# ")[2] for number, line in enumerate(WRONG.splitlines(), 1) if "  # " in line}
    errors = [line for line in out.splitlines() if "wrong.py" in line and ": error: " in line]
    assert {int(line.split(":")[1]): line.rpartition("[")[2].rstrip("]") for line in errors} == expected, out
