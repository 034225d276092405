"""Runs the kernel tests that need a process of their own, and reports each of their cases.

Triton decides at import whether it interprets or compiles. ``interpreted_*.py`` run together under
``TRITON_INTERPRET=1``, ``compiled_*.py`` together without it; a new file of either name is found by itself.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ["interpreted", "compiled"])
def test_in_its_own_process(kind: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    files = sorted(HERE.glob(f"{kind}_*.py"))
    assert files
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["OMP_NUM_THREADS"] = "1"
    if kind == "interpreted":
        environment["TRITON_INTERPRET"] = "1"
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-p", "no:benchmark"]  # it warns in a process that xdist's environment reaches
    done = subprocess.run(
        [*command, f"--junitxml={report}", *map(str, files)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        with subtests.test(msg=f"{case.get('classname')}::{case.get('name')}"):
            wrong = [child for child in case if child.tag in ("failure", "error", "skipped")]
            assert not wrong, "\n".join(f"{child.tag}: {child.text or child.get('message')}" for child in wrong)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(cases) >= 12, f"only {len(cases)} cases ran"
