"""Finished cells on disk: exactly what was put there, or nothing."""

import json
import math
import os
import socket
import subprocess
import sys

import pytest

from workbench.errors import WorkbenchError
from workbench.studies.cells import Cell, Cells
from workbench.studies.run import run


@pytest.fixture
def cell(tiny):
    done = run(tiny("llama"), [3, 4, 5], max_new_tokens=4, stop_tokens=())
    quality = {"kl": 0.1, "top1_agreement": 1.0, "perplexity": 2.0, "margins": [0.5]}
    return Cell(done.steps, [1.5, float("nan")], [0.5, float("nan")], [4, 0], [1.0, float("nan")], quality)


def test_a_cell_comes_back_as_it_was(cell, tmp_path):
    Cells(tmp_path / "new").put("abc", cell)
    found = Cells(tmp_path / "new").get("abc")
    assert found.steps == cell.steps and found.tokens == cell.tokens
    assert found.quality == cell.quality and found.failed is None
    assert found.seconds[0] == 1.5 and math.isnan(found.seconds[1])
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["abc.json"]


def test_another_hash_has_no_cell(cell, tmp_path):
    Cells(tmp_path).put("abc", cell)
    assert Cells(tmp_path).get("abd") is None
    (tmp_path / "abd.json").write_bytes((tmp_path / "abc.json").read_bytes())
    assert Cells(tmp_path).get("abd") is None


def test_a_damaged_cell_is_not_believed(cell, tmp_path):
    Cells(tmp_path).put("abc", cell)
    file = tmp_path / "abc.json"
    whole = file.read_text()
    changed = json.loads(whole)
    changed["cell"]["seconds"][0] = 0.1
    versioned = {**json.loads(whole), "version": 999}
    for text in (whole[:-9], "", "[]", "{}", json.dumps(changed), json.dumps(versioned), "[" * 100_000):
        file.write_text(text)
        assert Cells(tmp_path).get("abc") is None
    file.write_text(whole)
    assert Cells(tmp_path).get("abc") is not None


def test_what_a_killed_process_left_half_written_is_removed(cell, tmp_path):
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    try:
        here = socket.gethostname().replace("-", "").replace("_", "")
        left = {pid: tmp_path / f".cell-{pid}@{here}-abcd.partial" for pid in (ended.pid, running.pid, os.getpid())}
        left |= {"other": tmp_path / ".cell-1@elsewhere-x.partial", "old": tmp_path / ".cell-xyz.partial"}
        for file in left.values():
            file.write_text("{")
        os.utime(left["old"], (0, 0))
        Cells(tmp_path)
        assert {name for name, file in left.items() if file.exists()} == {running.pid, os.getpid(), "other"}
    finally:
        running.kill()
        running.wait()


def test_a_write_that_fails_leaves_nothing(cell, tmp_path, monkeypatch):
    cells = Cells(tmp_path)
    monkeypatch.setattr("workbench.studies.cells.json.dump", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(WorkbenchError, match="could not keep"):
        cells.put("abc", cell)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_under_the_same_names_says_what_they_stood_for(cell, tmp_path):
    cells = Cells(tmp_path)
    cells.put("names-one", cell, {"model": "a"})
    assert cells.content_of_other("names-two") == {"model": "a"}
    assert cells.content_of_other("names-one") is None and cells.content_of_other("others-two") is None
    (tmp_path / "names-one.json").write_text("[" * 100_000)
    assert cells.content_of_other("names-two") == {}


def test_without_a_folder_nothing_is_kept(cell):
    Cells(None).put("abc", cell)
    assert Cells(None).get("abc") is None


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="cannot hold"):
        Cells(tmp_path / "file")


def test_seconds_per_token_of_a_repeat_that_was_not_reached(cell):
    assert cell.seconds_per_token(0) == (1.5 - cell.time_to_first_token[0]) / 3
    assert math.isnan(cell.seconds_per_token(1))
    assert not Cell.empty(2).ran and cell.ran
