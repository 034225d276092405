"""Thresholds against the public code's loop, and shares against a search by hand."""

import math

import pytest
import torch

from workbench.techniques.depth.budgeted_exit.solving import geometric, left_at, mean, shares_within, thresholds


def of_the_paper(deltas, wanted):
    """``ExitController.set_threshold`` of github.com/yueyang130/DeeR-VLA, of deltas [exits, samples] that are to be
    small, with the number of samples that leave at each exit in the place of ``floor(samples * probs[k])``."""
    exits, samples = deltas.shape
    order, filtered, found = deltas.sort(dim=1).indices, torch.zeros(samples), [-1e8] * (exits - 1)
    for k in range(exits - 1):
        count = 0
        for i in range(samples):
            if filtered[order[k][i]] == 0:
                count += 1
                if count == wanted[k]:
                    found[k] = float(deltas[k][order[k][i]])
                    break
        filtered.add_(deltas[k].le(found[k]).type_as(filtered))
    return found


@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.0, 1.7])
@pytest.mark.parametrize("tokens", [7, 64])
def test_thresholds_are_those_of_the_papers_code(ratio, tokens):
    values = torch.rand(4, tokens, generator=torch.Generator().manual_seed(tokens), dtype=torch.float64)
    shares = geometric(math.log(ratio), 5)
    due = [math.ceil(sum(shares[: k + 1]) * tokens - 1e-6) for k in range(4)]
    wanted = [one - before for one, before in zip(due, [0, *due])]
    expected = [math.inf if each == -1e8 else -each for each in of_the_paper(torch.cat((-values, values[:1])), wanted)]
    found = thresholds(values, shares)
    assert found == expected
    left = left_at(values, found)
    assert [round(each * tokens) for each in left[:-1]] == wanted and sum(left) == pytest.approx(1)


def test_shares_are_powers_of_one_ratio():
    shares = geometric(math.log(0.5), 4)
    assert shares == pytest.approx([each / 0.9375 for each in (0.5, 0.25, 0.125, 0.0625)])
    assert geometric(0.0, 4) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("budget", [0.55, 0.7, 0.85, 0.99])
def test_the_ratio_is_the_largest_within_the_budget(budget):
    costs = [0.5, 0.62, 0.81, 1.04]
    shares = shares_within(costs, budget)
    assert mean(shares, costs) == pytest.approx(budget, abs=1e-9) and mean(shares, costs) <= budget
    ratios = [math.exp(place / 200) for place in range(-1200, 1200)]
    within = [
        each for each in ratios if sum(each**k * costs[k] for k in range(4)) / sum(each**k for k in range(4)) <= budget
    ]
    assert shares[1] / shares[0] == pytest.approx(max(within), rel=6e-3)


def test_budgets_at_the_ends():
    costs = [0.5, 0.75, 1.0]
    assert shares_within(costs, 1.0) == [0.0, 0.0, 1.0]
    assert shares_within(costs, 0.5)[0] == pytest.approx(1)


@pytest.mark.parametrize("budget", [0.6, 0.8, 0.95])
def test_the_mean_of_the_calibration_text_is_within_the_budget_ties_and_rounding_included(budget):
    costs = [0.5, 0.7, 0.9, 1.1]
    for tokens in (1, 3, 50, 500):
        for ties in (1, 5, 1000):
            drawn = torch.rand(3, tokens, generator=torch.Generator().manual_seed(ties), dtype=torch.float64)
            values = (drawn * ties).round() / ties
            took = mean(left_at(values, thresholds(values, shares_within(costs, budget))), costs)
            assert took <= budget + 1e-9
            if ties == 1000 and tokens == 500:
                assert took > budget - 0.01


def test_nobody_leaves_where_no_share_does():
    values = torch.tensor([[0.9, 0.5, 0.1]], dtype=torch.float64)
    assert thresholds(values, [0.0, 1.0]) == [math.inf]
    assert thresholds(values, [1.0, 0.0]) == [0.1]
