"""Compiled libraries in the cache: whole or made anew, made once, and only where nobody else can put another."""

import os
import subprocess
import sys

import pytest

from workbench_kernels import native
from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.private_folder import is_private, private_folder

SOURCE = 'extern "C" int answer() { return 42; }\n'
START = """
import sys
from pathlib import Path
from workbench_kernels.native import library
print(library(Path(sys.argv[1])).answer())
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE)
    try:
        native._loaded(path, ())
    except BackendUnavailable as error:
        pytest.skip(f"nothing can be compiled here: {error}")
    return path


def start(source, **environment):
    """A process that loads the library and calls it."""
    return subprocess.Popen(
        [sys.executable, "-c", START, str(source)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )  # fmt: skip


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (process.returncode, err)
    return out


def only(folder, ending):
    (found,) = folder.glob(f"*{ending}")
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:64] + bytes(len(whole) - 64),
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: b"\x7fELF" + b"\xff" * 5000,
    ],
    ids=["empty", "cut", "zeros", "one bit", "another"],
)
def test_a_damaged_library_is_made_anew_and_kills_nothing(source, damage, tmp_path):
    made = only(tmp_path / "cache" / "native", ".so")
    whole = made.read_bytes()
    # Another file, not this process's open one changed under its feet.
    made.unlink()
    made.write_bytes(damage(whole))
    assert ended(start(source)) == "42\n"
    assert made.read_bytes() == whole
    assert sorted(item.suffix for item in made.parent.iterdir()) in ([".lock", ".sha256", ".so"], [".sha256", ".so"])


@pytest.mark.parametrize("text", [None, "", "f" * 64, "\xff"])
def test_without_its_checksum_a_library_is_made_anew(source, text, tmp_path):
    beside = only(tmp_path / "cache" / "native", ".sha256")
    known = beside.read_text()
    beside.unlink() if text is None else beside.write_text(text, "latin-1")
    assert native._loaded(source, ()).answer() == 42
    assert beside.read_text() == known


def test_a_whole_library_is_not_made_again(source, monkeypatch):
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native._loaded(source, ()).answer() == 42


def test_processes_that_start_together_compile_once(source, tmp_path):
    real, log, wrapped = native.shutil.which("c++"), tmp_path / "log", tmp_path / "compiler"
    if real is None:
        pytest.skip("the compiler here is not called c++")
    wrapped.write_text(f'#!/bin/sh\ncase "$*" in *answer.cpp*) echo x >> {log}; sleep 1;; esac\nexec {real} "$@"\n')
    wrapped.chmod(0o755)
    processes = [start(source, CXX=str(wrapped)) for _ in range(3)]
    assert [ended(process) for process in processes] == ["42\n"] * 3
    assert log.read_text() == "x\n"


def test_a_folder_that_others_can_write_is_refused(source, tmp_path):
    folder = tmp_path / "cache" / "native"
    for place in (folder, folder.parent):
        place.chmod(0o777)
        with pytest.raises(OSError, match=r"can be changed by others.*chmod 700"):
            native._loaded(source, ())
        place.chmod(0o700)
    folder.parent.chmod(0o775)  # what a umask of 002 makes, where every user has a group of its own
    assert native._loaded(source, ()).answer() == 42
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="can be changed by others"):
        native._loaded(source, ())


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    folder = private_folder("compiled")
    assert folder.stat().st_mode & 0o777 == 0o700 and is_private(folder)
    os.chown(folder, 12345, 12345)
    with pytest.raises(PermissionError, match="can be changed by others"):
        private_folder("compiled")
