"""Files are whole or as before, and names of files are safe and of one thing each."""

import errno
import io
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from workbench import store
from workbench.errors import OutputError, TraceError
from workbench.files import file_name, is_there, replacing, save_tensors, write_atomically


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    path = write_atomically(tmp_path / "new" / "page.html", "é\r\n<b>\n")
    assert path.read_bytes() == "é\r\n<b>\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff" and names(path.parent) == ["page.html"]


class _Full(io.FileIO):
    """A file on a disk that is full after ten bytes."""

    def write(self, data):
        super().write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writers():
    """Everything that writes a file of its own: what it is called, and what writes it."""
    from workbench.studies.compatibility_file import write
    from workbench.studies.compatibility_shards import shipped
    from workbench.tasks import Prompt, write_prompts
    from workbench.training.data import TrainingData

    figures = pytest.importorskip("workbench.figures")
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "mark": "point", "description": "x" * 5000}
    return {
        "page.html": lambda path: figures.save_html(spec, path),
        "matrix.json": lambda path: write(shipped(), path),
        "matrix.md": lambda path: write(shipped(), path),
        "prompts.jsonl": lambda path: write_prompts([Prompt("a" * 3000, "b")], path),
        "text.safetensors": lambda path: TrainingData(
            torch.zeros(1, 5000, dtype=torch.int32), torch.zeros(1, dtype=torch.int32),
            torch.ones(1, dtype=torch.int32), torch.zeros(1, dtype=torch.bool), {},
        ).save(path),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["page.html", "matrix.json", "matrix.md", "prompts.jsonl"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch, name):
    path = tmp_path / name
    write = writers()[name]
    write(path)
    before = path.read_bytes()
    opened = pathlib.Path.open
    monkeypatch.setattr(
        pathlib.Path,
        "open",
        lambda self, mode="r", *a, **k: _Full(self, "w") if mode == "wb" else opened(self, mode, *a, **k),
    )
    with pytest.raises(OutputError, match=f"{name} could not be written: No space left on device") as caught:
        write(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and names(tmp_path) == [name]


LIMITED = """
import resource, sys, test_files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from workbench.errors import OutputError
from pathlib import Path
path = Path(sys.argv[1])
try:
    test_files.writers()[path.name](path)
except OutputError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.parametrize("name", ["page.html", "text.safetensors"])
def test_a_limit_of_the_system_leaves_the_earlier_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"earlier")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"refused: {path} could not be written: ")
    assert path.read_bytes() == b"earlier" and names(tmp_path) == [name]


def test_an_exception_in_the_middle_changes_nothing(tmp_path):
    path = write_atomically(tmp_path / "a.json", "1")
    with pytest.raises(ZeroDivisionError), replacing(path) as scratch:
        scratch.write_text("2")
        raise ZeroDivisionError
    with pytest.raises(OutputError, match="No such file"), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "1" and names(tmp_path) == ["a.json"]


def test_rights_and_links_stay(tmp_path):
    path = write_atomically(tmp_path / "a.json", "1")
    fresh = tmp_path / "b.json"
    fresh.write_text("")
    assert path.stat().st_mode == fresh.stat().st_mode, "a new file has the usual rights"
    path.chmod(0o640)
    (tmp_path / "link.json").symlink_to(path)
    write_atomically(tmp_path / "link.json", "2")
    assert (tmp_path / "link.json").is_symlink() and path.read_text() == "2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("place", ["folder", "file/a.json", "/dev/null/a.json", "pipe"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="could not be written") as caught:
        write_atomically(tmp_path / place, "1")
    assert "\n" not in str(caught.value) and names(tmp_path) == ["file", "folder", "pipe"]


def test_tensors_are_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(3)}, {"said": "é"})
    with pytest.raises(OutputError, match="could not be written"):
        save_tensors(tmp_path / ("x" * 300), {"x": torch.ones(3)})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OutputError, match="Input/output error"):
        save_tensors(path, {"x": torch.zeros(3)})
    assert load_file(path)["x"].tolist() == [1, 1, 1] and names(tmp_path) == ["a.safetensors"]


# Names


@pytest.mark.parametrize("text", ["prompt-1", "a_b", "0", "copy-editing-3"])
def test_plain_names_stay(text):
    assert file_name(text) == text


def test_different_texts_have_different_names_on_every_file_system():
    texts = [
        "日本", "中国", "a/b", "a-b", "a b", "A-b", "..", ".", "", "-", "--", "../a", "é", "e\u0301", "con", "CON",
        "nul",
        "a.b", "a-b.", "a" * 300, "a" * 301, "ß" * 300, "\x00", "\n", "a~b", "🦙", "\ud800", "Q1", "q1", " q1",
        file_name("Q1"), file_name("日本"),
    ]  # fmt: skip
    found = [file_name(text) for text in texts]
    assert len({name.casefold() for name in found}) == len(texts)
    for name in found:
        assert name and len(name.encode()) < 120 and not set(name) & set('/\\:*?"<>|\0\n .'), name
    assert file_name("日本").startswith("日本~"), "readable all the same"


# The end of the process in the middle of a write

LOOP = """
import sys
from pathlib import Path
from workbench import store
from workbench.files import write_atomically
from test_store import small
folder = Path(sys.argv[1])
print("ready", flush=True)
turn = 0
while True:
    turn += 1
    write_atomically(folder / "page.html", str(turn % 10) * 2_000_000)
    store.write(small(float(turn)), folder / "t.nc")
    store.write(small(float(turn)), folder / f"{turn}.zarr")
"""


@pytest.mark.slow
def test_killed_at_any_moment_files_are_old_or_new_or_say_that_they_are_incomplete(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    seen = set()
    for turn in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.037 * turn)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (tmp_path / "page.html").exists():
            page = (tmp_path / "page.html").read_text()
            assert len(page) == 2_000_000 and len(set(page)) == 1
        for path, state in store.entries(tmp_path):
            seen.add(state)
            if state == "complete":
                assert store.read(path)["a/b/real"].values[0, 0] >= 1
            else:
                with pytest.raises(TraceError, match="incomplete"):
                    store.read(path)
        for item in tmp_path.glob("*.zarr"):
            store.read(item)
            for member in sorted(item.rglob("*"), reverse=True):
                member.rmdir() if member.is_dir() else member.unlink()
            item.rmdir()
    assert seen == {"complete", "incomplete"}


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", ""])
def test_what_cannot_be_a_path_is_nowhere(name):
    assert not is_there(name)
    assert is_there(".")
