"""The target against the paper's formula, and that what comes out follows it, drafted or not."""

import pytest
import torch
from engine.test_accept import assert_same_distribution
from helpers import random_tokens, run

from workbench.engine import Decoder, Sampler
from workbench.engine.enumeration import distribution, text_distribution
from workbench.models.tiny import tiny
from workbench.techniques import RetrievalContextTransfer
from workbench.techniques.draft._passages import retrieved_context
from workbench.techniques.draft.retrieval_context_transfer import transferred

PROMPT = random_tokens(45)
READS = {"budget": 20, "chunk": 4, "query": 6, "model": "/3"}


def formula(z, q, strength, temperature):
    """Equations 6 and 9, as probabilities: the pull is left out where the drafter's distribution has its tail."""
    p = torch.exp(z / temperature) / torch.exp(z / temperature).sum()
    pull = [strength * (b - a) if b >= 0.1 * float(q.max()) else 0.0 for a, b in zip(p.tolist(), q.tolist())]
    weights = torch.exp(z / temperature + torch.tensor(pull, dtype=z.dtype))
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("strength", [0.0, 1.0, 20.0])
def test_the_target_is_the_papers(strength, temperature):
    generator = torch.Generator().manual_seed(3)
    z, q = torch.randn(12, generator=generator), torch.randn(12, generator=generator).mul(2).softmax(-1)
    found = (transferred(z, q, strength, temperature) / temperature).softmax(-1)
    torch.testing.assert_close(found, formula(z, q, strength, temperature), atol=1e-6, rtol=1e-5)


def followed(chance, new, settings):
    """Plain sampling from the formula, with both models run afresh for every token."""
    model, sampler = tiny("llama"), Sampler(chance=chance, **settings)
    context, text = retrieved_context(PROMPT, 4, 20, 6), list(PROMPT)
    while len(text) < len(PROMPT) + new:
        z = Decoder(model).forward(text)[0]
        teacher = Decoder(model.shallow(3)).forward([*context, *text[len(PROMPT) :]])[0]
        q = (teacher / sampler.temperature).softmax(-1)
        target = formula(z, q, 8.0, sampler.temperature)
        text.append(sampler.choose(target.log() * sampler.temperature))
    return tuple(text[len(PROMPT) :])


@pytest.mark.parametrize(
    ("draft", "new", "settings"),
    [
        (0, 3, {"temperature": 1.0, "top_k": 2}),
        (2, 4, {"temperature": 1.0, "top_k": 2}),
        (1, 3, {"temperature": 1.4, "top_k": 3, "top_p": 0.8}),
    ],
)
def test_every_token_follows_the_target(draft, new, settings):
    technique = RetrievalContextTransfer(strength=8.0, draft=draft, **READS)
    found = text_distribution(tiny("llama"), PROMPT, [technique], new, **settings)
    assert_same_distribution(found, distribution(lambda chance: followed(chance, new, settings)))


def test_a_strong_drafter_is_accepted_more_often():
    kept = []
    for strength in (0.0, 100.0):
        technique = RetrievalContextTransfer(strength=strength, draft=4, budget=24, chunk=4, query=8)
        kept.append(sum(step.accepted for step in run(tiny("llama"), PROMPT, [technique], 40)))
    assert kept[1] > kept[0]


@pytest.mark.slow
@pytest.mark.bundled
def test_the_drafters_knowledge_raises_acceptance_on_real_text(bundled):
    """The paper's second claim: what the drafter is sure of is rejected less often."""
    from workbench.tasks import encode_prompt, load_prompts

    rates = []
    for strength in (0.0, 10.0):
        technique = RetrievalContextTransfer(strength=strength, draft=4, budget=200)
        steps = [
            step
            for prompt in load_prompts("retrieval_augmented", limit=3)
            for step in run(bundled, encode_prompt(bundled.tokenizer, prompt)[-420:], [technique], 24)
        ]
        rates.append(sum(step.accepted for step in steps) / sum(step.drafted for step in steps))
    assert rates[1] > rates[0], rates
