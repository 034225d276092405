"""The head against its formula, the rule against a plain loop, and the distribution of what is said."""

import math

import pytest
import torch
from engine.test_accept import SETTINGS, assert_same_distribution, continue_to, logits_after, plain
from helpers import random_tokens, run, tokens_of
from little import LittleDrafter

from workbench import artifacts
from workbench.engine import Decoder, Run, Sampler
from workbench.engine.accept import accept
from workbench.engine.enumeration import distribution
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.acceptance import NAME, AcceptanceHead, acceptance_head
from workbench.techniques import CandidateLength
from workbench.techniques.draft.candidate_length import _Stopping

PROMPT = random_tokens(12)


def test_the_head_is_its_formula():
    head = acceptance_head(tiny("llama"), tiny("llama").shallow(2), "untrained", depth=2)
    hidden = 30 * torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    for row, found in zip(hidden.double(), head(hidden)):
        x = row / row.pow(2).mean().add(1e-7).sqrt()
        for block in head.blocks:
            inner = block.weight.double() @ x + block.bias.double()
            x = x + inner * inner.sigmoid()
        expected = head.out.weight.double() @ x + head.out.bias.double()
        assert float(found) == pytest.approx(float(expected), abs=1e-4)
    assert head.flops == 2 * (2 * (32 * 32 + 32) + 33)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8, 0.9, 1.0])
def test_drafting_stops_where_a_rejection_has_become_likely(threshold):
    model = tiny("qwen2")
    technique = CandidateLength(model="/2", weights="untrained", threshold=threshold, draft=6)
    head = acceptance_head(model, model.shallow(2), "untrained")
    text = list(PROMPT)
    policy = technique.start(Run(model, tuple(PROMPT), 60, Sampler(), 0))
    for kept in (0, 1, 1):
        draft = policy.propose(text, 20)
        decoder, accepted = Decoder(model.shallow(2)), []
        logits = decoder.forward(text)[0]
        expected = [int(logits.argmax())]
        # The public code: the head reads each token in the pass that gives the next, and that next one is kept.
        while len(expected) < 6 and 1 - math.prod(accepted) <= threshold:
            logits = decoder.forward(expected[-1:])[0]
            accepted.append(1 / (1 + math.exp(-float(head(decoder.hidden[-1])))))
            expected.append(int(logits.argmax()))
        assert draft.tokens == expected and len(expected) >= 2
        assert draft.confidence[:-1] == pytest.approx(accepted, abs=1e-4)
        assert draft.confidence[-1] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)
        text += [*draft.tokens[:kept], 40 + kept]
    assert len(policy.propose(text, 1).tokens) == 1


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_distribution_is_kept_whatever_the_head_says(settings):
    """The head may look at every token drawn so far, and stop there."""

    class Opinion(torch.nn.Module):
        flops = 0

        def forward(self, hidden):
            return torch.tensor(0.9 if int(hidden) % 2 else -0.9)

    class Telling(LittleDrafter):
        hidden = property(lambda self: torch.tensor([sum(self._text)]))  # the newest token is in it

    lengths = set()

    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        run = Run(tiny("llama"), (), 0, sampler, 0)
        technique = CandidateLength(threshold=0.6, draft=3, weights="untrained")
        draft = _Stopping(technique, Telling(), Opinion(), run).propose([], 3)
        lengths.add(len(draft.tokens))
        logits = torch.stack([logits_after(draft.path_to(node)) for node in range(-1, len(draft.tokens))])
        path, token = accept(draft, logits, sampler)
        return continue_to([*[draft.tokens[node] for node in path], token], 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))
    assert lengths == {2, 3} or Sampler(**settings).greedy


def test_a_head_is_read_from_a_file_and_must_fit(tmp_path):
    main = tiny("llama")
    torch.manual_seed(3)
    head = AcceptanceHead(32, depth=1)
    facts = {"model": {"name": main.name, "revision": main.revision}}
    artifacts.save(NAME, head.state_dict(), facts, tmp_path)
    path = str(tmp_path / f"{NAME}.safetensors")
    loaded = acceptance_head(main, main.shallow(2), path)
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.bfloat16().float())
    artifacts.save(NAME, AcceptanceHead(16, depth=1).state_dict(), facts, tmp_path)
    with pytest.raises(SettingError, match="does not fit"):
        acceptance_head(main, main.shallow(2), path)
    with pytest.raises(SettingError, match="workbench train acceptance_head"):
        acceptance_head(main, main.shallow(2), "bundled")


def test_a_confident_head_drafts_more_than_a_doubtful_one(tmp_path):
    main = tiny("llama")
    lengths = []
    for bias in (-2.0, 2.0):
        head = AcceptanceHead(32, depth=0)
        torch.nn.init.zeros_(head.out.weight)
        torch.nn.init.constant_(head.out.bias, bias)
        artifacts.save(NAME, head.state_dict(), {"model": {"name": main.name}}, tmp_path)
        steps = run(main, PROMPT, [CandidateLength(model="/1.0", weights=str(tmp_path / f"{NAME}.safetensors"))])
        lengths.append(max(step.drafted for step in steps))
    chance = 1 / (1 + math.exp(-2.0))
    read = next(length for length in range(1, 99) if 1 - chance**length > 0.7)
    assert lengths == [2, read + 1], "the token after the last one read is there without another pass"


@pytest.mark.bundled
def test_it_is_exact_on_real_text_and_drafts_as_long_as_it_dares(bundled):
    """With the head and the draft model that come with the workbench; two at least are drafted."""
    prompt = bundled.chat("Name three rivers in Europe.")
    expected = tokens_of(run(bundled, prompt))
    drafted = {}
    for threshold in (0.3, 0.97):
        steps = run(bundled, prompt, [CandidateLength(threshold=threshold)])
        assert tokens_of(steps) == expected
        drafted[threshold] = sum(step.drafted for step in steps) / len(steps)
    assert drafted[0.97] > drafted[0.3] > 1.5
