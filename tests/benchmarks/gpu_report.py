"""What an accelerator makes of the workbench, in one report: ``make gpu``.

``python tests/benchmarks/gpu_report.py [--device cuda] [--minutes 9] [--quick] [--out reports/gpu] [--only PART …]``:
the kernels' tests and their errors on the device, the contract of every technique with its models there, waits as torch
counts them, the engine beside transformers, and the table of drafters. Every part is a process of its own, has a share
of the minutes that are left, and is cut when they are over with what it had. The report is ``report.json`` and
``report.md``; the status is 0 if every part ran and was right, 1 if not, 2 without an accelerator. ``--quick`` takes
tiny models and little of everything, on whatever device: it shows that the report can be made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from _report import ROOT, table

BENCHMARKS = "tests/benchmarks"
LAST = 40  # lines of a part's output that are kept
GRACE = 10.0  # s that a part has to say what it had


@dataclass
class Part:
    """One part of the report: a command, its share of the time, and what came of it.

    Attributes
    ----------
    status : str
        ``passed``, ``failed``, ``cut`` or ``not run``.
    tables : dict of str to str
        File that it wrote -> its text.
    """

    name: str
    command: list[str]
    share: float
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    seconds: float = 0.0
    summary: str = ""
    output: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)


def parts(device: str, quick: bool) -> list[Part]:
    """All parts in order, with the largest shares for what takes longest."""
    python, tests = sys.executable, [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    tests += ["-p", "no:benchmark"]  # a plugin that many machines have, and that refuses to run beside xdist
    cores = os.cpu_count() or 1
    workers = ["-n", str(min(12, cores * 3 // 4)), "--dist", "loadfile"] if cores > 3 else []
    alone = {"OMP_NUM_THREADS": "1"} if workers else {}
    there = {"WORKBENCH_TEST_DEVICE": device, **alone}
    if quick:
        tiny = ["--model", "tiny", "--device", device, "--untested"]
        drafts = ["--prompts", "1", "--new-tokens", "8", "--tasks", "chat", "--without-theirs", "--dtype", "float32"]
        drafts += ["--recipe", "lookup=prompt_lookup", "--recipe", "small=draft_model:model=/2"]
        return [
            Part("kernels", [*tests, "tests/kernels/test_rms_norm.py"], 1),
            Part("contract", [*tests, "tests/test_contract.py", "-k", "exact_means and prompt_lookup"], 1, there),
            Part("waits", [python, f"{BENCHMARKS}/gpu_waits.py", "--device", device], 1),
            Part("engine", [python, f"{BENCHMARKS}/bench_engine.py", *tiny, "--new-tokens", "8", "--rounds", "2",
                            "--without-compiled"], 1),
            Part("drafting", [python, f"{BENCHMARKS}/bench_drafting.py", *tiny, *drafts], 1),
        ]  # fmt: skip
    drafts = ["--device", device, "--untested", "--prompts", "3", "--new-tokens", "64"]
    return [
        Part("kernels on the device", [python, f"{BENCHMARKS}/bench_tree_attention.py", "--check"], 2),
        Part("kernels", [*tests, *workers, "tests/kernels"], 2, alone),
        Part("contract", [*tests, *workers, "tests/test_contract.py"], 4, there),
        Part("waits", [python, f"{BENCHMARKS}/gpu_waits.py", "--device", device], 1),
        Part(
            "engine",
            [
                python,
                f"{BENCHMARKS}/bench_engine.py",
                "--device",
                device,
                "--untested",
                "--rounds",
                "5",
                "--without-compiled",
            ],
            3,
        ),
        Part("drafting", [python, f"{BENCHMARKS}/bench_drafting.py", *drafts], 4),
    ]


def run(part: Part, seconds: float, folder: Path) -> None:
    """Run a part for so long at most, and keep what it said and wrote."""
    place = folder / re.sub(r"\W+", "_", part.name)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    paths = [ROOT, ROOT / "kernels", ROOT / "app", ROOT / "data", ROOT / "tests"]
    environment = {
        **os.environ, **part.environment, "WORKBENCH_REPORTS": str(place),
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    start, log = time.monotonic(), place / "output.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        cut = _over(process, seconds)
        if cut:
            # As from a keyboard: pytest then says how many tests had passed.
            _tell(process, signal.SIGINT)
            if _over(process, GRACE):
                _tell(process, signal.SIGKILL)
                process.wait()
    part.seconds = time.monotonic() - start
    part.output = log.read_text("utf-8", errors="replace").splitlines()[-LAST:]
    part.tables = {file.name: file.read_text("utf-8") for file in sorted(place.glob("*.md"))}
    rows = sum(line.startswith("|") for text in part.tables.values() for line in text.splitlines())
    counted = re.findall(r"\d+ (?:passed|failed|error\w*)[^=]*", "\n".join(part.output))
    part.summary = counted[-1].strip() if counted else f"{rows} lines of tables" if rows else "see below"
    failed = bool(re.search(r"\b\d+ (failed|errors?)\b", part.summary))
    part.status = "failed" if failed or (process.returncode and not cut) else "cut" if cut else "passed"


def _over(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _tell(process: subprocess.Popen, what: signal.Signals) -> None:
    """Signal a part and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, what)


def machine(device: str) -> dict[str, str]:
    """Device and versions."""
    facts = {"python": platform.python_version(), "platform": platform.platform(), "torch": torch.__version__}
    for name in ("transformers", "triton"):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    facts |= {"CUDA": str(torch.version.cuda), "HIP": str(torch.version.hip), "driver": "unknown"}
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB",
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        }
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        if shutil.which(asked[0]):
            said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30).stdout.split("\n")
            facts["driver"] = said[0].strip() or "unknown"
    else:
        facts |= {"device": device, "threads": str(torch.get_num_threads())}
    return facts


def write(folder: Path, facts: dict[str, str], made: list[Part]) -> None:
    """The report as it stands; written after every part."""
    folder.mkdir(parents=True, exist_ok=True)
    told = [{**asdict(part), "command": part.command[1:]} for part in made]
    (folder / "report.json").write_text(json.dumps({"machine": facts, "parts": told}, indent=1) + "\n", "utf-8")
    lines = ["# The workbench on an accelerator", "", table(["what", "is"], list(facts.items())), ""]
    lines += [table(["part", "status", "seconds", "summary"],
                    [[part.name, part.status, f"{part.seconds:.0f}", part.summary] for part in made])]  # fmt: skip
    for part in made:
        lines += [
            f"\n## {part.name}",
            "" if part.status != "cut" else "\nCut when its time was over, with what it had.",
        ]
        for text in part.tables.values():
            lines.append(text.replace("\n# ", "\n### ").replace("# ", "### ", 1))
        if part.status == "failed" or not part.tables:
            lines += ["```", *part.output, "```"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")


def main(given: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--minutes", type=float, default=9.0)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", nargs="+", default=[], help="parts by name")
    arguments.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu")
    options = arguments.parse_args(given)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        print("this report needs an accelerator: torch finds none here", file=sys.stderr)
        return 2
    facts, made = machine(options.device), parts(options.device, options.quick)
    made = [part for part in made if not options.only or part.name in options.only]
    end = time.monotonic() + 60 * options.minutes
    for place, part in enumerate(made):
        left = end - time.monotonic() - GRACE
        seconds = max(1.0, left * part.share / sum(each.share for each in made[place:]))
        print(f"{part.name}: up to {seconds:.0f} s", flush=True)
        run(part, seconds, options.out)
        print(f"{part.name}: {part.status} after {part.seconds:.0f} s: {part.summary}", flush=True)
        write(options.out, facts, made)
    print(f"written: {options.out / 'report.md'}")
    return int(any(part.status in ("failed", "not run") for part in made))


if __name__ == "__main__":
    sys.exit(main())
