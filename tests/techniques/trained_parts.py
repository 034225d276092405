"""What tests of techniques with a trained part share: parts trained on a tiny model's own text, and drafts replayed."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import random_tokens, tokens_of

from workbench import artifacts
from workbench.engine import Chance, Decoder, Draft, Run, Sampler, Verification, generate
from workbench.models.tiny import tiny
from workbench.training import DataSettings, train
from workbench.training._ahead import logits, read, run_rows
from workbench.training.writing import write_texts

PROMPTS = [random_tokens(8, seed) for seed in range(20, 30)]


@functools.cache
def own_text():
    return write_texts(tiny("llama"), PROMPTS, PROMPTS, DataSettings(new_tokens=40, length=56, sampled=0, continued=0))


@functools.cache
def trained_part(name, steps, rate):
    """Path of a part trained on the tiny Llama's greedy answers to PROMPTS."""
    place = Path(tempfile.mkdtemp())
    settings = {"steps": steps, "batch": 8, "length": 56, "learning_rate": rate}
    train(name, tiny("llama"), place, own_text(), evaluations=1, **settings)
    return str(place / f"{name}.safetensors")


def accepted_of_forwards(technique):
    """Tokens accepted, and forwards, over the training prompts; the output is checked to be the baseline's."""
    model, accepted, forwards = tiny("llama"), 0, 0
    for prompt in PROMPTS:
        plain = tokens_of(generate(model, prompt, max_new_tokens=32, stop_tokens=()))
        steps = list(generate(model, prompt, [technique], max_new_tokens=32, stop_tokens=()))
        assert tokens_of(steps) == plain
        accepted += sum(step.accepted for step in steps)
        forwards += len(steps)
    return accepted, forwards


def training_pays(kind, rate):
    """Parts trained on the model's own text are right more often than untrained ones."""
    settings = {"nodes": 12, "cost": "modelled"}
    weights = trained_part(kind.name, 150, rate)
    trained, forwards = accepted_of_forwards(kind(weights=weights, **settings))
    untrained, more = accepted_of_forwards(kind(weights="untrained", **settings))
    assert trained > 1.25 * untrained and forwards < more


def a_run(model, prompt, new=40):
    return Run(model, tuple(prompt), new, Sampler(chance=Chance(0)), 0)


@torch.inference_mode()
def replayed(policy, model, prompt, choices):
    """Let a policy draft, whatever the model thinks keep the node that each of ``choices`` picks and all above it, and
    yield the text before each draft, and the draft."""
    decoder = Decoder(model)
    logits = decoder.prefill(prompt)
    text = [*prompt, 7]
    policy.verified(Verification(Draft(), [], 7, logits, decoder.hidden, None, decoder.cache))
    for pick in choices:
        draft = policy.propose(text, 12)
        yield list(text), draft
        parents = None if draft.parents is None else [-1, *(parent + 1 for parent in draft.parents)]
        logits = decoder.forward([text[-1], *draft.tokens], parents, "all", ahead=draft.ahead)
        path, node = [], pick(draft)
        while node >= 0:
            path.insert(0, node)
            node = draft.parent(node)
        decoder.cache.commit(1 + len(draft.tokens), [0, *(node + 1 for node in path)])
        token = 3 + len(text) % 90
        policy.verified(Verification(draft, path, token, logits, decoder.hidden, decoder.ahead, decoder.cache))
        text += [*(draft.tokens[node] for node in path), token]


PICKS = (
    lambda draft: -1,
    lambda draft: len(draft.tokens) - 1,
    lambda draft: draft.depths().index(max(draft.depths())) if draft.tokens else -1,
    lambda draft: 0 if draft.tokens else -1,
    lambda draft: len(draft.tokens) // 2 - 1,
)


def drafts_of_heads_follow_the_text(kind, tree):
    """Whatever was kept before, a draft equals one by heads that see the features of the whole text at once."""
    model, prompt = tiny("qwen2"), random_tokens(11)
    technique = kind(nodes=10, tree=tree, weights="untrained", cost="modelled")
    deepest = 0
    for text, draft in replayed(technique.start(a_run(model, prompt)), model, prompt, PICKS * 2):
        fresh = technique.start(a_run(model, prompt))
        with torch.inference_mode():
            decoder = Decoder(model)
            logits = decoder.prefill(text[:-1])
            fresh.verified(Verification(Draft(), [], text[-1], logits, decoder.hidden, None, decoder.cache))
            again = fresh.propose(text, 12)
        assert (draft.tokens, draft.parents) == (again.tokens, again.parents)
        assert draft.confidence == pytest.approx(again.confidence, abs=1e-4)
        assert draft.flops == again.flops > 0 and draft.bytes > 0
        assert len(draft.tokens) <= 10
        deepest = max([deepest, *draft.depths()])
    assert deepest >= 2


def drafts_of_rows_are_what_they_said(kind, tree):
    """The tokens of a draft are the likeliest ones of the rows that the last kept token had, run here by themselves."""
    model, prompt = tiny("llama"), random_tokens(11)
    technique = kind(nodes=16, tree=tree, weights="untrained", cost="modelled")
    policy, drafted = technique.start(a_run(model, prompt)), 0
    part = policy._part
    for text, draft in replayed(policy, model, prompt, PICKS * 2):
        place = torch.tensor([len(text) - 2])
        seen = read(model.anatomy, torch.tensor([text]), part.layer)
        orders = list(range(1, part.orders + 1))
        made = part.rows(seen.entering[:, place].repeat_interleave(part.orders, 1), orders)
        with torch.no_grad():
            said = logits(model.anatomy, run_rows(model.anatomy, seen, made, place, part.orders))[0]
        places, chances = said.topk(8).indices.tolist(), said.softmax(-1)
        for token, depth, chance in zip(draft.tokens, draft.depths(), draft.confidence or ()):
            assert token in places[depth - 1]
            if tree == "adaptive":
                assert chance == pytest.approx(float(chances[depth - 1, token]), abs=1e-3)
        if draft.tokens:
            assert draft.tokens[0] == places[0][0]
        assert len(draft.tokens) + len(draft.ahead.roots if draft.ahead else ()) <= 16
        drafted += len(draft.tokens)
    assert drafted > 10


def needs_artefact(name):
    return pytest.mark.skipif(
        not (artifacts.folder() / f"{name}.safetensors").is_file(), reason=f"the artefact {name} is not trained yet"
    )


def is_exact_and_accepted_on_real_text(bundled, technique, least):
    """Greedy output is the baseline's, and at least so many tokens are accepted for each forward."""
    prompt = bundled.chat("Explain in a few sentences why the sky is blue.")
    plain = tokens_of(generate(bundled, prompt, max_new_tokens=32, stop_tokens=()))
    steps = list(generate(bundled, prompt, [technique], max_new_tokens=32, stop_tokens=()))
    assert tokens_of(steps) == plain
    assert sum(step.accepted for step in steps) >= least * len(steps)
