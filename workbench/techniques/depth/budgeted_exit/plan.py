"""Which exits a budget allows, and the thresholds that keep it on a calibration text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts.exits import Lens
from workbench.techniques.depth.budgeted_exit.costs import Costs, held
from workbench.techniques.depth.budgeted_exit.measuring import Measured
from workbench.techniques.depth.budgeted_exit.solving import left_at, mean, shares_within, thresholds


@dataclass(frozen=True)
class Budget:
    """Shares of what the full model takes.

    Attributes
    ----------
    average, peak : float
        Operations of a token, on average and of the one that goes deepest.
    memory : float
        Bytes of weights.
    """

    average: float
    peak: float
    memory: float


@dataclass(frozen=True)
class Plan:
    """What was solved for, and what it promises.

    Attributes
    ----------
    exits : tuple of int
        Layers after which tokens leave, the deepest last: there all do that are left.
    thresholds : tuple of float
        Of all exits but the last: from which confidence on a token leaves.
    checks : tuple of int
        Layers after which is looked: the exits but the last, and one before them that is only compared with.
    shares : tuple of float
        Of the calibration tokens, that leave at each exit.
    promised : Budget
        What they cost: the mean of the calibration text, the most that any token may, and what has to be there.
    tokens : int
        Of the calibration text; 0 where nothing was measured.
    """

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]
    checks: tuple[int, ...]
    shares: tuple[float, ...]
    promised: Budget
    tokens: int = 0


def plan(
    model: Model,
    budget: Budget,
    checks: Sequence[int],
    compared: bool,
    lens: Lens,
    found: Measured,
    vocabulary: int,
    copies: bool,
) -> Plan:
    """The deepest exits that the budgets allow, with thresholds for those below.

    Parameters
    ----------
    model : Model
    budget : Budget
        A share of 1 is no limit: looking at layers costs more than the full model alone.
    checks : sequence of int
        Layers after which tokens may be looked at; the last layer of the model is not among them.
    compared : bool
        Whether the first of them is only compared with.
    lens : Lens
        Reads the layers.
    found : Measured
        How sure it was after each of ``checks`` on the calibration text.
    vocabulary : int
        Tokens that a look is at, 0 for all.
    copies : bool
        Whether what leaves gives keys and values to the layers between.

    Raises
    ------
    SettingError
        If no exit meets the budgets.
    """
    last = model.layers - 1
    costs = Costs(model, found.places)
    least = {"average": 1.0, "peak": 1.0, "memory": 1.0}
    for deepest in (last, *reversed(checks[compared:])):
        memory, alone = held(model.anatomy, deepest + 1), costs.exit(deepest, deepest, (), lens)
        looked = [layer for layer in checks if layer < deepest]
        exits = [*looked[compared:], deepest]
        each = [costs.exit(layer, deepest, looked, lens, vocabulary, copies and layer < deepest) for layer in exits]
        for name, value in (("average", min(alone, each[0])), ("peak", alone), ("memory", memory)):
            least[name] = min(least[name], value)
        if memory > budget.memory and budget.memory < 1:
            continue
        if _within(alone, budget.peak) and _within(alone, budget.average):
            return Plan((deepest,), (), (), (1.0,), Budget(alone, alone, memory), len(found.places))
        if len(exits) > 1 and _within(each[-1], budget.peak) and each[0] <= budget.average:
            rows = found.values[[list(checks).index(layer) for layer in exits[:-1]]]
            limits = thresholds(rows, shares_within(each, budget.average))
            left = left_at(rows, limits)
            promised = Budget(mean(left, each), each[-1], memory)
            return Plan(tuple(exits), tuple(limits), tuple(looked), tuple(left), promised, len(found.places))
    raise SettingError(
        f"no exit of {model.name} meets average={budget.average:g}, peak={budget.peak:g} and memory={budget.memory:g}: "
        + "the least are "
        + ", ".join(f"{name} {value:.2f}" for name, value in least.items())
        + "; raise what lies below, or let tokens leave earlier with a smaller first="
    )


def _within(cost: float, budget: float) -> bool:
    return budget >= 1 or cost <= budget
