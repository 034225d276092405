"""In a thread as without, in any setting: the same output, the distribution kept, and steps as the paper has them."""

import itertools
import threading

import pytest
import torch
from engine.test_accept import SETTINGS, assert_same_distribution, logits_after, plain
from helpers import facts, random_tokens, run, tokens_of
from little import LittleDrafter

from workbench.engine import Decoder, Run, Sampler, generate
from workbench.engine.accept import accept
from workbench.engine.enumeration import distribution
from workbench.engine.loop import Loop
from workbench.engine.recipe import Recipe
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel, OverlappedDraft
from workbench.techniques.draft.overlapped_draft import _Overlapped
from workbench.techniques.draft.overlapped_draft.overlap import Ahead, modelled_overlap

PROMPT = random_tokens(12)


def test_a_perfect_drafter_is_pre_verified_once_and_post_verified_ever_after():
    """PEARL's two phases: nothing is drafted before the first forward, and the token after it is the worker's; then
    every step verifies all that was drafted during the step before."""
    steps = run(tiny("llama"), PROMPT, [OverlappedDraft(model="/1.0", draft=4)], new=32)
    assert [(step.drafted, step.accepted) for step in steps[1:5]] == [(0, 0), (4, 4), (4, 4), (4, 4)]
    steps = run(tiny("llama"), PROMPT, [OverlappedDraft(model="/1.0", draft=4, first=1)], new=32)
    assert [(step.drafted, step.accepted) for step in steps[1:5]] == [(1, 1), (4, 4), (4, 4), (4, 4)]


def test_after_a_rejection_so_many_tokens_are_drafted_first_as_the_setting_says():
    model = tiny("llama")
    for first in (0, 1, 3):
        steps = run(model, PROMPT, [OverlappedDraft(model="/2", draft=4, first=first)])
        rejected = [later for step, later in itertools.pairwise(steps[1:-3]) if step.accepted < step.drafted]
        assert rejected and {step.drafted for step in rejected} == {first}


@pytest.mark.parametrize("settings", [{}, {"exit_layer": 0.5, "branches": 2}, {"first": 2}])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_thread_changes_nothing(settings, temperature):
    model = tiny("qwen2")
    at_once, apart = (
        run(model, PROMPT, [OverlappedDraft(model="/2", draft=3, at_once=both, **settings)], temperature=temperature)
        for both in (True, False)
    )
    assert list(map(facts, at_once)) == list(map(facts, apart))
    if not temperature:
        assert tokens_of(at_once) == tokens_of(run(model, PROMPT))


def test_branches_of_an_early_exit_are_ready_where_the_draft_was_rejected():
    """An exit after the last layer but one says much of what the model says; its branches then save drafting anew."""
    model = tiny("llama", layers=8)

    def ready(**settings):
        steps = run(model, PROMPT, [OverlappedDraft(model="/2", draft=4, **settings)], new=60)
        return sum(later.drafted > 0 for step, later in itertools.pairwise(steps[1:-2]) if step.accepted < step.drafted)

    assert ready() == 0
    assert ready(exit_layer=0.9, branches=3) > 0


def test_the_workers_token_is_verified_as_a_drafted_one():
    """Its continuation is of use with probability sum(min(p, q)), not with that of two draws that happen to agree."""
    model = tiny("llama", vocabulary=3, dtype=torch.float64)
    drafter = model.shallow(2)
    sampling = {"temperature": 1.0}

    def first_and_drafted(chance):
        one = Run(model, (1, 2, 0, 1), 4, Sampler(chance=chance, **sampling), 0)
        steps = list(itertools.islice(Loop(one, Recipe([OverlappedDraft(model="/2", draft=1)])).steps(None), 3))
        return steps[0].tokens[0], steps[2].drafted

    found = distribution(first_and_drafted)
    p_first = Sampler(**sampling).distribution(Decoder(model).forward([1, 2, 0, 1])[0])
    for token in range(3):
        text = [1, 2, 0, 1, token]
        p, q = (Sampler(**sampling).distribution(Decoder(each).forward(text)[0]) for each in (model, drafter))
        kept = float(p_first[token] * torch.minimum(p, q).sum())
        assert found[token, 1] == pytest.approx(kept, abs=1e-6)


@pytest.mark.parametrize(("first", "settings"), [(1, SETTINGS[3]), *((0, settings) for settings in SETTINGS)])
def test_the_distribution_is_kept_over_several_steps(first, settings):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        technique = OverlappedDraft(draft=1, first=first)
        drafter = LittleDrafter(2)
        policy = _Overlapped(
            technique, Run(tiny("llama"), (), 0, sampler, 0), drafter, Ahead(drafter, sampler, threaded=False)
        )
        policy._drafter.spread = lambda distributions, vocabulary: torch.stack(distributions) if distributions else None
        text = []
        # Two steps: what the second one verifies was drafted during the first, or is drafted anew.
        while len(text) < 3:
            draft = policy.propose(text, 3 - len(text))
            logits = torch.stack([logits_after(text + draft.path_to(node)) for node in range(-1, len(draft.tokens))])
            path, token = accept(draft, logits, sampler)
            text += [*[draft.tokens[node] for node in path], token]
        return tuple(text[:3])

    assert_same_distribution(distribution(procedure), plain(3, settings))


def test_no_worker_outlives_its_run():
    before = threading.active_count()
    stream = generate(tiny("llama"), PROMPT, [OverlappedDraft(model="/2")], max_new_tokens=20, stop_tokens=())
    next(stream), next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(SettingError, match="there is no device"):
        generate(tiny("llama"), PROMPT, [OverlappedDraft(model="/2", device="cuda:77")])


def test_two_devices_are_modelled_from_a_run_that_was_not_at_once():
    steps = run(tiny("llama"), PROMPT, [OverlappedDraft(model="/1.0", at_once=False)])[1:]
    ahead = [later.draft_seconds for later in steps[1:]]
    verify = [step.verify_seconds for step in steps[:-1]]
    apart, at_once = modelled_overlap(ahead, verify)
    assert sum(verify) <= at_once < apart == pytest.approx(sum(ahead) + sum(verify))


@pytest.mark.bundled
def test_it_is_exact_on_real_text_and_takes_fewer_drafted_tokens_to_be_rejected(bundled):
    prompt = bundled.chat("Name three rivers in Europe.")
    expected = tokens_of(run(bundled, prompt, new=14))
    overlapped = run(bundled, prompt, [OverlappedDraft(model="/0.9", draft=4)], new=14)
    chain = run(bundled, prompt, [DraftModel(model="/0.9", draft=4)], new=14)
    assert tokens_of(overlapped) == tokens_of(chain) == expected

    def wasted(steps):
        return sum(step.drafted - step.accepted for step in steps)

    # Pre-verify: a first token that is wrong costs one row, not four.
    assert wasted(overlapped) < wasted(chain)
