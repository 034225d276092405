"""Every outcome once, with its probability; streams that draw at any moment; and what is left out is left out."""

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder, Sampler
from workbench.engine.enumeration import TooManyOutcomes, distribution, text_distribution, total_variation
from workbench.models.tiny import tiny


def test_outcomes_have_the_products_of_their_decisions():
    def procedure(chance):
        first = chance.draw([0.5, 0.3, 0.2])
        return first, chance.flip(0.25) if first else None

    expected = {(0, None): 0.5, (1, True): 0.075, (1, False): 0.225, (2, True): 0.05, (2, False): 0.15}
    assert distribution(procedure) == pytest.approx(expected)


@pytest.mark.parametrize("late", [False, True])
def test_a_fork_is_walked_through_whenever_it_draws(late):
    def procedure(chance):
        other = chance.fork(7)
        early = None if late else other.draw([0.4, 0.6])
        own = chance.flip(0.5)
        return own, other.draw([0.4, 0.6]) if late else early

    assert distribution(procedure) == pytest.approx(
        {(own, got): 0.5 * p for own in (0, 1) for got, p in ((0, 0.4), (1, 0.6))}
    )


def test_given_decisions_cost_no_probability():
    assert distribution(lambda chance: (chance.draw([0.3, 0.7]), chance.flip(0.5)), given=1) == {
        (1, True): 0.5,
        (1, False): 0.5,
    }


def test_a_text_has_the_probability_of_its_tokens():
    model, prompt = tiny("llama", vocabulary=4, dtype=torch.float64), [1, 2, 3]
    found = text_distribution(model, prompt, [], 2, temperature=0.8)
    assert sum(found.values()) == pytest.approx(1.0) and len(found) == 16
    first, second = (Decoder(model).forward([*prompt, *more])[0] for more in ([], [2]))
    distributions = [Sampler(0.8).distribution(logits) for logits in (first, second)]
    assert found[2, 1] == pytest.approx(float(distributions[0][2] * distributions[1][1]), abs=1e-7)


def test_more_outcomes_than_allowed_are_an_error():
    with pytest.raises(TooManyOutcomes, match="more than 10 outcomes"):
        text_distribution(tiny("llama"), random_tokens(4), [], 1, most=10, temperature=1.0)


def test_total_variation_is_the_largest_difference_of_any_event():
    assert total_variation({"a": 0.5, "b": 0.5}, {"a": 0.2, "c": 0.8}) == pytest.approx(0.8)
