"""The worker: what it drafts, in a thread as without one; its hints, its errors and its end; and the modelled time."""

import threading

import pytest
import torch
from engine.test_accept import draft_distribution_after
from little import LittleDrafter

from workbench.engine import Chance, Sampler
from workbench.techniques.draft.overlapped_draft.overlap import Ahead, Chain, modelled_overlap

threads = pytest.mark.parametrize("threaded", [True, False])


def greedy_chain(text, count):
    chain = []
    for _ in range(count):
        chain.append(int(draft_distribution_after([*text, *chain]).argmax()))
    return chain


def one_hot(tokens):
    return torch.eye(4)[list(tokens)]


@threads
def test_it_goes_on_after_the_whole_draft(threaded):
    ahead = Ahead(LittleDrafter(), Sampler(), threaded=threaded)
    text, drafted = [1, 2], Chain([3, 0], [], [0.5, 0.4])
    ahead.begin(text, drafted, 3)
    (chain,) = ahead.ready()
    assert chain.tokens == [3, 0, *greedy_chain([1, 2, 3, 0], 3)]
    assert chain.confidence[:2] == [0.5, 0.4] and len(chain.confidence) == 5
    assert chain.confidence[2] == pytest.approx(float(draft_distribution_after([1, 2, 3, 0]).max()), abs=1e-6)
    assert ahead.ready() == [], "nothing was begun since"
    ahead.close()


@threads
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_exit_that_contradicts_the_draft_is_followed(threaded, temperature):
    ahead = Ahead(LittleDrafter(), Sampler(temperature, chance=Chance(4)), branches=2, threaded=threaded)
    drafted = Chain([3, 0], [draft_distribution_after([1])] * 2 if temperature else [], [0.5, 0.4])
    # The exit agrees with 3 and would say 2, or else 1, where the draft says 0.
    logits = torch.tensor([[0, 0, 0, 9.0], [-9, 1, 2, 0], [0, 0, 0, 0]])
    ahead.begin([1], drafted, 2)
    ahead.hint(torch.zeros(3, 4), lambda hidden: hidden + logits)
    chains = ahead.ready()
    ahead.close()
    assert [chain.tokens[:2] for chain in chains] == [[3, 0], [3, 2], [3, 1]]
    assert [len(chain.tokens) for chain in chains] == [4, 4, 4]
    for chain in chains:
        if temperature:
            ends = [1, *chain.tokens[:2]], [1, *chain.tokens[:3]]
            for distribution, text in zip(chain.distributions[2:], ends):
                torch.testing.assert_close(distribution, draft_distribution_after(text).float())
        else:
            assert chain.tokens[2:] == greedy_chain([1, *chain.tokens[:2]], 2)


@threads
def test_an_exit_that_agrees_doubts_the_token_after_the_draft(threaded):
    ahead = Ahead(LittleDrafter(), Sampler(), branches=1, threaded=threaded)
    guess = greedy_chain([1, 3], 1)[0]
    other = (guess + 1) % 4
    ahead.begin([1], Chain([3]), 2)
    ahead.hint(one_hot([3, other]), lambda hidden: hidden)
    assert [chain.tokens[:2] for chain in ahead.ready()] == [[3, guess], [3, other]]
    ahead.begin([1], Chain([3]), 2)
    assert len(ahead.ready()) == 1, "without a hint there is no branch, and no waiting for one"
    ahead.close()


@threads
def test_an_error_of_the_worker_comes_out_where_its_work_is_asked_for(threaded):
    class Broken(LittleDrafter):
        def follow(self, tokens):
            raise RuntimeError("the power went out")

    ahead = Ahead(Broken(), Sampler(), threaded=threaded)
    ahead.begin([1], Chain([2]), 2)
    with pytest.raises(RuntimeError, match="the power went out"):
        ahead.ready()
    assert ahead.ready() == []
    ahead.close()


def test_closing_ends_a_worker_that_waits_for_a_hint():
    before = threading.active_count()
    ahead = Ahead(LittleDrafter(), Sampler(), branches=1)
    ahead.begin([1], Chain([2]), 2)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_modelled_time_is_the_longer_of_the_two_for_every_step():
    apart, at_once = modelled_overlap([3.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.5, 0.0, 0.5])
    assert apart == 11.0
    assert at_once == 0.5 + 3.0 + 2.0 + 0.5 + 2.0
    assert modelled_overlap([1.0], [4.0]) == (5.0, 4.0)
