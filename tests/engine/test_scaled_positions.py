"""Models with scaled rotary positions write what transformers writes, before, at and beyond the old limit."""

import pytest
import torch
from engine.scripted import Scripted
from helpers import random_tokens, tokens_of
from scaled import OLD, SCALINGS, expected, layered, prompt_of, scaled

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import Draft, generate, score, teacher_force
from workbench.errors import PromptError, SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.techniques import PromptLookup, StreamingLLM

EXACT = [name for name, kind in TECHNIQUES.items() if kind.exact]
GROWING = ("dynamic", "longrope")


def written(model, prompt, techniques=(), new=24, **options):
    return tokens_of(generate(model, prompt, list(techniques), max_new_tokens=new, stop_tokens=(), **options))


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("length", [8, OLD - 12, OLD - 1, OLD, OLD + 1, OLD + 8])
def test_the_text_is_transformers_own(kind, length):
    model, prompt = scaled(kind), prompt_of(length)
    for chunk in (None, 7):
        assert written(model, prompt, prefill_chunk=chunk) == expected(model, prompt, 24)


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_last_position_is_used_and_none_beyond(kind):
    model = scaled(kind)
    prompt = prompt_of(model.anatomy.positions - 9)
    assert written(model, prompt, new=10) == expected(model, prompt, 10)
    with pytest.raises(PromptError, match=f"{model.anatomy.positions} positions"):
        generate(model, prompt, max_new_tokens=11)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "gpt_neox", "olmo2", "olmoe"])
@pytest.mark.parametrize("kind", ["yarn", "dynamic"])
def test_other_families_too(family, kind):
    model, prompt = scaled(kind, family), prompt_of(OLD - 5)
    assert written(model, prompt) == expected(model, prompt, 24)


@pytest.mark.parametrize(("kind", "length"), [("linear", 40), ("yarn", 40), ("dynamic", 246), ("longrope", 40)])
def test_tables_of_some_layers_are_scaled_alone(kind, length):
    model, prompt = layered(kind), prompt_of(length)
    assert model.anatomy.growing == (("full_attention",) if kind in GROWING else ())
    # The other layers' table reaches no further.
    assert model.anatomy.positions == 256
    new = min(20, 257 - length)
    assert written(model, prompt, [PromptLookup()], new=new) == expected(model, prompt, new)


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope"])
@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_stays_exact(kind, name):
    model, prompt = scaled(kind), prompt_of(OLD - 5 if kind != "longrope" else 40)
    try:
        found = written(model, prompt, [TECHNIQUES[name].examples()[0]])
    except SettingError as error:
        pytest.skip(f"does not apply: {error}")
    assert found == expected(model, prompt, 24)


@pytest.mark.parametrize("kind", GROWING)
@pytest.mark.parametrize("right", [True, False])
def test_a_draft_is_read_as_if_each_token_came_alone(kind, right):
    """Keys that were rotated with the frequencies of one text stay so in both: no draft has to be shortened."""
    model, prompt = scaled(kind), prompt_of(OLD - 5 if kind == "dynamic" else 43)
    truth = expected(model, prompt, 24)

    def propose(tokens, limit):
        coming = truth[len(tokens) - len(prompt) :][: min(6, limit)]
        coming = coming if right else [(token + 1) % 96 for token in coming]
        # A tree: a wrong sibling beside the first token.
        return Draft([5, *coming], [-1, -1, *range(1, len(coming))]) if coming else Draft()

    steps = list(generate(model, prompt, [Scripted(propose)], max_new_tokens=24, stop_tokens=()))
    assert tokens_of(steps) == truth
    if right:
        assert len(steps) < 8


@pytest.mark.parametrize("kind", GROWING)
def test_teacher_forcing_is_the_free_run_and_scoring_is_the_whole_text(kind):
    model, prompt = scaled(kind), prompt_of(28)
    said = expected(model, prompt, 30)
    forced = torch.cat([rows.clone() for rows in teacher_force(model, prompt, said)])
    assert forced.argmax(-1).tolist() == said
    texts = [random_tokens(20, 3), random_tokens(60, 4), random_tokens(33, 5)]
    for text, logits in zip(texts, score(model, texts), strict=True):
        model.hf(torch.tensor([[3]]))
        torch.testing.assert_close(logits, model.hf(torch.tensor([text])).logits[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", GROWING)
def test_a_turn_goes_on_from_keys_as_they_were_rotated(kind):
    model, prompt = scaled(kind), prompt_of(28)
    stream = generate(model, prompt, max_new_tokens=8, stop_tokens=())
    said = tokens_of(stream)
    assert said + written(model, [], new=16, past=stream.state) == expected(model, prompt, 24)


def test_a_stream_says_where_its_keys_cannot_be_moved():
    technique = StreamingLLM(sinks=2, window=8)
    with pytest.raises(SettingError, match="change with the length"):
        generate(scaled("dynamic"), prompt_of(40), [technique], max_new_tokens=4)
    with pytest.raises(SettingError, match="change with the length"):
        generate(scaled("longrope"), prompt_of(40), [technique], max_new_tokens=40)
    for model, length in ((scaled("dynamic"), 20), (scaled("longrope"), 60), (scaled("yarn"), 60)):
        assert len(written(model, prompt_of(length), [technique], new=10)) == 10


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_fills_the_positions_exactly(name, family):
    model = tiny(family)
    new = 13
    prompt = random_tokens(60) * 5
    prompt = prompt[: model.anatomy.positions - new + 1]
    for technique in TECHNIQUES[name].examples():
        try:
            assert len(written(model, prompt, [technique], new=new)) == new
        except SettingError as error:
            assert "positions" not in str(error) or "learns" in str(error), error
            pytest.skip(f"does not apply: {error}")


@pytest.mark.parametrize("name", ["retrieval_cache_draft", "overlapped_draft", "draft_model", "goodput"])
def test_few_positions_are_enough(name):
    model = scaled("linear", positions=16)
    technique = TECHNIQUES[name].examples()[0]
    assert written(model, prompt_of(20), [technique], new=13) == expected(model, prompt_of(20), 13)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_refused(chunk):
    with pytest.raises(SettingError, match=f"prefill_chunk must be at least 1, not {chunk}"):
        generate(tiny("llama"), [5, 6, 7], prefill_chunk=chunk)
