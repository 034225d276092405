"""Identical batches of work leave as many objects and as much memory behind as the one before: none."""

import gc

import psutil
import pytest
import torch
from helpers import applicable, random_tokens

import workbench as wb
import workbench.probes
import workbench.techniques
from workbench.models.tiny import tiny
from workbench.registry import PROBES, TECHNIQUES
from workbench.studies.observe import observe

PROMPT = random_tokens(24) * 2
BATCHES = 3


def tensors():
    """Tensors that are alive, of any kind, and the bytes that they hold."""
    gc.collect()
    alive = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return len(alive), sum(dict(map(storage, alive)).values())


def storage(tensor):
    """Address and bytes; tensors that another test left in the caches of torch's compiler have none."""
    held = tensor.untyped_storage()
    try:
        return held.data_ptr(), held.nbytes()
    except RuntimeError:
        return None, 0


def counts(work):
    """Live tensors and their bytes after each batch, once what is computed once and kept is there."""
    for _ in range(2):
        work()
    found = []
    for _ in range(BATCHES):
        work()
        found.append(tensors())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_leaves_nothing_behind(name):
    model = tiny("llama")

    def work():
        for technique in TECHNIQUES[name].examples():
            with applicable():
                for temperature in (0.0, 0.8):
                    list(wb.generate(model, PROMPT, [technique], 16, stop_tokens=(), temperature=temperature))
                stream = wb.generate(model, PROMPT, [technique], 16, stop_tokens=())
            next(stream)
            stream.close()

    assert len(set(counts(work))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_leaves_nothing_behind(name):
    model = tiny("mixtral")
    assert len(set(counts(lambda: observe(model, PROMPT, [PROBES[name].examples()[0]])))) == 1


@pytest.mark.slow
def test_a_process_that_compares_again_and_again_does_not_grow(tmp_path):
    model, process = tiny("llama"), psutil.Process()
    recipes = {"copies": "prompt_lookup", "evicts": "snap_kv:keep=0.5"}
    prompts = [random_tokens(20, place) for place in range(6)]

    def work():
        study = wb.compare(model, prompts, recipes, max_new_tokens=16, repeats=1)
        study.save_html(tmp_path / "report.html")

    for _ in range(4):
        work()
    before, alive = process.memory_info().rss, tensors()
    for _ in range(12):
        work()
    assert tensors() == alive
    # Python's and malloc's arenas settle within a few MB; a study of this size kept whole is more than that each time.
    assert process.memory_info().rss - before < 24 * 2**20
