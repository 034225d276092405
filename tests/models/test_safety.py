"""Hostile and damaged model files, made of real bytes: each is refused, and none runs anything."""

import json
import os
import pickle
import random
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from workbench.errors import CorruptModel, ModelError, UnsafeModel
from workbench.models.manifest import check_manifest, write_manifest
from workbench.models.safety import check_folder, download


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def safetensors_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, stop, dtype="U8"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def put(folder, content):
    (folder / "model.safetensors").write_bytes(content)


def configure(folder, name="config.json", **settings):
    file = folder / name
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | settings))


# What is sound passes


def test_a_sound_folder_gives_its_weight_files(folder):
    assert check_folder(folder) == [folder / "model.safetensors"]
    assert check_folder(str(folder)) == [folder / "model.safetensors"]


def test_a_sound_gguf_file_passes_alone_and_in_its_folder(gguf_file):
    assert check_folder(gguf_file) == check_folder(gguf_file.parent) == [gguf_file]


def test_every_number_format_that_safetensors_writes_is_known(folder):
    formats = [np.float64, np.float32, np.float16, np.int64, np.int8, np.uint16, np.uint8, np.bool_, np.complex64]
    save_file({np.dtype(kind).name: np.zeros((3, 2), kind) for kind in formats}, folder / "model.safetensors")
    assert check_folder(folder)


def test_words_that_only_stand_in_a_vocabulary_or_a_text_are_no_code(folder):
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"auto_map": 1, "trust_remote_code": 2}}}))
    configure(folder, "tokenizer_config.json", chat_template="say auto_map and trust_remote_code")
    configure(folder, attn_implementation="sdpa")
    assert check_folder(folder)


def test_a_pickle_beside_safetensors_is_not_what_is_loaded(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert check_folder(folder) == [folder / "model.safetensors"]


# Pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt"])
def test_a_folder_of_pickles_is_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsafeModel, match=name):
        check_folder(folder)
    with pytest.raises(UnsafeModel, match="pickle"):
        check_folder(folder / name)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_a_pickle_under_another_name_is_refused_and_not_run(folder, tmp_path, protocol, suffix):
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "the pickle ran"
    (folder / f"model.{suffix}").write_bytes(pickle.dumps(Bomb(trace), protocol=protocol))
    with pytest.raises(UnsafeModel, match="pickle"):
        check_folder(folder)
    assert not trace.exists()


def test_a_torch_archive_under_another_name_is_refused(folder):
    torch.save({"embed": torch.ones(4)}, folder / "model.safetensors")
    with pytest.raises(UnsafeModel, match="pickle"):
        check_folder(folder)


# Code asked for by a configuration


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "other.json"])
@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "custom_pipelines"])
def test_a_configuration_that_asks_for_code_is_refused_at_any_depth(folder, name, key):
    configure(folder, name, deep=[{"deeper": {key: {"AutoModel": "evil.Model"}}}])
    with pytest.raises(UnsafeModel, match=rf"{name}.*{key}"):
        check_folder(folder)


@pytest.mark.parametrize("value", ["owner/kernel", "owner/kernel@main:forward", {"text": "owner/kernel"}])
def test_a_configuration_that_asks_for_a_kernel_from_a_hub_is_refused(folder, value):
    configure(folder, attn_implementation=value)
    with pytest.raises(UnsafeModel, match="from a hub"):
        check_folder(folder)


def test_a_configuration_that_points_at_other_weights_is_refused(folder):
    configure(folder, transformers_weights="pytorch_model.bin")
    with pytest.raises(UnsafeModel, match="transformers_weights"):
        check_folder(folder)


def test_an_adapter_that_names_another_model_is_refused(folder):
    configure(folder, "adapter_config.json", base_model_name_or_path="owner/evil")
    with pytest.raises(UnsafeModel, match="adapter"):
        check_folder(folder)


def test_a_gguf_file_does_not_hide_the_configuration_beside_it(gguf_file):
    configure(gguf_file.parent, "tokenizer_config.json", auto_map={"AutoTokenizer": "evil.Tokenizer"})
    with pytest.raises(UnsafeModel, match="auto_map"):
        check_folder(gguf_file)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_configuration_that_is_no_table_of_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(CorruptModel, match=r"config\.json"):
        check_folder(folder)


@pytest.mark.parametrize("sizes", [{"hidden_size": 10**9}, {"vocab_size": 10**12}, {"num_hidden_layers": 10**9}])
def test_a_configuration_far_larger_than_its_weights_is_refused(folder, sizes):
    configure(folder, **sizes)
    with pytest.raises(CorruptModel, match="far larger"):
        check_folder(folder)


# Safetensors


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header"),
        (b"\x08\x00", "header"),
        (safetensors_bytes({}, length=2**63), "header claims 9,223,372,036,854,775,808"),
        (safetensors_bytes({}, length=5_000_000_000), "header claims 5,000,000,000"),
        (safetensors_bytes({}, length=3), "header claims 3"),
        (safetensors_bytes(b"{not json"), "not JSON"),
        (safetensors_bytes(b"[" * 50_000), "not JSON"),
        (safetensors_bytes([1]), "not a table"),
        (safetensors_bytes({"a": 1}), "cannot be read"),
        (safetensors_bytes({"a": entry([4], 0, 4, "X9")}, b"1234"), "cannot be read"),
        (safetensors_bytes({"a": entry([4], 0, 400)}, b"1234"), "400"),
        (safetensors_bytes({"a": entry([400], 0, 400)}, b"1234"), "holds 4 bytes"),
        (safetensors_bytes({"a": entry([4], 4, 8)}, b"12345678"), "starts at 4"),
        (safetensors_bytes({"a": entry([4], 0, 4), "b": entry([4], 2, 6)}, b"123456"), "starts at 2"),
        (safetensors_bytes({"a": entry([4], 0, 4)}, b"12345678"), "holds 8 bytes"),
        (safetensors_bytes({"a": entry([-4], 0, -4)}, b""), "impossible"),
        (safetensors_bytes({"a": entry([4.0], 0, 4)}, b"1234"), "impossible"),
        (safetensors_bytes({"a": entry([2**62, 2**62, 0], 0, 0)}, b""), "impossible"),
        (safetensors_bytes({"a": entry([1] * 9999, 0, 1)}, b"1"), "impossible"),
        (safetensors_bytes({"a": entry([3], 0, 4, "F32")}, b"1234"), "4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"<!doctype html><title>Not found</title>", "header claims"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(folder, content, reason):
    put(folder, content)
    with pytest.raises(CorruptModel, match=reason):
        check_folder(folder)


def test_a_safetensors_file_cut_anywhere_is_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        put(folder, whole[:length])
        with pytest.raises(CorruptModel):
            check_folder(folder)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_flipped_bytes_raise_nothing_but_a_model_error(folder, gguf_file, kind):
    target = gguf_file if kind == "gguf" else folder / "model.safetensors"
    whole, draw, refused = target.read_bytes(), random.Random(0), 0
    for _ in range(400):
        spoiled = bytearray(whole)
        spoiled[draw.randrange(min(len(whole), 1000))] = draw.randrange(256)
        target.write_bytes(spoiled)
        try:
            check_folder(target.parent)
        except ModelError:
            refused += 1
    assert refused > 40


# An index of several files


def test_an_index_is_followed_only_within_the_folder(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"embed": "model.safetensors"}}))
    assert check_folder(folder)
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "..", "", 7, "C:x"]:
        index.write_text(json.dumps({"weight_map": {"embed": name}}))
        with pytest.raises(UnsafeModel, match="outside"):
            check_folder(folder)
    for weights in [{"embed": "absent.safetensors"}, {"absent": "model.safetensors"}, None]:
        index.write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(CorruptModel):
            check_folder(folder)


# Links and odd files


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "model.safetensors").rename(outside / "model.safetensors")
    (folder / "model.safetensors").symlink_to("../outside/model.safetensors")
    with pytest.raises(UnsafeModel, match="link"):
        check_folder(folder)


def test_a_linked_folder_is_refused(folder, tmp_path):
    (folder / "extra").symlink_to(tmp_path)
    with pytest.raises(UnsafeModel, match="link"):
        check_folder(folder)


def test_a_dead_link_and_a_pipe_are_refused_without_waiting(folder):
    (folder / "generation_config.json").symlink_to("absent.json")
    with pytest.raises(CorruptModel, match="dead link"):
        check_folder(folder)
    (folder / "generation_config.json").unlink()
    os.mkfifo(folder / "b.safetensors")
    with pytest.raises(CorruptModel, match="no plain file"):
        check_folder(folder)


def test_a_hub_snapshot_may_link_to_its_own_blobs(folder, tmp_path):
    home = tmp_path / "models--owner--name"
    snapshot = home / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    (home / "blobs").mkdir()
    folder.rename(snapshot)
    (snapshot / "model.safetensors").rename(home / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert check_folder(snapshot)


# Checksums


def test_a_manifest_is_kept(folder):
    write_manifest(folder, name="x")
    weights = folder / "model.safetensors"
    assert check_manifest(folder, full=True)
    assert check_folder(folder, full=True)
    about, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptModel, match="checksum"):
        check_folder(folder)
    os.utime(weights, ns=(about.st_atime_ns, about.st_mtime_ns))  # damage that left no mark is found when asked for
    with pytest.raises(CorruptModel, match="checksum"):
        check_folder(folder, full=True)
    weights.write_bytes(content + b"x")
    with pytest.raises(CorruptModel, match="bytes"):
        check_manifest(folder)
    (folder / "tokenizer_config.json").unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptModel, match="missing"):
        check_manifest(folder)


def test_a_copied_model_has_other_times_and_still_passes(folder):
    write_manifest(folder)
    os.utime(folder / "model.safetensors")
    assert check_folder(folder)


def test_a_manifest_names_nothing_outside_and_anothers_manifest_is_left_alone(folder):
    (folder / "manifest.json").write_text(json.dumps({"files": {"../x": {"bytes": 1, "sha256": ""}}}))
    with pytest.raises(UnsafeModel, match="outside"):
        check_folder(folder)
    (folder / "manifest.json").write_text(json.dumps({"files": ["anything"]}))
    assert check_folder(folder)


# GGUF


def gguf_bytes(version=3, tensors=0, pairs=0, rest=b"", magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensors, pairs) + rest


def text(word, length=None):
    return struct.pack("<Q", len(word) if length is None else length) + word


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def tensor(name=b"a", shape=(32,), kind=0, start=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begin"),
        (gguf_bytes(magic=b"GGML"), "begin"),
        (gguf_bytes(version=99), "version 99"),
        (gguf_bytes(version=0x03000000), "version"),
        (gguf_bytes(tensors=2**63), "tensors"),
        (gguf_bytes(pairs=2**40), "metadata entries"),
        (gguf_bytes(pairs=1, rest=text(b"", 2**60) + b"0" * 20), "characters"),
        (gguf_bytes(pairs=1, rest=text(b"k" * 9) + struct.pack("<I", 77) + b"0" * 9), "unknown type 77"),
        (gguf_bytes(pairs=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 2**50)), "texts"),
        (gguf_bytes(pairs=1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, 2**50)), "numbers"),
        (gguf_bytes(pairs=1, rest=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "unknown type 9"),
        (gguf_bytes(pairs=1, rest=text(b"\xff\xfe") + b"0" * 9), "cannot be read"),
        (gguf_bytes(tensors=1, rest=tensor(shape=(1,) * 9)), "dimensions"),
        (gguf_bytes(tensors=1, rest=tensor(kind=999)), "number format 999"),
        (gguf_bytes(tensors=1, rest=tensor(kind=2, shape=(33,))), "does not fit"),
        (gguf_bytes(tensors=1, rest=tensor(shape=(2**60,))), "does not fit"),
        (gguf_bytes(tensors=1, rest=tensor(start=5)), "does not fit"),
        (gguf_bytes(tensors=1, rest=tensor(start=2**40)), "outside"),
        (gguf_bytes(tensors=1, rest=tensor()), "outside"),
        (gguf_bytes(tensors=2, rest=tensor() + tensor() + b"0" * 999), "twice"),
        (gguf_bytes(tensors=2, rest=tensor() + tensor(b"b", start=32) + b"0" * 999), "overlaps"),
        (
            gguf_bytes(pairs=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)),
            "alignment 0",
        ),
        (gguf_bytes(), "architecture"),
        (
            gguf_bytes(pairs=2, rest=ARCHITECTURE + text(b"llama.block_count") + struct.pack("<II", 4, 10**9)),
            "far larger",
        ),
    ],
)
def test_a_damaged_gguf_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CorruptModel, match=reason):
        check_folder(path)


def test_a_gguf_file_cut_anywhere_is_refused(gguf_file):
    whole = gguf_file.read_bytes()
    for length in [*range(0, 2000, 7), *range(2000, len(whole), 999), len(whole) - 1]:
        gguf_file.write_bytes(whole[:length])
        with pytest.raises(CorruptModel):
            check_folder(gguf_file)


# Nothing to load, or too much


def test_what_cannot_be_loaded_is_said_plainly(folder, gguf_file, tmp_path):
    with pytest.raises(ModelError, match="neither a folder"):
        check_folder(tmp_path / "absent")
    with pytest.raises(ModelError, match="name the folder"):
        check_folder(folder / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="neither safetensors nor"):
        check_folder(tmp_path / "empty")
    (gguf_file.parent / "second.gguf").write_bytes(gguf_file.read_bytes())
    with pytest.raises(ModelError, match="name the one"):
        check_folder(gguf_file.parent)


# The hub, played by a server on this machine

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the repositories in ``hub.repositories``: name -> file name -> bytes; it notes what was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            self.server.asked.append(path)
            for name, files in self.server.repositories.items():
                if path.startswith(f"/api/models/{name}/revision/"):
                    names = [{"rfilename": file} for file in files]
                    return self.reply(json.dumps({"id": name, "sha": COMMIT, "siblings": names}).encode())
                if path.startswith(f"/api/models/{name}/tree/"):
                    tree = [
                        {"type": "file", "path": file, "size": len(content), "oid": f"{len(content):040x}"}
                        for file, content in files.items()
                    ]
                    return self.reply(json.dumps(tree).encode())
                file = path.removeprefix(f"/{name}/resolve/{COMMIT}/")
                if file in files:
                    return self.reply(files[file])
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()

        do_HEAD = do_GET

        def reply(self, content):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hash(content):x}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.repositories, server.asked = {}, []
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_download_takes_weights_and_text_and_leaves_pickles_and_code(hub, folder):
    extra = {"pytorch_model.bin": b"\x80\x04.", "modeling_evil.py": b"raise SystemExit", "onnx/model.safetensors": b"x"}
    hub.repositories["owner/name"] = files_of(folder) | extra
    taken = download("owner/name")
    assert {file.name for file in taken.iterdir()} == set(files_of(folder))
    assert check_folder(taken)
    assert not any(asked.endswith((".bin", ".py", "onnx/model.safetensors")) for asked in hub.asked)


def test_a_download_is_used_again_when_the_hub_is_out_of_reach(hub, folder, monkeypatch):
    hub.repositories["owner/name"] = files_of(folder)
    taken = download("owner/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download("owner/name") == taken
    with pytest.raises(ModelError, match=r"could not be fetched.*smollm2-135m"):
        download("owner/other")


def test_a_download_is_checked_as_any_folder_is(hub, folder):
    configure(folder, auto_map={"AutoModel": "evil.Model"})
    hub.repositories["owner/name"] = files_of(folder)
    with pytest.raises(UnsafeModel, match="auto_map"):
        download("owner/name")


def test_a_repository_of_pickles_is_refused_before_anything_is_taken(hub):
    hub.repositories["owner/name"] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."}
    with pytest.raises(UnsafeModel, match="neither safetensors nor GGUF"):
        download("owner/name")
    assert not any("resolve" in asked for asked in hub.asked)


def test_one_of_several_gguf_files_is_chosen_by_name(hub, gguf_file):
    hub.repositories["owner/name"] = {"a.gguf": gguf_file.read_bytes(), "b.gguf": gguf_file.read_bytes()}
    with pytest.raises(ModelError, match=r"owner/name:a\.gguf"):
        download("owner/name")
    with pytest.raises(ModelError, match=r"no file c\.gguf"):
        download("owner/name:c.gguf")
    assert download("owner/name:b.gguf").name == "b.gguf"
    assert not any(asked.endswith("a.gguf") for asked in hub.asked)


@pytest.mark.parametrize("name", ["../../etc", "a/b/c", "owner/na me", "owner/"])
def test_a_name_that_is_no_id_is_refused_without_asking(hub, name):
    with pytest.raises(ModelError, match="no Hugging Face id"):
        download(name)
    assert not hub.asked


def test_an_absent_repository_is_said_to_be_absent(hub):
    with pytest.raises(ModelError, match="no public model"):
        download("owner/absent")
