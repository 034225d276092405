"""Monte Carlo tree search for layers that a text can do without, or had better run twice.

Source
------
Heakl et al., Dr.LLM, 2025, arXiv 2510.12773, after Li et al., Skip a Layer or Loop it?, 2025, arXiv 2507.07996;
github.com/parameterlab/dr-llm. UCB: Kocsis and Szepesvari, Bandit based Monte-Carlo Planning, 2006. Few children first:
Coulom, Computing Elo Ratings of Move Patterns, 2007. Actions by what they did elsewhere in the tree: Gelly and Silver,
Combining Online and Offline Knowledge in UCT, 2007.

A node is a configuration, how often each layer runs; its children skip one or two more layers in a row, or run one
twice. Of a node's children the one with the most of

    reward / visits + exploration sqrt(ln(visits of the node) / visits) - penalty passes / layers

is gone to. A configuration's reward is the chance that it gives each token of the answer over that at full depth,
``min(1, exp(full loss - loss))``.

Deviates
--------
The public code rewards a right answer with 1 and any other with 0, explores with 1.8 under a penalty of 3, opens one
child of a node before it goes on below it, and chooses a child by chance one time in ten. Here a node with n visits has
about sqrt(n) children, what cost little elsewhere in the tree is tried sooner, and no configuration has more
than ``budget`` passes; rewards differ by less, and exploration and penalty with them.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from workbench.parts.layer_router import REPEAT, RUN, SKIP

_HOPE = 0.15  # share of the changes made that are held better than one that was not made yet

Choices = tuple[int, ...]
"""How often each layer runs: 0, 1 or 2."""


@dataclass(eq=False)
class _Node:
    choices: Choices
    untried: list[Choices]
    children: list[_Node] = field(default_factory=list)
    visits: int = 0
    rewards: float = 0.0


def search(
    loss: Callable[[Choices], float],
    layers: int,
    simulations: int = 50,
    exploration: float = 0.3,
    penalty: float = 1.0,
    budget: float = 1.0,
    seed: int = 0,
) -> dict[Choices, float]:
    """Losses of all configurations that were looked at, that of full depth first.

    Parameters
    ----------
    loss : callable
        Of a configuration, mean over the answer's tokens [nats].
    layers : int
    simulations : int
    exploration, penalty : float
    budget : float
        Most passes of a configuration, over the number of layers.
    seed : int
    """
    chance = random.Random(seed)
    full = (RUN,) * layers
    losses = {full: loss(full)}
    known: dict[tuple[int, int], list[float]] = defaultdict(list)
    most = int(budget * layers)
    root = _Node(full, _shuffled(full, most, chance), visits=1, rewards=1.0)
    for _ in range(simulations):
        way = [root]
        while True:
            node = way[-1]
            if node.untried and len(node.children) < math.ceil(math.sqrt(node.visits)):
                choices = _likeliest(node, known, penalty)
                node.children.append(_Node(choices, _shuffled(choices, most, chance)))
                way.append(node.children[-1])
                break
            if not node.children:
                break
            way.append(_best(node, exploration, penalty))
        found = way[-1].choices
        if found not in losses:
            losses[found] = loss(found)
        reward = min(1.0, math.exp(min(0.0, losses[full] - losses[found])))
        if len(way) > 1:
            changed = list(_changes(way[-2].choices, found))
            for each in changed:
                known[each].append((losses[found] - losses[way[-2].choices]) / len(changed))
        for node in way:
            node.visits += 1
            node.rewards += reward
    return losses


def shortest(losses: dict[Choices, float], tolerance: float) -> Choices:
    """The configuration with the fewest passes whose loss is at most ``tolerance`` [nats] above that of full depth, the
    first one; of several the one of least loss."""
    limit = next(iter(losses.values())) + tolerance
    return min((each for each in losses if losses[each] <= limit), key=lambda each: (sum(each), losses[each]))


def actions(choices: Choices, most: int) -> Iterator[Choices]:
    """Configurations one action away: one layer, or two in a row, skipped, or one repeated, where they run once and no
    more than ``most`` passes come of it."""
    for layer, times in enumerate(choices):
        if times != RUN:
            continue
        for size in (1, 2):
            if choices[layer : layer + size] == (RUN,) * size and any(choices[:layer] + choices[layer + size :]):
                yield (*choices[:layer], *(SKIP,) * size, *choices[layer + size :])
        if sum(choices) < most:
            yield (*choices[:layer], REPEAT, *choices[layer + 1 :])


def _shuffled(choices: Choices, most: int, chance: random.Random) -> list[Choices]:
    found = list(actions(choices, most))
    chance.shuffle(found)
    return found


def _changes(before: Choices, after: Choices) -> Iterator[tuple[int, int]]:
    return ((layer, new) for layer, (old, new) in enumerate(zip(before, after)) if old != new)


def _likeliest(node: _Node, known: dict[tuple[int, int], list[float]], penalty: float) -> Choices:
    """The untried child of least loss and penalty, by what its changes have cost elsewhere; one that was not made yet
    counts like the better ones of those that were."""
    costs = sorted(sum(seen) / len(seen) for seen in known.values())
    hoped = costs[int(_HOPE * len(costs))] if costs else 0.0

    def expected(place: int) -> float:
        choices = node.untried[place]
        made = (known.get(each) for each in _changes(node.choices, choices))
        lost = sum(sum(seen) / len(seen) if seen else hoped for seen in made)
        return lost + penalty * sum(choices) / len(choices)

    return node.untried.pop(min(range(len(node.untried)), key=expected))


def _best(node: _Node, exploration: float, penalty: float) -> _Node:
    def bound(child: _Node) -> float:
        explored = exploration * math.sqrt(math.log(node.visits) / child.visits)
        return child.rewards / child.visits + explored - penalty * sum(child.choices) / len(child.choices)

    return max(node.children, key=bound)
