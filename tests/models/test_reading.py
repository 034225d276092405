"""Folders as people have them: what is not all there is refused by name, and what is there loads as it was saved."""

import copy
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.engine import generate
from workbench.errors import CorruptModel, ModelError, PromptError, UnsupportedModel
from workbench.listing import registered
from workbench.models.families import FAMILIES
from workbench.models.generation_settings import asked_for
from workbench.models.load import load
from workbench.models.reading import gguf_compared
from workbench.models.tiny import tiny
from workbench.models.weight_files import Contents
from workbench.settings import parse

TOKENS = torch.tensor([[5, 6, 7, 3]])


@pytest.fixture(autouse=True)
def silent():
    """Saving shows a progress bar."""
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    yield
    theirs.enable_progress_bar()


@pytest.fixture
def saved(tmp_path):
    """Save a tiny model: ``saved(family, **settings of its configuration)`` gives the folder."""

    def save(family="llama", **settings):
        path = tmp_path / family
        tiny(family).hf.save_pretrained(path)
        configure(path, **settings)
        return path

    return save


def configure(path, name="config.json", **settings):
    file = path / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | settings))


def restore(path, change):
    """Write the tensors of a folder anew after `change`, from names to tensors to the same."""
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def without(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def logits(model):
    return model.hf(TOKENS).logits


def refused(path, *words, error=CorruptModel):
    with pytest.raises(error) as caught:
        load(str(path), device="cpu")
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_as_it_was_saved_and_every_lack_is_named(family, saved):
    path = saved(family)
    assert torch.equal(logits(load(str(path), device="cpu")), logits(tiny(family)))
    names = sorted(load_file(path / "model.safetensors"))
    inner = [name for name in names if ".1." in name and "weight" in name]
    for lacking in (inner[0], inner[len(inner) // 2], next(name for name in names if "norm" in name or "ln_f" in name)):
        saved(family)
        restore(path, without(lacking))
        refused(path, "1 missing", lacking)


def test_a_whole_layer_under_another_name_is_named_with_how_many_more(saved):
    path = saved()
    restore(path, lambda tensors: {name.replace("layers.2", "layer.2"): tensor for name, tensor in tensors.items()})
    refused(path, "9 missing (model.layers.2.", "9 left over (model.layer.2.", "and 6 more")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_hidden_layers": 5}, ("9 missing", "model.layers.4.")),
        ({"num_hidden_layers": 3}, ("9 left over", "model.layers.3.")),
        ({"attention_bias": True}, ("16 missing", "_proj.bias")),
        ({"intermediate_size": 50}, ("12 of another shape", "[48, 32] where [50, 32] is due")),
        ({"vocab_size": 97}, ("of another shape", "embed_tokens.weight is [96, 32] where [97, 32]")),
        ({"num_key_value_heads": 4}, ("of another shape", "k_proj")),
    ],
)
def test_a_configuration_of_another_model_is_refused(saved, settings, words):
    refused(saved(layer_types=None, **settings), *words)


def test_a_bias_without_a_place_is_refused(saved):
    path = saved("qwen2")
    restore(path, lambda tensors: {**tensors, "model.layers.0.self_attn.o_proj.bias": torch.zeros(32)})
    refused(path, "1 left over (model.layers.0.self_attn.o_proj.bias)")


def test_names_of_expert_tensors_are_those_of_the_file(saved):
    path = saved("mixtral")
    lacking = "model.layers.2.block_sparse_moe.experts.3.w1.weight"
    restore(path, without(lacking))
    refused(path, "1 missing", lacking)


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("gpt2", ["transformer.h.0.attn.bias"]),
        (
            "gpt_neox",
            [f"gpt_neox.layers.0.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")],
        ),
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
    ],
)
def test_buffers_that_older_versions_stored_are_passed_over(saved, family, extra):
    path = saved(family)
    restore(path, lambda tensors: {**tensors, **{name: torch.ones(4) for name in extra}})
    assert torch.equal(logits(load(str(path), device="cpu")), logits(tiny(family)))


def test_the_makers_own_format_beside_it_is_not_what_is_loaded(saved):
    path = saved("mistral")
    save_file({"layers.0.attention.wq.weight": torch.ones(4)}, path / "consolidated.safetensors")
    assert torch.equal(logits(load(str(path), device="cpu")), logits(tiny("mistral")))


# Tied tensors


@pytest.fixture
def tied(saved):
    """A folder whose embedding serves as its unembedding, and the logits it must give."""
    path = saved("llama", tie_word_embeddings=True)
    restore(path, without("lm_head.weight"))
    once = load(str(path), device="cpu")
    assert once.hf.lm_head.weight is once.hf.model.embed_tokens.weight
    return path, logits(once)


@pytest.mark.parametrize("stored", ["twice", "under the old name", "without a prefix"])
def test_tied_tensors_are_known_however_they_are_stored(tied, stored):
    path, expected = tied

    def change(tensors):
        embedding = tensors.pop("model.embed_tokens.weight")
        if stored == "without a prefix":
            return {name.removeprefix("model."): tensor for name, tensor in tensors.items()} | {
                "embed_tokens.weight": embedding
            }
        tensors["lm_head.weight"] = embedding
        return tensors if stored != "twice" else {**tensors, "model.embed_tokens.weight": embedding.clone()}

    restore(path, change)
    assert torch.equal(logits(load(str(path), device="cpu")), expected)


def test_tied_tensors_that_are_stored_nowhere_are_missing(tied):
    path, _ = tied
    restore(path, without("model.embed_tokens.weight"))
    refused(path, "missing", "embed_tokens.weight")


def test_an_unembedding_that_is_not_tied_must_be_there(saved):
    path = saved()
    restore(path, without("lm_head.weight"))
    refused(path, "1 missing (lm_head.weight)")


# Several files


@pytest.fixture
def sharded(tmp_path):
    path = tmp_path / "sharded"
    tiny("llama").hf.save_pretrained(path, max_shard_size="20KB")
    index = json.loads((path / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    return path, index, shards


def test_shards_load_together(sharded):
    assert torch.equal(logits(load(str(sharded[0]), device="cpu")), logits(tiny("llama")))


def test_a_shard_that_is_not_there_or_not_in_the_index_is_named(sharded):
    path, index, shards = sharded
    named = {name: shard for name, shard in index["weight_map"].items() if shard != shards[1]}
    (path / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": named}))
    refused(path, shards[1], "not named in")
    (path / shards[1]).unlink()
    refused(path, "missing", "model.")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(path, shards[1], "which is missing")
    (path / "model.safetensors.index.json").unlink()
    refused(path, "neither model.safetensors nor model.safetensors.index.json")


# Weights that are not numbers, or too large for their format


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(saved, value):
    path = saved()

    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = value
        return tensors

    restore(path, spoil)
    refused(path, "NaN or infinity", "model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_weights_of_whole_numbers_are_named(saved, kind):
    """Quantised ones whose configuration does not say so would be cast to numbers a hundred times too large."""
    path = saved("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    restore(path, lambda held: {**held, name: (100 * held[name]).to(kind)})
    refused(path, "whole numbers", name)


def test_an_overflow_in_half_precision_names_a_format_that_holds(saved):
    path = saved("gemma3_text")

    def enlarge(tensors):
        tensors["model.embed_tokens.weight"] *= 40_000
        return tensors

    restore(path, enlarge)
    with pytest.raises(UnsupportedModel, match=r"overflows in float16.*bfloat16 or float32"):
        load(str(path), dtype="float16", device="cpu")
    assert load(str(path), device="cpu").proof["logits"] < 1e-3


# Formats and names that are not read


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "fp8"])
def test_a_quantised_folder_is_refused_with_its_method(saved, method):
    path = saved(quantization_config={"quant_method": method, "bits": 4})
    refused(path, f"quantised with {method}", "GGUF", error=UnsupportedModel)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "bloom"}, ("'bloom' is not supported", "Llama")),
        ({"model_type": None}, ()),
        ({"model_type": ["llama"]}, ()),
        ({"hidden_size": -4}, ()),
        ({"hidden_size": "wide"}, ()),
        ({"num_attention_heads": 0}, ()),
        ({"num_hidden_layers": 1.5}, ()),
        ({"hidden_act": "none such"}, ()),
        ({"rope_parameters": {"rope_type": "none such"}}, ()),
        ({"text_config": {"hidden_size": 4}}, ()),
        ({"dtype": "none such"}, ()),
    ],
)
def test_a_configuration_without_sense_is_one_line(saved, settings, words):
    refused(saved(**settings), *words, error=ModelError)


@pytest.mark.parametrize(
    "name", ["/nan", "/inf", "/absent/model", "nan", "../absent", "a" * 5000, "a\0b", "/", "owner/", ""]
)
def test_a_name_without_a_model_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(name, error=ModelError)


def test_a_loop_of_links_is_one_line(saved):
    path = saved()
    (path / "extra").symlink_to(path / "other")
    (path / "other").symlink_to(path / "extra")
    refused(path, "loop of links")


# Tokenizers


def test_a_folder_without_a_tokenizer_takes_ids(saved):
    model = load(str(saved()), device="cpu")
    assert model.tokenizer is None
    (step,) = generate(model, [1, 2, 3], max_new_tokens=1)
    assert model.encode([1, 2]) == [1, 2] and model.decode(step.tokens).startswith("<")
    with pytest.raises(PromptError, match="has no tokenizer: give the prompt as token ids"):
        model.encode("text")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"])
@pytest.mark.parametrize("content", ["{}", "{", "[]", '{"model": {"type": "BPE", "vocab": 1}}'])
def test_half_a_tokenizer_is_an_error(saved, name, content):
    path = saved()
    (path / name).write_text(content)
    refused(path, error=ModelError)


def test_a_vocabulary_without_its_merges_is_an_error(saved):
    path = saved()
    (path / "vocab.json").write_text(json.dumps({chr(97 + place): place for place in range(20)}))
    configure(path, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    refused(path, "vocab.json but no merges.txt")
    (path / "merges.txt").write_text("#version: 0.2\na b\n")  # no token "ab": the tokenizer's native code panics
    refused(path, "could not be loaded", "PanicException", error=ModelError)
    (path / "merges.txt").write_text("#version: 0.2\n")
    assert load(str(path), device="cpu").tokenizer is not None


def test_a_tokenizer_without_its_vocabulary_is_an_error(saved):
    path = saved()
    configure(path, "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    refused(path, "tokenizer_config.json but no vocabulary")


# What the model's makers recommend


def test_both_ends_stop_and_the_rest_is_said_and_can_be_switched_on(saved, caplog):
    path, prompt = saved(), [5, 6, 7, 5, 6, 7]
    plain = load(str(path), device="cpu")
    text = [token for step in generate(plain, prompt, max_new_tokens=12) for token in step.tokens]
    assert plain.notes == () and not caplog.records
    configure(
        path, "generation_config.json", repetition_penalty=1.1, suppress_tokens=text[:1], bad_words_ids=[[7, 3], [40]],
        begin_suppress_tokens=[9], eos_token_id=[text[3], text[5]], num_beams=4,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        model = load(str(path), device="cpu")
    assert model.stop_tokens == (text[3], text[5])
    stopped = [token for step in generate(model, prompt, max_new_tokens=12) for token in step.tokens]
    assert stopped == text[: 1 + next(place for place, token in enumerate(text) if token in (text[3], text[5]))]
    (note,) = model.notes
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {note}"] and "\n" not in note
    assert "without counterpart here: num_beams" in note
    spec = next(word for word in note.split() if word.startswith("logits_processors:")).rstrip(";")
    expected = model.hf.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 6), max_new_tokens=12, num_beams=1, pad_token_id=0,
        eos_token_id=96,
    )[0, 6:].tolist()  # fmt: skip
    switched = generate(model, prompt, parse(spec, registered("techniques")), 12, stop_tokens=())
    assert [token for step in switched for token in step.tokens] == expected != text


def test_sampling_that_a_model_asks_for_is_said_as_settings_of_the_run(saved):
    path = saved()
    configure(path, "generation_config.json", do_sample=True, temperature=0.7, top_p=0.8, min_p=0.05)
    (note,) = load(str(path), device="cpu").notes
    assert "logits_processors:min_p=0.05 and" in note and "temperature=0.7, top_p=0.8, top_k=50" in note
    configure(path, "generation_config.json", do_sample=False)
    assert load(str(path), device="cpu").notes == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 40.0},
        {"no_repeat_ngram_size": 1000},
        {"suppress_tokens": [-5]},
        {"suppress_tokens": "many"},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": 7},
        {"forced_eos_token_id": 2, "num_beams": 3},
    ],
)
def test_what_cannot_be_switched_on_is_said_to_have_no_counterpart(settings):
    from transformers import GenerationConfig

    found = GenerationConfig(eos_token_id=2)
    for key, value in settings.items():  # as a file may have them
        setattr(found, key, value)
    (note,) = asked_for(found)
    assert "logits_processors" not in note and "without counterpart here: " in note
    assert all(key in note for key in settings)


def test_a_word_that_is_an_end_is_not_ruled_out():
    from transformers import GenerationConfig

    (note,) = asked_for(GenerationConfig(eos_token_id=[2, 3], bad_words_ids=[[2], [3], [5, 2]]))
    assert "logits_processors:bad_words=5-2" in note
    assert asked_for(GenerationConfig(eos_token_id=2, bad_words_ids=[[2]])) == []


# GGUF


def test_a_gguf_file_of_fewer_layers_or_more_tensors_is_refused(gguf_file, tmp_path):
    import gguf

    assert load(str(gguf_file), device="cpu").layers == 1
    whole = gguf.GGUFReader(gguf_file)

    def rewritten(leave=(), add=(), **fields):
        path = tmp_path / "changed.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for name, field in whole.fields.items():
            if not name.startswith("GGUF.") and name != "general.architecture":
                kind, inner = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(name, fields.get(name, field.contents()), kind, inner)
        for tensor in whole.tensors:
            if tensor.name not in leave:
                writer.add_tensor(tensor.name, tensor.data)
        for name in add:
            writer.add_tensor(name, whole.tensors[0].data[0])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    assert load(str(rewritten()), device="cpu").layers == 1
    refused(rewritten(leave=["blk.0.ffn_up.weight"]), "1 missing (blk.0.ffn_up.weight)")
    refused(rewritten(add=["blk.1.attn_norm.weight"]), "1 left over (blk.1.attn_norm.weight)")
    refused(rewritten(add=["blk.0.attn_q.bias"]), "1 left over (blk.0.attn_q.bias)")
    refused(rewritten(**{"llama.block_count": 2}), "missing")
    refused(rewritten(**{"llama.attention.head_count": 10**9}), "far larger")
    (note,) = load(str(rewritten(add=["rope_freqs.weight"])), device="cpu").notes
    assert "rope_freqs.weight" in note


def test_a_gguf_file_without_a_tokenizer_takes_ids(gguf_file, tmp_path):
    shutil.copy(gguf_file, tmp_path / "bare.gguf")
    content = (tmp_path / "bare.gguf").read_bytes().replace(b"tokenizer.ggml.model", b"tokenizer_ggml_model")
    (tmp_path / "bare.gguf").write_bytes(content)
    assert load(str(tmp_path / "bare.gguf"), device="cpu").tokenizer is None


# Parts of a block, and what stands outside the blocks beside ``token_embd``.
ATTENTION = "attn_norm attn_q attn_k attn_v attn_output ffn_norm"
GATED = f"{ATTENTION} ffn_gate ffn_up ffn_down"
NORMED = "attn_q_norm attn_k_norm"
PUBLISHED = {
    "llama": ("llama", GATED, "output output_norm rope_freqs"),
    "qwen2": ("qwen2", f"{GATED} attn_q.bias attn_k.bias attn_v.bias", "output output_norm"),
    "qwen3": ("qwen3", f"{GATED} {NORMED}", "output output_norm"),
    "gemma3_text": ("gemma3", f"{GATED} {NORMED} post_attention_norm post_ffw_norm", "output_norm"),
    "phi3": (
        "phi3",
        "attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down",
        "output output_norm rope_factors_long rope_factors_short",
    ),
    "gpt2": (
        "gpt2",
        "attn_norm attn_norm.bias attn_qkv attn_qkv.bias attn_output attn_output.bias ffn_norm ffn_norm.bias "
        "ffn_up ffn_up.bias ffn_down ffn_down.bias",
        "output output_norm output_norm.bias position_embd",
    ),
    "qwen3_moe": (
        "qwen3moe",
        f"{ATTENTION} {NORMED} ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps",
        "output output_norm",
    ),
}


def published(parts):
    return [part if "." in part else f"{part}.weight" for part in parts.split()]


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_names_of_published_gguf_files_are_neither_missing_nor_left_over(family):
    from transformers import AutoModelForCausalLM

    architecture, block, others = PUBLISHED[family][0], *map(published, PUBLISHED[family][1:])
    config = copy.deepcopy(tiny(family).hf.config)
    config.mlp_only_layers = []
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    names = {"token_embd.weight", *others, *(f"blk.{layer}.{part}" for layer in range(4) for part in block)}
    settings = {"general.architecture": architecture}
    missing, left = gguf_compared(empty, Contents(names, 0, 0, settings))
    assert not missing and left == {name for name in others if name.startswith("rope")}
    missing, _ = gguf_compared(empty, Contents({name for name in names if "blk.1.ffn_up" not in name}, 0, 0, settings))
    assert missing and all(name.startswith("blk.1.ffn_up") for name in missing)
