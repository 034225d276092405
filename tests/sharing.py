"""How tests are shared among processes: a file to each, and the files that run over all techniques cut by technique.

A module's fixtures (a browser, a page, a study) are then made once, and so are the runs of one technique that several
tests judge; and no process is left with the longest file alone. ``pytest -n 2 --dist loadfile`` does it.
"""

from __future__ import annotations

import re

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

SWEEPS = (
    "test_contract.py",
    "test_contract_pairs.py",
    "test_contract_probes.py",
    "test_distribution.py",
    "test_standin_techniques.py",
    "test_exact_on_text.py",
)
"""Files whose tests' first parameter is the name of a technique or of a probe."""


def share(nodeid: str) -> str:
    """What a test must run in one process with: the tests of its file, in a sweep those of its technique.

    >>> share("tests/test_contract.py::test_exact_means_the_same_tokens[snap_kv-0-llama]")
    'tests/test_contract.py[snap_kv'
    """
    file, _, test = nodeid.partition("::")
    cut = re.search(r"\[\w+", test) if file.endswith(SWEEPS) else None
    return file + cut[0] if cut else file


class Sharing(LoadScopeScheduling):
    """Hands out the tests in the order in which they were collected, a share at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)


@pytest.hookimpl(optionalhook=True)  # a run without processes has no such hook
def pytest_xdist_make_scheduler(config, log):
    """In the process that hands out: ``--dist loadfile`` is this."""
    if config.getvalue("dist") == "loadfile":
        config.option.loadscopereorder = False
        return Sharing(config, log)


def pytest_collection_modifyitems(config, items):
    """In the processes that run: first the files that drive a browser, a notebook or the real model, which take long;
    the many short ones fill up what is left at the end."""
    if hasattr(config, "workerinput"):
        long = {item.path for item in items if item.get_closest_marker("bundled") or item.get_closest_marker("browser")}
        items.sort(key=lambda item: item.path not in long)
