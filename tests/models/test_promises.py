"""Configurations and files that ask for any amount of memory are refused at once, with the memory as it was."""

import json
import resource
import struct
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from workbench.errors import CorruptModel, ModelError, UnsupportedModel
from workbench.models.families import FAMILIES
from workbench.models.load import load
from workbench.models.safety import check_folder
from workbench.models.tiny import tiny

ROOM = 200_000_000  # bytes


@pytest.fixture(autouse=True)
def silent():
    """Saving shows a progress bar."""
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    yield
    theirs.enable_progress_bar()


@contextmanager
def little_room(seconds=5.0):
    """No more than `ROOM` can be had, and it must not take long."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, start = resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < seconds


@pytest.fixture
def saved(tmp_path):
    """The folder of a tiny model of a family and its configuration."""

    def save(family):
        path = tmp_path / family
        tiny(family).hf.save_pretrained(path)
        return path, json.loads((path / "config.json").read_text())

    return save


SIZES = ["num_labels", "vocab_size", "head_dim", "intermediate_size", "hidden_size", "num_hidden_layers"]
SIZES += ["num_attention_heads", "num_key_value_heads"]


@pytest.mark.parametrize(
    ("family", "key"),
    [
        *(("llama", key) for key in SIZES),
        *(("mixtral", key) for key in ("num_local_experts", "num_hidden_layers")),
        *(("qwen3_moe", key) for key in ("num_experts", "moe_intermediate_size")),
        *(("gpt2", key) for key in ("n_positions", "n_embd", "n_inner", "n_layer")),
        *(("opt", key) for key in ("max_position_embeddings", "ffn_dim", "word_embed_proj_dim")),
    ],
)
@pytest.mark.parametrize("number", [10**9, 2_000_000])
def test_a_size_out_of_proportion_is_refused_with_the_memory_flat(saved, family, key, number):
    path, config = saved(family)
    load(str(path), device="cpu")  # what is imported and cached on the way is not counted
    config.pop("layer_types", None)  # of another length than the number of layers it would be refused for that
    (path / "config.json").write_text(json.dumps({**config, key: number}))
    with little_room(), pytest.raises(ModelError) as caught:
        load(str(path), device="cpu")
    assert "memory" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_family_without_a_row_is_refused_before_its_configuration_is_made(saved):
    path, config = saved("llama")
    sizes = dict.fromkeys(("decoder_layers", "encoder_layers", "depth", "n_layers", "num_hidden_groups"), 10**9)
    for kind in ("bart", "zamba2", "dbrx", "mpt"):
        (path / "config.json").write_text(json.dumps({**config, **sizes, "model_type": kind}))
        with little_room(), pytest.raises(UnsupportedModel, match=f"{kind!r} is not supported"):
            load(str(path), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_number_of_a_configuration_takes_memory_or_raises_anything_else(saved, family):
    path, config = saved(family)
    load(str(path), device="cpu")
    for key, value in config.items():
        for spoiled in (10**9, 0, -1, 1e30, "many", [10**9], {"a": 10**9}):
            if value is None or isinstance(value, int | float) or key in ("layer_types", "rope_parameters"):
                (path / "config.json").write_text(json.dumps({**config, key: spoiled}))
                with little_room():
                    try:
                        load(str(path), device="cpu")
                    except ModelError as error:
                        assert "\n" not in str(error), (key, spoiled)


# Files


def test_a_header_of_many_empty_lists_is_not_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    header = b'{"a":[' + b"[]," * 20_000_000 + b"[]]}"
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with little_room(), pytest.raises(CorruptModel, match="header claims"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("item", [b"[],", b"0,"])
def test_a_configuration_of_absurd_size_is_not_read(saved, name, item):
    path, _ = saved("llama")
    (path / name).write_bytes(b'{"a":[' + item * 30_000_000 + b"0]}")
    with little_room(), pytest.raises(CorruptModel, match=name):
        check_folder(path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "added_tokens.json"])
def test_a_vocabulary_of_absurdly_many_values_is_not_read(saved, name):
    path, _ = saved("llama")
    (path / name).write_bytes(b'{"a":[' + b"[]," * 10_000_000 + b"0]}")
    with little_room(), pytest.raises(CorruptModel, match=f"{name} holds more than"):
        check_folder(path)


def test_a_gguf_file_of_absurdly_many_entries_is_not_read(tmp_path):
    def text(word):
        return struct.pack("<Q", len(word)) + word

    pair = text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 0, 9_000_000) + bytes(9_000_000)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    with little_room(), pytest.raises(CorruptModel, match="9,000,000 entries for 0 tokens"):
        check_folder(tmp_path / "a.gguf")
