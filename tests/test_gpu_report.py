"""The report of an accelerator: refused without one, and its parts are run, cut and written."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("gpu_report", FOLDER / "gpu_report.py")
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_report", loaded)
    spec.loader.exec_module(loaded)
    return loaded


def part_of(module, name, code, share=1.0):
    return module.Part(name, [sys.executable, "-c", code], share)


def test_without_an_accelerator_it_says_so_in_a_line(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert module.main(["--out", str(tmp_path / "gpu")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "needs an accelerator" in said.err
    assert not (tmp_path / "gpu").exists()


def test_every_part_has_what_it_runs(module):
    for device, quick in (("cuda", False), ("cpu", True)):
        made = module.parts(device, quick)
        assert {"kernels", "contract", "waits", "engine", "drafting"} <= {part.name for part in made}
        for part in made:
            files = [word for word in part.command if word.startswith("tests/")]
            assert files and all((module.ROOT / file).exists() for file in files)
            told = " ".join([*part.command, *part.environment.values()])
            assert device in told or part.name.startswith("kernels"), f"{part.name} does not know its device"


def test_parts_are_run_and_written_whatever_comes_of_them(module, monkeypatch, capsys, tmp_path):
    table = "# bench\\n\\n| a |\\n| --- |\\n| 1 |\\n"
    writing = f"import os, pathlib; pathlib.Path(os.environ['WORKBENCH_REPORTS'], 'bench.md').write_text('{table}')"
    made = [
        part_of(module, "good", f"{writing}; print('fine')"),
        part_of(module, "wrong", "raise SystemExit('it is wrong')"),
        part_of(module, "counted", "print('== 3 passed, 1 failed in 2.00s ==')"),
        part_of(module, "slow", f"{writing}; print('begun', flush=True); import time; time.sleep(60)"),
    ]
    monkeypatch.setattr(module, "parts", lambda device, quick: made)
    monkeypatch.setattr(module, "GRACE", 0.5)
    assert module.main(["--device", "cpu", "--out", str(tmp_path), "--minutes", "0.1"]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert [part["status"] for part in report["parts"]] == ["passed", "failed", "failed", "cut"]
    assert report["machine"]["torch"] == torch.__version__ and report["machine"]["device"] == "cpu"
    assert report["parts"][2]["summary"].startswith("3 passed, 1 failed")
    text = (tmp_path / "report.md").read_text()
    assert text.count("### bench") == 2, "what was cut has what it had"
    assert "it is wrong" in text and "Cut when its time was over" in text
    assert capsys.readouterr().out.splitlines()[-1].startswith("written: ")


@pytest.mark.slow
def test_the_report_can_be_made_of_tiny_models(module, tmp_path):
    assert module.main(["--device", "cpu", "--quick", "--minutes", "5", "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert [part["status"] for part in parts] == ["passed"] * 5
    assert "| baseline | 1.00 | 0.00 |" in (tmp_path / "report.md").read_text()
