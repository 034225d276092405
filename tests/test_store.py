"""Traces on disk: whole or not there, and never silently wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from workbench import store
from workbench.errors import TraceError


def small(value=1.5):
    data = {
        "real": (("p", "q"), np.array([[value, np.nan], [0.0, -2.0]]), {"units": "1", "layer": 3}),
        "whole": ("p", np.array([7, -1], dtype=np.int32), {"units": "1", "long_name": "an integer"}),
        "zeros": ("p", np.zeros(2, dtype=np.int16)),
        "none": ("r", np.zeros(0)),
    }
    inner = xr.Dataset(data, coords={"p": np.arange(2)})
    return xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"text": "é</script>" * 20_000, "n": 3, "x": 0.5, "empty": ""}), "a/b": inner}
    )


@pytest.mark.parametrize("name", ["t.zarr", "t.nc"])
def test_what_is_written_is_read_back(tmp_path, name):
    path = store.write(small(), tmp_path / "new" / name)
    found = store.read(path)
    xr.testing.assert_identical(found, small())
    assert [type(value) for value in found.attrs.values()] == [str, int, float, str]
    assert type(found["a/b/real"].attrs["layer"]) is int
    assert [item.name for item in path.parent.iterdir()] == [name]
    assert store.entries(path.parent) == [(path, "complete")]


def test_a_zarr_store_is_never_changed_and_a_netcdf_export_is_replaced(tmp_path):
    store.write(small(), tmp_path / "t.zarr")
    with pytest.raises(TraceError, match="never changed"):
        store.write(small(2.0), tmp_path / "t.zarr")
    xr.testing.assert_identical(store.read(tmp_path / "t.zarr"), small())
    for value in (1.0, 2.0):
        store.write(small(value), tmp_path / "t.nc")
    assert store.read(tmp_path / "t.nc")["a/b/real"].values[0, 0] == 2.0


def test_a_flipped_byte_in_any_file_is_found_and_named(tmp_path):
    path = store.write(small(), tmp_path / "t.zarr")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    assert len(files) > 8
    for file in files:
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            named = "manifest.json" if file.name == "status.json" else file.relative_to(path).as_posix()
            with pytest.raises(TraceError, match=f"{named}|status.json"):
                store.read(path)
        file.write_bytes(whole)
    xr.testing.assert_identical(store.read(path), small())


def test_a_missing_chunk_is_an_error_and_not_nan(tmp_path):
    path = store.write(small(), tmp_path / "t.zarr")
    chunk = next(file for file in path.rglob("*") if file.is_file() and "real/c/" in file.as_posix())
    chunk.unlink()
    with pytest.raises(TraceError, match=r"a/b/real/c/.* is missing"):
        store.read(path)


def test_a_file_that_nobody_listed_is_refused(tmp_path):
    path = store.write(small(), tmp_path / "t.zarr")
    (path / "a" / "b" / "zeros" / "c" / "1").write_bytes(b"\x01\x00\x01\x00")
    with pytest.raises(TraceError, match=r"zeros/c/1 .* not in its manifest"):
        store.read(path)


def test_without_its_status_a_store_is_incomplete(tmp_path):
    path = store.write(small(), tmp_path / "t.zarr")
    (path / "status.json").unlink()
    with pytest.raises(TraceError, match="incomplete"):
        store.read(path)
    assert store.entries(tmp_path) == [(path, "incomplete")]


def test_a_link_in_a_store_or_in_its_place_is_refused(tmp_path):
    path = store.write(small(), tmp_path / "t.zarr")
    (tmp_path / "other.zarr").symlink_to(path)
    with pytest.raises(TraceError, match=r"other\.zarr"):
        store.read(tmp_path / "other.zarr")
    with pytest.raises(TraceError, match="link"):
        store.write(small(), tmp_path / "other.zarr")
    chunk = next(file for file in path.rglob("*") if file.is_file() and "real/c/" in file.as_posix())
    elsewhere = tmp_path / "chunk"
    chunk.rename(elsewhere)
    chunk.symlink_to(elsewhere)
    with pytest.raises(TraceError, match="link"):
        store.read(path)
    assert store.entries(tmp_path) == [(path, "complete")]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "", "a\\..\\b"])
def test_a_manifest_that_reaches_outside_is_refused(tmp_path, name):
    path = store.write(small(), tmp_path / "t.zarr")
    (tmp_path / "outside").write_text("secret")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": store._digest(tmp_path / "outside")}
    reseal(path, json.dumps(manifest))
    with pytest.raises(TraceError, match="outside it"):
        store.read(path)


def reseal(path, text):
    """Put a forged manifest in place with a status that vouches for it."""
    (path / "manifest.json").write_text(text)
    (path / "status.json").write_text(json.dumps({"manifest_sha256": store._digest(path / "manifest.json")}))


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": []}', "[" * 100_000, '{"files": {"zarr.json": 3}}'])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path, text):
    path = store.write(small(), tmp_path / "t.zarr")
    reseal(path, text)
    with pytest.raises(TraceError, match="manifest"):
        store.read(path)


def test_a_damaged_netcdf_file_is_found(tmp_path):
    path = store.write(small(), tmp_path / "t.nc")
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(TraceError, match=r"t\.nc is damaged"):
            store.read(path)
    for cut in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(TraceError, match="incomplete"):
            store.read(path)
        assert store.entries(tmp_path) == [(path, "incomplete")]


def test_other_tools_read_the_netcdf_file(tmp_path):
    h5netcdf = pytest.importorskip("h5netcdf", reason="the netCDF backend itself is missing")
    with h5netcdf.File(store.write(small(), tmp_path / "t.nc"), "r") as file:
        assert file["a/b/whole"][:].tolist() == [7, -1]


@pytest.mark.parametrize("name", ["t.txt", "t", "zarr"])
def test_another_ending_is_refused(tmp_path, name):
    for act in (lambda: store.write(small(), tmp_path / name), lambda: store.read(tmp_path / name)):
        with pytest.raises(TraceError, match="ends in neither"):
            act()


def test_a_place_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "t.nc").mkdir()
    (tmp_path / "t.zarr").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("t.nc", "t.zarr", "absent.zarr", "no/such/folder.nc"):
        with pytest.raises(TraceError):
            store.read(tmp_path / name)
    for name in ("t.nc", "file/t.zarr"):
        with pytest.raises(TraceError):
            store.write(small(), tmp_path / name)


@pytest.mark.parametrize("name", ["t.zarr", "t.nc"])
def test_an_error_in_the_middle_leaves_nothing(tmp_path, name, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TraceError, match="No space left"):
        store.write(small(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
from workbench import store
from workbench.errors import TraceError
sys.path.insert(0, {tests!r})
from test_store import small
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tree = small()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    store.write(tree, sys.argv[1])
except TraceError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 3000, 150_000])
@pytest.mark.parametrize("name", ["t.zarr", "t.nc"])
def test_a_disk_that_fills_up_while_it_is_written_says_one_line_and_leaves_what_was_there(tmp_path, name, room):
    before = store.write(small(), tmp_path / "t.nc").read_bytes()
    code = FULL.format(tests=os.path.dirname(__file__))
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name), str(room)], capture_output=True, timeout=60, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("could not be written: File too large\n") and found.stdout.count("\n") == 1
    assert (tmp_path / "t.nc").read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["t.nc"]


KILLED = """
import os, signal, sys
from workbench import store
sys.path.insert(0, {tests!r})
from test_store import small
def kill(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
{where} = kill
store.write(small(9.0), sys.argv[1])
"""


@pytest.mark.parametrize(
    ("name", "where"), [("t.zarr", "store._seal_folder"), ("t.zarr", "os.replace"), ("t.nc", "store._digest")]
)
def test_kill_9_in_the_middle_shows_as_incomplete_and_leaves_the_others_whole(tmp_path, name, where):
    other = store.write(small(), tmp_path / "other.zarr")
    code = KILLED.format(tests=os.path.dirname(__file__), where=where)
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, timeout=120)
    assert result.returncode == -9, result.stderr.decode()
    with pytest.raises(TraceError, match="incomplete: its writing was interrupted"):
        store.read(tmp_path / name)
    assert store.entries(tmp_path) == [(other, "complete"), (tmp_path / name, "incomplete")]
    xr.testing.assert_identical(store.read(other), small())
    store.write(small(3.0), tmp_path / name)
    assert store.read(tmp_path / name)["a/b/real"].values[0, 0] == 3.0
    assert (tmp_path / name, "complete") in store.entries(tmp_path)


def test_what_is_read_is_in_memory(tmp_path):
    written = small()
    written["a/b/a"] = written["a/b/whole"]  # called like a group
    path = store.write(written, tmp_path / "t.nc")
    tree = store.read(path)
    path.unlink()
    assert all(array._in_memory for node in tree.subtree for array in node.variables.values())
    xr.testing.assert_identical(tree, written)
    assert store.entries(tmp_path / "nowhere") == []
