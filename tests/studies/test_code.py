"""The code of a class is known by what is loaded of its module, and by nothing else."""

import os
import subprocess
import sys

import pytest

import workbench.techniques  # noqa: F401  fills the registry
from workbench.registry import TECHNIQUES
from workbench.studies.code import of_class

SOURCE = """
import functools
import math

SHARE = 0.5
TABLE = {"a": {1, 2, 3}}


def helper(x):
    return [each for each in TABLE if x > SHARE]


def unused(x):
    return 1


class Base:
    def stop(self):
        return "base"


class Policy(Base):
    @functools.lru_cache
    def act(self, x=3, *, y=4):
        return helper(math.floor(x))


class Technique:
    \"\"\"Says what it is.\"\"\"

    slots = ("stop",)

    @property
    def policy(self):
        return Policy()

    @classmethod
    def start(cls):
        return Policy()
"""


def code_of(source):
    made = {"__name__": "made_up"}
    exec(compile(source, "made_up.py", "exec"), made)
    return of_class(made["Technique"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.6"),
        ("{1, 2, 3}", "{1, 2, 4}"),
        ("x > SHARE", "x < SHARE"),
        ("math.floor", "math.ceil"),
        ("x=3", "x=2"),
        ("y=4", "y=5"),
        ('"base"', '"bass"'),
        ('("stop",)', '("draft",)'),
        ("Policy(Base)", "Policy"),
        ("def policy(self):\n        return Policy()", "def policy(self):\n        return Base()"),
    ],
)
def test_what_it_uses_counts(old, new):
    assert old in SOURCE
    assert code_of(SOURCE.replace(old, new)) != code_of(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("SHARE = 0.5", "\n\n# why\nSHARE = 0.5"), ("return 1", "return 2"), ("import math", "import math\nimport os")],
)
def test_where_it_stands_and_what_it_does_not_use_does_not_count(old, new):
    assert old in SOURCE
    assert code_of(SOURCE.replace(old, new)) == code_of(SOURCE)


def test_every_process_finds_the_same():
    """Sets of texts have another order in each."""
    script = "from workbench.studies.code import of_class; from workbench.techniques import *; "
    script += "from workbench.registry import TECHNIQUES; print([of_class(kind) for kind in TECHNIQUES.values()])"
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_techniques_differ():
    found = {of_class(kind) for kind in TECHNIQUES.values()}
    assert len(found) == len(TECHNIQUES) > 20
