"""CPU seconds of every test and of the processes it waits for: a clock that a busy machine hardly moves.

What a fixture of the whole session takes (a model, a server) is counted apart, and no test is charged for it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

BUDGET = 3.0
"""CPU seconds of a test on real weights; ``@pytest.mark.bundled(seconds=30)`` gives more to one that needs them."""
LONGEST = 10.0
"""CPU seconds of any other test."""


def now() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class Clock:
    """A plugin for pytest: measures where tests run, and gathers where the run is reported.

    Parameters
    ----------
    config : pytest.Config
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._worker = config, getattr(config, "workeroutput", None)
        self._began, self._wall = now(), time.perf_counter()
        self._shared = 0.0
        self._processes: list[float] = []
        self._tests: dict[str, dict[str, object]] = {}

    # Where tests run

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        began, before = now(), self._shared
        try:
            return (yield)
        finally:
            if fixturedef.scope == "session":
                # A session's fixture that another one asks for is within its time, and counted once.
                self._shared = before + now() - began

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        item.stash[_STARTED] = now(), self._shared
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item, nextitem):
        try:
            return (yield)
        finally:
            began, shared = item.stash[_STARTED]
            shared = self._shared - shared
            item.user_properties.append(("cpu_seconds", round(now() - began - shared, 3)))
            item.user_properties.append(("allowed", allowed(item)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if self._worker is not None:
            self._worker["cpu_seconds"] = now() - self._began

    # Where the run is reported

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        self._processes.append(getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0))

    def pytest_runtest_logreport(self, report):
        if self._worker is None and report.when == "teardown":
            said = dict(report.user_properties)
            self._tests[report.nodeid] = {"cpu": said.get("cpu_seconds", 0.0), "allowed": said.get("allowed")}

    def pytest_terminal_summary(self, terminalreporter):
        if self._worker is not None:
            return
        lines = list(over_budget(self._tests))
        if lines:
            terminalreporter.section(f"CPU seconds: over {BUDGET:g} on real weights, over {LONGEST:g} elsewhere")
            for line in lines:
                terminalreporter.write_line(line)
        path = self._config.getoption("--cpu-seconds")
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(self._record(), separators=(",", ":")).replace('},"', '},\n"'), "utf-8")

    def _record(self) -> dict[str, object]:
        """What ``tests/projection.py`` reads."""
        return {
            "wall": time.perf_counter() - self._wall,
            "workers": max(1, len(self._processes)),
            "cpu": sum(self._processes) or now() - self._began,
            "tests": self._tests,
        }


def allowed(item: pytest.Item) -> float | None:
    """CPU seconds that a test may take; None for those that are marked ``slow``, and for those in a browser, where
    the last of a file is charged for the browser that all of them drove."""
    if item.get_closest_marker("slow") or item.get_closest_marker("browser"):
        return None
    real = item.get_closest_marker("bundled")
    return real.kwargs.get("seconds", BUDGET) if real else LONGEST


def over_budget(tests: dict[str, dict[str, object]]):
    """A line for every test that takes more than it may, the longest first."""
    for name, test in sorted(tests.items(), key=lambda item: -item[1]["cpu"]):
        if test["allowed"] is not None and test["cpu"] > test["allowed"]:
            yield f"{test['cpu']:6.1f} s  {name}"


_STARTED = pytest.StashKey[tuple[float, float]]()
