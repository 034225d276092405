"""Prompts in segments: the embeddings of tokens say what the tokens say, bit for bit, however the prompt is read."""

import threading

import numpy as np
import pytest
import torch
from helpers import applicable, random_tokens, tokens_of
from scaled import scaled
from tokenizers_of_kinds import byte_level
from toys.recurrent import with_recurrent_layers

from workbench.engine import Draft, generate, teacher_force
from workbench.engine.embedded import only_tokens
from workbench.engine.score import score
from workbench.errors import PromptError
from workbench.models import FAMILIES, EmbeddingSegment
from workbench.models.prompt import read_prompt
from workbench.models.segments import Prompt
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.studies.run import run as study_run
from workbench.techniques import DraftModel, EntropyAdaptive, LogitsProcessors, PromptLookup

PROMPT = random_tokens(30)
NEW = 10


def embedded(model, tokens):
    """Tokens as a segment of their embeddings."""
    return EmbeddingSegment(model.hf.get_input_embeddings()(torch.tensor(tokens)))


def segments(model, tokens=PROMPT, cuts=(4, 13, 20)):
    """Tokens, embeddings, tokens, embeddings."""
    first, second, third = cuts
    return [
        tokens[:first],
        embedded(model, tokens[first:second]),
        torch.tensor(tokens[second:third]),
        embedded(model, tokens[third:]),
    ]


def said(model, prompt, techniques=(), new=NEW, **options):
    """Tokens and logits of a run, its state, and what its steps counted."""
    stream = generate(model, prompt, list(techniques), max_new_tokens=new, stop_tokens=(), logits=True, **options)
    steps = list(stream)
    counted = [(step.flops, step.bytes, step.keys_kept, step.layers) for step in steps]
    return tokens_of(steps), torch.cat([step.logits for step in steps]), stream.state, counted


def same(one, other):
    assert one[0] == other[0] and torch.equal(one[1], other[1]) and one[3] == other[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_of_tokens_are_the_tokens(family):
    """With the family's factors and learned positions, which come after the embedding layer."""
    model = tiny(family)
    same(said(model, segments(model)), said(model, PROMPT))
    same(said(model, embedded(model, PROMPT)), said(model, PROMPT))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_come_in_the_dtype_of_the_model(dtype):
    model = tiny("llama", dtype=dtype)
    wide = EmbeddingSegment(embedded(model, PROMPT[4:]).rows.double())
    same(said(model, [PROMPT[:4], wide]), said(model, PROMPT))


def test_other_rows_say_something_else():
    model = tiny("llama")
    parts = segments(model)
    parts[1] = EmbeddingSegment(parts[1].rows.flip(0))
    assert not torch.equal(said(model, parts)[1], said(model, PROMPT)[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_says_the_same_of_the_same_rows(family):
    """They are what it calls ``inputs_embeds``."""
    model = tiny(family)
    rows = torch.randn(9, 32, generator=torch.Generator().manual_seed(3))
    whole = torch.cat((model.hf.get_input_embeddings()(torch.tensor(PROMPT[:5])), rows))
    with torch.no_grad():
        expected = model.hf(inputs_embeds=whole[None]).logits[0, -1]
    found = said(model, [PROMPT[:5], EmbeddingSegment(rows)], new=1)[1][0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk": 1},
        {"prefill_chunk": 7},
        {"context_tokens": 9},
        {"context_tokens": 22, "prefill_chunk": 4},
        {"temperature": 0.8, "seed": 3},
        {"min_new_tokens": 5, "logprobs": 2},
    ],
)
def test_however_the_prompt_is_read(options):
    model = tiny("qwen2")
    same(said(model, segments(model), **options), said(model, PROMPT, **options))


READING = [
    name for name, kind in TECHNIQUES.items() if kind.segments or not {"draft", "logits", "switch"} & {*kind.slots}
]


@pytest.mark.parametrize("name", READING)
def test_every_technique_that_takes_segments_makes_the_same_of_them(name):
    """A drafter may copy other tokens, which changes no text: what says ``segments`` is exact."""
    model, prompt, kind = tiny("llama"), random_tokens(15) * 2, TECHNIQUES[name]
    for technique in kind.examples():
        with applicable():
            found, expected = (said(model, each, [technique]) for each in (segments(model, prompt), prompt))
        assert found[0] == expected[0]
        if "draft" not in kind.slots:
            same(found, expected)


def test_a_conversation_of_segments():
    model, more = tiny("llama"), random_tokens(9, seed=4)
    first, plain = said(model, segments(model)), said(model, PROMPT)
    for turn in (more, [more[:3], embedded(model, more[3:])], embedded(model, more), []):
        tokens = more if turn else []
        second, expected = said(model, turn, past=first[2]), said(model, tokens, past=plain[2])
        same(second, expected)
        third, last = (
            said(model, [embedded(model, [7, 8]), [9]], past=second[2]),
            said(model, [7, 8, 9], past=expected[2]),
        )
        same(third, last)
    assert third[2].tokens[4:13] == tuple(range(-1, -10, -1)) and third[2].embeddings.shape == (9 + 10 + 2, 32)
    assert first[2].describe() != plain[2].describe()
    other = segments(model)
    other[1] = EmbeddingSegment(other[1].rows + 1e-3)
    described = [said(model, each, new=1)[2].describe()["sha256"] for each in (segments(model), segments(model), other)]
    assert described[0] == described[1] != described[2]


def test_a_cache_that_is_computed_anew():
    phi = scaled("longrope", "phi3")
    prompt = random_tokens(44)
    same(said(phi, segments(phi, prompt)), said(phi, prompt))


@pytest.mark.parametrize("options", [{}, {"prefill_chunk": 7}])
def test_a_model_with_recurrent_layers(options):
    model = with_recurrent_layers(tiny("llama"))
    same(said(model, segments(model), **options), said(model, PROMPT, **options))


def test_a_cancelled_prompt_leaves_nothing_half_read():
    model, cancel = tiny("llama"), threading.Event()
    stream = generate(model, segments(model), max_new_tokens=NEW, stop_tokens=(), prefill_chunk=4, cancel=cancel)
    cancel.set()
    assert list(stream) == [] and stream.state.cached == 0
    same(said(model, [], past=stream.state), said(model, [], past=generate_nothing(model, PROMPT)))


def generate_nothing(model, prompt):
    cancel = threading.Event()
    cancel.set()
    stream = generate(model, prompt, max_new_tokens=NEW, stop_tokens=(), cancel=cancel)
    assert list(stream) == []
    return stream.state


def test_teacher_forcing():
    model = tiny("gemma3_text")
    continuation = random_tokens(8, seed=5)
    for options in ({}, {"context_tokens": 9}):
        found, expected = (
            torch.cat([rows.clone() for rows in teacher_force(model, prompt, continuation, **options)])
            for prompt in (segments(model), PROMPT)
        )
        assert torch.equal(found, expected)


def test_texts_between_embeddings_begin_only_at_the_front():
    model = tiny("llama", vocabulary=330).variant()
    model.tokenizer = byte_level()
    rows = embedded(model, [5, 6])
    text = "ab"
    begun, bare = (model.encode(text, start) for start in (True, False))
    assert begun != bare
    assert read_prompt(model, [text, rows, text]).tokens == [*begun, -1, -2, *bare]
    assert read_prompt(model, [rows, text, rows]).tokens == [-1, -2, *bare, -3, -4]


def test_drafts_copy_no_placeholder():
    model = tiny("llama")
    # The two tokens before the embeddings come again at the end, so that these would be copied.
    prompt = [[7, 8, 9], embedded(model, [30, 31]), [7, 8, 9]]
    run = [PromptLookup(ngram=2, draft=4)]
    steps = list(generate(model, prompt, run, max_new_tokens=20, stop_tokens=()))
    assert all(token >= 0 for step in steps for token, *_ in step.nodes)
    tokens = tokens_of(generate(model, [7, 8, 9, 30, 31, 7, 8, 9], max_new_tokens=20, stop_tokens=()))
    assert tokens_of(steps) == tokens
    chain = only_tokens(Draft([4, -1, 5]))
    assert chain.tokens == [4]
    tree = only_tokens(Draft([4, -1, 5, 6, 7], [-1, 0, 1, 0, -1], confidence=[0.9, 0.8, 0.7, 0.6, 0.5]))
    assert (tree.tokens, tree.parents, tree.confidence) == ([4, 6, 7], [-1, 0, -1], [0.9, 0.6, 0.5])
    plain = Draft([4, 5])
    assert only_tokens(plain) is plain and only_tokens(Draft()).tokens == []


@pytest.mark.parametrize(
    ("technique", "name"),
    [
        (DraftModel(model="/2"), "draft_model"),
        (EntropyAdaptive(small="/2"), "entropy_adaptive"),
        (LogitsProcessors(), "logits_processors"),
    ],
)
def test_what_reads_tokens_is_refused_before_anything_runs(technique, name):
    model = tiny("llama")
    with pytest.raises(PromptError, match=f"{name} reads the tokens of the prompt"):
        generate(model, segments(model), [technique])
    if name != "draft_model":
        with pytest.raises(PromptError, match=f"{name} reads the tokens"):
            next(teacher_force(model, segments(model), [5], [technique]))


def test_a_turn_after_embeddings_is_refused_too():
    model = tiny("llama")
    state = said(model, segments(model))[2]
    with pytest.raises(PromptError, match="draft_model reads the tokens"):
        generate(model, [5, 6], [DraftModel(model="/2")], past=state)
    with pytest.raises(PromptError, match="only generate and teacher_force"):
        study_run(model, [5, 6], max_new_tokens=2, past=state)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(3, 31), r"is a tensor \[rows, 32\]; this one has shape \[3, 31\]"),
        (torch.zeros(1, 3, 32), r"this one has shape \[1, 3, 32\]"),
        (torch.zeros(0, 32), r"this one has shape \[0, 32\]"),
        (np.zeros((3, 32)), "this one is a ndarray"),
        (torch.zeros(3, 32, dtype=torch.long), "finite numbers"),
        (torch.full((3, 32), float("nan")), "finite numbers"),
        (torch.zeros(300, 32), "knows 256 positions"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, words):
    with pytest.raises(PromptError, match=words):
        generate(tiny("llama"), [[3], EmbeddingSegment(rows)])


def test_what_takes_tokens_alone_says_so():
    model = tiny("llama")
    for call in (model.encode, lambda prompt: score(model, [prompt]), lambda prompt: study_run(model, prompt)):
        for prompt in (segments(model), embedded(model, PROMPT)):
            with pytest.raises(PromptError, match="only generate and teacher_force take them"):
                call(prompt)
    for prompt in ([embedded(model, [3]), []], [embedded(model, [3]), [96]], [embedded(model, [3]), [-1]]):
        with pytest.raises(PromptError):
            generate(model, prompt)
    with pytest.raises(PromptError, match="2 prompts at once"):
        generate(model, [[3, 4], [5]])
    assert read_prompt(model, [3, 4]).embeddings is None and isinstance(read_prompt(model, [3]), Prompt)
