"""Stores from strangers, sealed as if this library had written them: refused in one line, before anything is opened."""

import hashlib
import json
import pickle
import resource
import struct
import sys

import h5py
import numpy as np
import pytest
import xarray as xr
from test_store import small

from workbench import store, store_zarr, trace
from workbench.errors import TraceError


def refused(path, match):
    """The one line that a store is refused with; nothing large may be allocated for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TraceError, match=match) as caught:
        store.read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    scale = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale < 300_000_000
    return str(caught.value)


# Zarr


@pytest.fixture
def folder(tmp_path):
    return store.write(small(), tmp_path / "t.zarr")


def reseal(folder):
    for name in (store.MANIFEST, store.STATUS):
        (folder / name).unlink()
    store._seal_folder(folder)


def change(folder, name="a/b/real", **values):
    """Change the metadata of a node, and seal the store again."""
    file = folder / name / "zarr.json"
    node = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in node.items() if value != "left out"}))
    reseal(folder)


BYTES, ZSTD = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd", "configuration": {}}
SHARDS = {
    "name": "sharding_indexed",
    "configuration": {"chunk_shape": [1, 1], "codecs": [{"name": "numcodecs.pickle"}], "index_codecs": [BYTES]},
}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "coded with"),
        ({"codecs": [BYTES, {"name": "numcodecs.blosc"}]}, "coded with"),
        ({"codecs": [BYTES, {"name": "gzip", "configuration": {"level": 1}}]}, "coded with"),
        ({"codecs": [SHARDS]}, "sharding_indexed"),
        ({"codecs": [BYTES, ZSTD, ZSTD]}, "coded with"),
        ({"codecs": [{"name": ["bytes"]}, ZSTD]}, "coded with"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "native"}}, ZSTD]}, "order of its bytes"),
        ({"codecs": [BYTES, {"name": "zstd", "configuration": {"dictionary": "x"}}]}, "settings"),
        ({"codecs": []}, "coded with"),
        ({"codecs": "bytes"}, "no list of codecs"),
        ({"data_type": "object"}, "data type 'object'"),
        ({"data_type": {"name": "numpy.datetime64", "configuration": {}}}, "data type"),
        ({"data_type": "string"}, "data type 'string'"),
        ({"shape": [10**12]}, "do not go together"),
        ({"shape": [10**6, 10**6]}, "4,294,967,296"),
        ({"shape": [-1, 2]}, "do not go together"),
        ({"shape": [2.0, 2]}, "do not go together"),
        ({"shape": [True, 2]}, "do not go together"),
        ({"shape": [10**400, 0]}, "do not go together"),
        ({"shape": "22"}, "do not go together"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**9, 10**9]}}}, "4,294,967,296"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 2]}}}, "do not go together"),
        ({"chunk_grid": {"name": "rectangular", "configuration": {"chunk_shape": [2, 2]}}}, "do not go together"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2]}}}, "bytes of a chunk|missing"),
        ({"chunk_grid": []}, "do not go together"),
        ({"chunk_key_encoding": {"name": "v2"}}, "keeps its chunks"),
        ({"storage_transformers": [{"name": "run"}]}, "keeps its chunks"),
        ({"dimension_names": ["p"]}, "does not name its dimensions"),
        ({"dimension_names": ["p", None]}, "does not name its dimensions"),
        ({"dimension_names": "left out"}, "does not name its dimensions"),
        ({"dimension_names": ["p", "p"]}, "is damaged|holds"),
        ({"fill_value": {"a": 1}}, "is damaged"),
        ({"fill_value": "left out"}, "is damaged"),
        ({"attributes": []}, "attributes are no table"),
        ({"zarr_format": 2}, "no group or array of Zarr version 3"),
        ({"node_type": "link"}, "no group or array of Zarr version 3"),
        ({"must_run": "this"}, "'must_run'"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__()[:60] if isinstance(value, dict) else "",
)
def test_metadata_that_this_library_does_not_write_is_refused(folder, values, match):
    change(folder, **values)
    refused(folder, match)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"consolidated_metadata": {"kind": "inline", "metadata": {"x": {"codecs": [SHARDS]}}}}, "consolidated"),
        ({"zarr_format": 2}, "version 3"),
        ({"node_type": "array"}, "data type"),
    ],
)
def test_so_is_that_of_groups(folder, values, match):
    change(folder, "a", **values)
    refused(folder, match)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "[]", "", "{", "\xff", "1" * 10_000]
)
def test_metadata_that_is_not_a_table_is_refused(folder, text):
    (folder / "a" / "zarr.json").write_text(text, "latin-1")
    reseal(folder)
    refused(folder, "a/zarr.json")


def test_attributes_nested_too_deep_are_refused(folder):
    deep = []
    for _ in range(200):
        deep = [deep]
    change(folder, attributes={"deep": deep})
    refused(folder, "nested too deep")


def test_zarr_version_2_is_refused_and_runs_nothing(tmp_path, folder):
    """Version 2 has an object codec that unpickles."""

    class Attack:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    group = folder / "old"
    (group / "x").mkdir(parents=True)
    (group / ".zgroup").write_text('{"zarr_format": 2}')
    about = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C",
        "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (group / "x" / ".zarray").write_text(json.dumps(about))
    (group / "x" / "0").write_bytes(pickle.dumps(np.array([Attack()], dtype=object)))
    reseal(folder)
    refused(folder, "version 2")
    for part in (folder / "zarr.json", folder / "a" / "zarr.json"):
        part.unlink()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    reseal(folder)
    refused(folder, "version 2")
    assert not (tmp_path / "ran").exists()


def test_a_lost_chunk_in_a_sealed_store_is_an_error_and_not_nan(folder):
    (folder / "a/b/real/c/0/0").unlink()
    reseal(folder)
    said = refused(folder, "a/b/real/c/0/0 is missing: the store is not complete")
    assert "incomplete=True" in said
    with pytest.raises(TraceError, match="missing"):
        store.read(folder)


def test_a_store_of_an_earlier_version_is_read_on_demand(tmp_path):
    """It left out chunks of one value."""
    path = tmp_path / "t.zarr"
    small().to_zarr(path, mode="w-", consolidated=False, zarr_format=3, write_empty_chunks=False)
    store._seal_folder(path)
    assert not (path / "a/b/zeros/c").exists()
    refused(path, "a/b/zeros/c/0 is missing.*as 0")
    xr.testing.assert_identical(store.read(path, incomplete=True), small())


def test_numbers_that_were_finite_come_back_finite(folder):
    tree = small()
    tree["a/b/other"] = xr.Variable("p", [1.0, 2.0], {"units": "1"})
    path = store.write(tree, folder.with_name("u.zarr"))
    assert tree["a/b/other"].attrs == {"units": "1"} == store.read(path)["a/b/other"].attrs
    lost = store.write(small(np.nan), folder.with_name("v.zarr"))
    name = "c/0/0"
    (path / "a/b/other/c/0").write_bytes((lost / f"a/b/real/{name}").read_bytes())
    reseal(path)
    refused(path, "other/c/0 does not hold the 16 bytes")
    change(path, "a/b/other", fill_value="NaN")
    (path / "a/b/other/c/0").unlink()
    reseal(path)
    with pytest.raises(TraceError, match="other holds NaN or infinity where numbers were stored"):
        store.read(path, incomplete=True)


@pytest.mark.parametrize("head", [b"", b"(\xb5/\xfd", b"(\xb5/\xfd\xe0" + struct.pack("<Q", 10**13), b"PK\x03\x04"])
def test_a_chunk_that_unpacks_to_another_size_is_refused(folder, head):
    (folder / "a/b/real/c/0/0").write_bytes(head + bytes(20))
    reseal(folder)
    refused(folder, "does not hold the 32 bytes of a chunk")


def test_a_damaged_chunk_of_the_right_size_is_one_line(folder):
    file = folder / "a/b/real/c/0/0"
    file.write_bytes(file.read_bytes()[:-8] + b"\xff" * 8)
    reseal(folder)
    refused(folder, "is damaged")


@pytest.mark.parametrize("name", ["a/b/real/c/0/7", "a/b/x", "zarr.py", "a/b/real/.zattrs", "a/b/real/real/zarr.json"])
def test_files_that_belong_to_nothing_are_refused(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes((folder / "a/zarr.json").read_bytes())
    reseal(folder)
    refused(folder, name.removesuffix("/zarr.json").replace(".", r"\."))


def test_all_of_a_store_together_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(store_zarr, "MOST_BYTES", 40)
    refused(folder, "more than 40 bytes")
    monkeypatch.setattr(store, "MOST_BYTES", 1000)
    refused(folder, "1,000 are the most")
    with pytest.raises(TraceError, match="1,000 are the most"):
        store.write(xr.DataTree(xr.Dataset({"x": ("p", np.zeros(1000))})), folder.with_name("w.zarr"))


# netCDF


@pytest.fixture
def file(tmp_path):
    return store.write(small(), tmp_path / "t.nc")


def edit(path, act):
    """Let ``act`` change the HDF5 file, and seal it again."""
    path.write_bytes(path.read_bytes()[: -store._SEAL_LENGTH])
    with h5py.File(path, "r+") as opened:
        act(opened)
    seal = store._SEAL + hashlib.sha256(path.read_bytes()).hexdigest().encode()
    path.write_bytes(path.read_bytes() + seal)


def test_an_edited_file_that_is_sealed_again_is_read(file):
    edit(file, lambda opened: opened["a/b/whole"].write_direct(np.array([1, 2], dtype="i4")))
    assert store.read(file)["a/b/whole"].values.tolist() == [1, 2]


def external_storage(opened):
    secret = opened.filename.replace("t.nc", "secret")
    with open(secret, "wb") as out:
        out.write(b"secret!!")
    opened.create_dataset("leak", (8,), "u1", external=[(secret, 0, 8)])


def virtual(opened):
    layout = h5py.VirtualLayout((2,), "i4")
    layout[:] = h5py.VirtualSource(opened.filename.replace("t.nc", "o.nc"), "x", (2,), "i4")
    opened.create_virtual_dataset("leak", layout)


def again(opened):
    opened["a/b/up"] = opened["a"]


def unknown_filter(opened):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((2,))
    made.set_filter(32000, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(opened.id, b"odd", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((2,)), made)


def never_written(opened):
    opened.create_dataset("gap", (4,), "f4", chunks=(2,))[:2] = 1


def long_attribute(opened):
    opened["a"].create_group("g", track_order=True).attrs.create("x", np.zeros(10_000_000))


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda f: f.__setitem__("leak", h5py.ExternalLink("other.nc", "/x")), "/leak is a link to another file"),
        (lambda f: f["a"].__setitem__("leak", h5py.SoftLink("/a/b/real")), "/a/leak is a soft link"),
        (lambda f: f.__setitem__("leak", h5py.SoftLink("/nowhere")), "/leak is a soft link"),
        (external_storage, "keeps its numbers in another file"),
        (virtual, "takes its numbers from other places"),
        (again, "second name"),
        (unknown_filter, "filter 32000"),
        (never_written, "/gap is not complete"),
        (lambda f: f.create_dataset("bomb", (10**12,), "f8", chunks=(1000,)), "4,294,967,296"),
        (lambda f: f.create_dataset("bomb", (1,), "f8", chunks=(10**9,), maxshape=(None,)), "/bomb"),
        (lambda f: f.create_dataset("text", data=["a"], dtype=h5py.string_dtype()), "not numbers"),
        (lambda f: f.create_dataset("empty", dtype="f4"), "not numbers"),
        (lambda f: f.__setitem__("kind", np.dtype([("a", "i4")])), "neither a group nor numbers"),
        (long_attribute, "too large"),
        (lambda f: f["a/b/real"].write_direct(np.full((2, 2), np.inf)), None),
    ],
)
def test_a_file_that_points_elsewhere_or_lies_is_refused(file, act, match):
    edit(file, act)
    if match is None:  # numbers that were not all finite may be anything
        assert np.isinf(store.read(file)["a/b/real"].values).all()
    else:
        refused(file, match)


def test_numbers_of_a_file_that_were_finite_come_back_finite(tmp_path):
    tree = small()
    tree["a/b/other"] = xr.Variable("p", [1.0, 2.0], {"units": "1"})
    path = store.write(tree, tmp_path / "u.nc")
    edit(path, lambda opened: opened["a/b/other"].write_direct(np.array([1.0, np.nan])))
    refused(path, "/a/b/other holds NaN or infinity where numbers were stored")


def test_a_sealed_file_that_is_no_hdf5_is_one_line(tmp_path):
    for number, content in enumerate((b"", b"x" * 5000, b"\x89HDF\r\n\x1a\n" + b"\xff" * 500, b"CDF\x01" + bytes(90))):
        path = tmp_path / f"{number}.nc"
        path.write_bytes(content + store._SEAL + hashlib.sha256(content).hexdigest().encode())
        refused(path, "is damaged")


# What the attributes of a trace say


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("vocabulary", "[" * 100_000, "'vocabulary' is missing or no JSON"),
        ("vocabulary", '{"a": "b"}', "does not map numbers to texts"),
        ("vocabulary", '{"1": 2}', "does not map numbers to texts"),
        ("vocabulary", "[]", "does not map numbers to texts"),
        ("vocabulary", 3, "'vocabulary' is no text"),
        ("recipe", "{", "'recipe' is missing or no JSON"),
        ("model", 1.5, "'model' is no text"),
        ("kind", ["study"], "kind"),
        ("kind", "study", "'runs' is missing or no JSON"),
        ("schema", "1", "schema"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_attributes_that_are_not_a_traces_are_named(tmp_path, name, value, match):
    attrs = {
        "schema": 1, "kind": "observe", "model": "m", "revision": "", "recipe": "[]", "seed": 0, "dtype": "float32",
        "device": "cpu", "versions": "{}", "vocabulary": '{"1": "a"}',
    }  # fmt: skip
    path = trace.save(xr.DataTree(xr.Dataset(attrs=attrs)), tmp_path / "good.zarr")
    assert trace.open(path).attrs == attrs
    bad = store.write(xr.DataTree(xr.Dataset(attrs=attrs | {name: value})), tmp_path / "bad.zarr")
    with pytest.raises(TraceError, match=match):
        trace.open(bad)
