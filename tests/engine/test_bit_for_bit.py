"""With the project's own kernels a verified token is computed bit for bit as one that is decoded alone."""

import pytest
import torch

import workbench
from workbench.engine.decoder import Decoder
from workbench.models.multiply import Multiply
from workbench_kernels.tree_attention import fastest

DRAFT = [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
PARENTS = [-1, 0, 0, 2, 2, 4, 1, 5, 5, 8]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def decoder(request, bundled):
    own = request.param == "float32"
    model = bundled if own else workbench.load("smollm2-135m", dtype=request.param, device="cpu")
    if fastest(model.device, model.dtype) != "native":
        pytest.skip("nothing can be compiled here")
    before = model.anatomy.multiply
    # Whatever was the fastest when the model was loaded.
    model.anatomy.use(Multiply({64: "few_rows"}))
    decoder = Decoder(model, reserve=64)
    decoder.prefill(model.encode("The quick brown fox jumps over the lazy dog. " * 9))
    yield decoder
    model.anatomy.use(before)


def logits_of(decoder, tokens, parents=None):
    held = decoder.cache.length
    found = decoder.forward(tokens, parents=parents, logits="all")
    hidden = decoder.hidden.clone()
    decoder.cache.crop_to(held)
    return found, hidden


def one_by_one(decoder, tokens):
    held = decoder.cache.length
    found = [(decoder.forward([token]), decoder.hidden) for token in tokens]
    decoder.cache.crop_to(held)
    return tuple(torch.cat(each) for each in zip(*found))


@pytest.mark.bundled
def test_a_chain(decoder):
    for found, expected in zip(logits_of(decoder, DRAFT), one_by_one(decoder, DRAFT)):
        assert torch.equal(found, expected)


@pytest.mark.bundled
def test_a_tree(decoder):
    found, hidden = logits_of(decoder, DRAFT, PARENTS)
    for node in (3, 6, 7, 9):
        way, above = [], node
        while above >= 0:
            way, above = [DRAFT[above], *way], PARENTS[above]
        alone, its_hidden = one_by_one(decoder, way)
        assert torch.equal(found[node], alone[-1]) and torch.equal(hidden[node], its_hidden[-1])
