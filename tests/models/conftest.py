"""Real files in miniature: a folder of safetensors and a GGUF file that transformers loads."""

import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file


def write_gguf(path):
    """Write a one-layer Llama with a byte-level tokenizer and random float32 weights; return the weights by name."""
    random = np.random.default_rng(0)
    shapes = {"token_embd": (260, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (48, 32), "blk.0.ffn_up": (48, 32), "blk.0.ffn_down": (32, 48)}
    tensors = {f"{name}.weight": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(code) for code in printable] + [chr(256 + extra) for extra in range(256 - len(printable))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<e>", "<b>", "<u>", *characters, "ab"])
    writer.add_token_types([3] * 3 + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(2)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def gguf_file(tmp_path):
    """A GGUF file that loads."""
    path = tmp_path / "gguf" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A model's folder that passes every check; the tests spoil one thing each."""
    path = tmp_path / "model"
    path.mkdir()
    weights = {"embed": np.ones((20, 8), np.float32), "layer.0": np.ones((8, 8), np.float16)}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    sizes = {"model_type": "llama", "hidden_size": 8, "vocab_size": 20, "num_hidden_layers": 2}
    (path / "config.json").write_text(json.dumps(sizes))
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    return path
