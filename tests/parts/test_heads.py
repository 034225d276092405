"""Draft heads against plain loops over the papers' formulas, over whole texts and token by token."""

import pytest
import torch
from torch.nn import functional as F

from workbench.engine import LayerCache
from workbench.parts.heads import DependentHeads, DraftHeads, IndependentHeads, LightDraftModel, RegressiveHeads
from workbench.parts.trained import ROWS
from workbench.techniques.draft._head_drafter import _multiply_with

KINDS = [part for part in ROWS if issubclass(part, DraftHeads)]
# What is not here restates its formula in its own test.
RESTATED = (
    IndependentHeads,
    DependentHeads,
    RegressiveHeads,
    LightDraftModel,
)
WIDTH, HEADS, TOKENS = 12, 3, 9
kinds = pytest.mark.parametrize("kind", KINDS)


def built(kind):
    """Heads whose every parameter matters."""
    torch.manual_seed(3)
    heads = kind(WIDTH, HEADS, torch.arange(20), ranks=4)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return heads


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(8)
    return torch.randn(TOKENS, WIDTH, generator=generator), torch.randn(TOKENS, WIDTH, generator=generator)


def unit(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def turned(x, position):
    """Rotary position of one vector, pair by pair: the first half with the second."""
    out, half = x.clone(), len(x) // 2
    for place in range(half):
        angle = torch.tensor(position * 10000.0 ** (-place / half))
        one, other = x[place], x[half + place]
        out[place] = one * angle.cos() - other * angle.sin()
        out[half + place] = other * angle.cos() + one * angle.sin()
    return out


def attended(attention, x, position, keys):
    """What one query adds; ``keys`` is a list of (vector, position)."""
    query = turned(attention.query.weight @ unit(x), position)
    scores = torch.stack([query @ turned(attention.key.weight @ unit(k), p) for k, p in keys]) / len(query) ** 0.5
    values = torch.stack([attention.value.weight @ unit(k) for k, _ in keys])
    return attention.output.weight @ (scores.softmax(0) @ values)


def residual(block, x):
    return x + F.silu(block.linear.weight @ x + block.linear.bias)


def restated(heads, features, embeddings, t, depth):
    """The row of one head by the paper's formula: feature t, told tokens t + 1 … t + depth."""
    h, told = features[t], [unit(embeddings[t + step]) for step in range(1, depth + 1)]
    if isinstance(heads, IndependentHeads):
        return residual(heads.blocks[depth - 1], h)
    if isinstance(heads, DependentHeads):
        inward, outward = heads.inward[depth - 1], heads.outward[depth - 1]
        return h + outward.weight @ F.silu(inward.weight @ torch.cat([unit(h), *told]) + inward.bias)
    if isinstance(heads, RegressiveHeads):
        h = h + attended(heads.augment, h, t, [(features[place], place) for place in range(t + 1)])
        for token in told:
            query, key = heads.query.weight @ unit(h), heads.key.weight @ token
            h = h + F.silu(query * key) * (heads.value.weight @ token)
        return residual(heads.blocks[depth - 1], h)

    def trigram(place):
        three = [unit(embeddings[p]) if p >= 0 else torch.zeros(WIDTH) for p in (place - 2, place - 1, place)]
        inside = heads.trigram_inward.weight @ torch.cat(three) + heads.trigram_inward.bias
        return heads.trigram_outward.weight @ F.silu(inside)

    seen = [(features[place], place) for place in range(t + 1)]
    seen += [(trigram(t + step), t + step) for step in range(1, depth + 1)]
    newest = trigram(t + depth)
    found = attended(heads.context, newest, t + depth, seen)
    return residual(heads.blocks[depth - 1], h + heads.blend.weight @ newest + found)


@pytest.mark.parametrize("kind", RESTATED)
def test_rows_over_a_text_are_those_of_the_formula(kind, text):
    heads, (features, embeddings) = built(kind), text
    rows = heads.rows(features[None], embeddings[None])
    assert [row.shape for row in rows] == [(1, TOKENS - depth, WIDTH) for depth in range(1, HEADS + 1)]
    with torch.no_grad():
        for depth, row in enumerate(rows, 1):
            for t in range(TOKENS - depth):
                torch.testing.assert_close(
                    row[0, t], restated(heads, features, embeddings, t, depth), atol=2e-5, rtol=1e-4
                )


@kinds
def test_steps_along_several_paths_are_the_rows_of_each(kind, text):
    """Features come in pieces, as verifications give them; two paths share their state until they part."""
    heads, (features, embeddings) = built(kind), text
    other = embeddings.flip(0)
    memory, t = LayerCache(4), 0
    with torch.no_grad():
        for piece in (3, 1, 2):
            heads.remember(memory, features[t : t + piece], t)
            t += piece
        last = t - 1
        before = embeddings[last - 1 : last + 1].flatten()[None]
        state = heads.begin(memory, features[last : last + 1], last, before)
        texts = [embeddings, torch.cat((embeddings[: last + 2], other[last + 2 :]))]
        for depth in range(1, HEADS + 1):
            if depth == 2:
                state = tuple(each[torch.tensor([0, 0])] for each in state)
            told = torch.stack([each[last + depth] for each in (texts if depth > 1 else texts[:1])])
            rows, state = heads.step(memory, depth, state, told, last + depth)
            for row, each in zip(rows, texts):
                whole = heads.rows(features[None], each[None])[depth - 1][0, last]
                torch.testing.assert_close(row, whole, atol=2e-5, rtol=1e-4)


@kinds
def test_they_begin_with_what_the_model_says_itself(kind, text):
    heads = kind(WIDTH, HEADS, torch.arange(20))
    features, embeddings = text
    for depth, row in enumerate(heads.rows(features[None], embeddings[None]), 1):
        torch.testing.assert_close(row[0], features[: TOKENS - depth])


@kinds
def test_they_come_back_from_their_tensors(kind, text):
    heads = built(kind)
    again = kind.of(WIDTH, heads.state_dict())
    assert again.heads == HEADS and again.acceptance.shape == (HEADS, 4)
    features, embeddings = text
    for one, other in zip(heads.rows(features[None], embeddings[None]), again.rows(features[None], embeddings[None])):
        assert torch.equal(one, other)


@kinds
def test_they_are_small_enough_to_ship(kind):
    heads = kind(576, 4, torch.arange(8192))
    assert sum(2 * value.numel() for value in heads.state_dict().values()) < 6.4e6


@pytest.mark.parametrize("kind", RESTATED)
def test_the_models_product_changes_nothing_but_the_speed(kind, text):
    heads, (features, embeddings) = built(kind), text
    expected = heads.rows(features[None], embeddings[None])
    called = []
    _multiply_with(lambda x, weight, bias: called.append(1) or F.linear(x, weight, bias), heads.requires_grad_(False))
    for one, other in zip(heads.rows(features[None], embeddings[None]), expected):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert called
