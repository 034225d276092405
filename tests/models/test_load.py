"""Prompts, shallow cuts, second models, and loading from a folder."""

import pytest
import torch

from workbench.errors import ModelError, PromptError, SettingError
from workbench.models.load import dtype_named, load, wrap
from workbench.models.second_model import second_model
from workbench.models.tiny import tiny


def test_prompt_of_any_kind_becomes_ids():
    model = tiny("llama")
    assert model.encode([1, 2]) == model.encode(torch.tensor([1, 2])) == model.encode((1, 2)) == [1, 2]
    with pytest.raises(PromptError, match="empty"):
        model.encode(torch.tensor([], dtype=torch.long))


def test_a_shallow_model_shares_weights_and_keeps_the_ends():
    model = tiny("llama", layers=6)
    shallow = model.shallow(3)
    assert shallow.layers == 3 and [block.index for block in shallow.anatomy.blocks] == [0, 1, 2]
    ends = [model.anatomy.blocks[i].query_key_value.weight for i in (0, 5)]
    assert shallow.anatomy.blocks[0].query_key_value.weight is ends[0]
    assert shallow.anatomy.blocks[2].query_key_value.weight is ends[1]
    assert [block.index for block in model.anatomy.blocks] == list(range(6))


@pytest.mark.parametrize(("name", "layers"), [("/2", 2), ("/0.5", 3), ("/1.0", 6)])
def test_a_second_model_cuts_by_number_or_share(name, layers):
    assert second_model(tiny("llama", layers=6), name).layers == layers


def test_a_second_model_of_another_vocabulary_is_refused(monkeypatch):
    import workbench.models.second_model as module

    other = tiny("gpt2")
    monkeypatch.setattr(other.anatomy, "vocabulary", 95)
    monkeypatch.setattr(module, "_loaded", lambda *_: other)
    with pytest.raises(SettingError, match="share a vocabulary"):
        second_model(tiny("llama"), "other")


def test_unknown_dtype_is_refused():
    with pytest.raises(SettingError, match="float32"):
        dtype_named("int3")


def test_a_folder_round_trips(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = tiny("qwen3")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    model.hf.save_pretrained(tmp_path)
    again = load(str(tmp_path), dtype="float32", device="cpu")
    assert again.encode("w3 w4") == [3, 4] and again.chat("w3") == "w3"
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again.hf(tokens).logits, model.hf(tokens).logits)


def test_an_empty_folder_is_an_error_with_its_name(tmp_path):
    with pytest.raises(ModelError):
        load(str(tmp_path))


def test_wrapping_leaves_values_as_they_were():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    hf = LlamaForCausalLM(config).eval()
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    tokens = torch.tensor([[5, 6, 7]])
    logits = hf(tokens).logits
    wrap(hf, None, "made here")
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())
    torch.testing.assert_close(hf(tokens).logits, logits)


@pytest.mark.bundled
def test_bundled_model_answers_and_knows_its_end(bundled):
    from workbench.engine import generate

    assert bundled.layers == 30 and bundled.anatomy.positions == 8192
    steps = generate(bundled, bundled.chat("What is the capital of France?"), max_new_tokens=16)
    assert "Paris" in bundled.decode([token for step in steps for token in step.tokens])


@pytest.mark.bundled
def test_bundled_name_can_be_cut():
    assert load("smollm2-135m/20", device="cpu").layers == 20
