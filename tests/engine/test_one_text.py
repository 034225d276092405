"""One bfloat16 text for a prompt: in every process, beside other work or not, with or without what is exact."""

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import workbench.techniques  # noqa: F401  fills the registry
from workbench.registry import TECHNIQUES
from workbench_kernels.arithmetic import OFF, compiled

SCRIPT = Path(__file__).with_name("texts_of_a_process.py")
EXACT = [name for name, kind in TECHNIQUES.items() if kind.exact]
FEW = ["suffix_draft+goodput", "hydra_heads", "token_recycling:nodes=80"]

pytestmark = [
    pytest.mark.bundled,
    pytest.mark.skipif(not compiled(torch.bfloat16), reason="nothing is compiled here: no such promise is made"),
]


@contextlib.contextmanager
def busy(loops: int):
    """Processes that keep the cores busy meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def texts(prompts: int, new: int, recipes: list[str], threads: int = 1, **environment: str) -> dict:
    """What a fresh process writes."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(prompts), str(new), "-", *recipes],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout)


def check(found: list[dict], recipes: list[str]) -> None:
    """All processes wrote the same, and every recipe what the baseline wrote."""
    assert all(each == found[0] for each in found[1:])
    applied = [recipe for recipe in recipes if not isinstance(found[0][recipe], str)]
    assert len(applied) >= len(recipes) - 2, found[0]
    differing = {
        recipe: sum(one != other for one, other in zip(found[0][recipe], found[0]["-"]))
        for recipe in applied
        if found[0][recipe] != found[0]["-"]
    }
    assert not differing, f"texts that are not the baseline's: {differing}"


@pytest.mark.bundled(seconds=30)
def test_two_processes():
    found = [texts(1, 12, FEW) for _ in range(2)]
    assert found[0]["arithmetic"].startswith("compiled")
    check(found, FEW)


@pytest.mark.bundled(seconds=15)
def test_without_the_kernels_it_says_so():
    found = texts(1, 1, [], **{OFF: "0"})
    assert found["arithmetic"].startswith("torch ") and found["arithmetic"].endswith("1 threads")


@pytest.mark.slow
def test_ten_processes_thirty_prompts_and_every_exact_technique():
    recipes = [*EXACT, *FEW]
    # The second of them with two threads.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda threads: texts(30, 16, recipes, threads), (1, 2, 1, 1, 1)))
    with busy(2), ThreadPoolExecutor(5) as pool:
        found += pool.map(lambda _: texts(30, 16, recipes), range(5))
    check(found, recipes)
