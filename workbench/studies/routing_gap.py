"""What a trained router loses against an oracle that knows the next token, and what chance loses, at equal budgets.

Paper
-----
Alizadeh et al., Duo-LLM: A Framework for Studying Adaptive Computation in Large Language Models, 2024, arXiv
2410.10846: trained routers stay far from the oracle, about where the best of many random ways is.

Formula
-------
Of one token of a text, all tokens before it whole, the loss of the token that follows it:

- oracle: the least over ways with at most k big MLPs (:func:`workbench.parts.small_big.oracle.oracle`);
- random: k layers drawn for the big MLP, small ones elsewhere; the mean over the drawn ways, and the least of them;
- router: its own way at a chance, the same for all tokens; its budget is the mean number of big MLPs that it took.

Deviates
--------
The paper's router has one budget, that of its training; here the chance above which it takes the big MLP is varied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench import trace
from workbench.errors import SettingError
from workbench.models import Block, Model
from workbench.models.model import evenly
from workbench.models.projection import LinearMap
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big import BIG, SMALL, router_maps, small_mlps
from workbench.parts.small_big.oracle import oracle
from workbench.parts.small_big.paths import Paths
from workbench.parts.small_big.routers import choose
from workbench.trace import variable

CHANCES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)


def routing_gap(
    model: Model,
    prompts: Sequence[str | Sequence[int]],
    weights: str = "bundled",
    small: str = "bundled",
    budgets: Sequence[int] | None = None,
    chances: Sequence[float] = CHANCES,
    tokens: int = 4,
    beam: int = 1,
    samples: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Losses of oracle, trained router and chance over budgets of big MLPs.

    Parameters
    ----------
    model : Model
    prompts : sequence of str or token ids
        Texts of three tokens or more.
    weights, small : str
        Router and small MLPs, as of :class:`workbench.techniques.SmallBigRouter`.
    budgets : sequence of int, optional
        Numbers of big MLPs, increasing; by default five from none to all.
    chances : sequence of float
        Chances of the big MLP above which the router takes it.
    tokens : int
        Looked at in each text, evenly spread over its later half.
    beam, samples : int
        Ways that the oracle keeps, and random ways for each budget.
    seed : int
    progress : callable, optional
        Told after each token how many are done, of how many.
    cancel : threading.Event, optional
        Looked at before each token.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Group ``routing_gap``: ``oracle_loss``, ``random_loss`` and ``best_random_loss``
        (budget, place), ``router_loss`` and ``router_big`` (chance, place), ``whole_loss`` (place), all [nats] but for
        ``router_big`` [MLPs]; ``gap`` (chance) [nats], the router's mean loss less the oracle's at that budget, which
        is taken from the line between its neighbours.

    Raises
    ------
    SettingError
        If a text is too short, the model has no dense MLP, or numbers do not fit.
    """
    texts = [model.encode(prompt) for prompt in prompts]
    maps, routers = small_mlps(model, small), router_maps(model, weights)
    dense = list(maps)
    budgets = evenly(len(dense) + 1, min(5, len(dense) + 1)) if budgets is None else list(budgets)
    _check(texts, budgets, chances, len(dense), min(tokens, beam, samples))
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor(list(chances), device=model.device)
    found: list[list[np.ndarray]] = []
    total = sum(len(_places(text, tokens)) for text in texts)
    for text in texts:
        paths = Paths.of(model, maps, torch.tensor(text, device=model.device))
        for place in _places(text, tokens):
            if cancel is not None and cancel.is_set():
                return None

            def loss(ways: Tensor, paths: Paths = paths, place: int = place) -> Tensor:
                return paths.losses(place, ways.to(model.device)).cpu()

            drawn = loss(_random(model.layers, dense, budgets, samples, generator)).view(len(budgets), samples)
            best, _ = oracle(loss, model.layers, dense, budgets, beam)
            # The random ways are ways too: a beam that found none as good is not held to be the best.
            best = torch.minimum(best, drawn.min(1).values.cummin(0).values)
            routed = _route(paths, place, routers, limits)
            whole = loss(torch.full((1, model.layers), BIG))
            found.append([each.numpy() for each in (best, drawn.mean(1), drawn.min(1).values, *routed, whole)])
            if progress is not None:
                progress(len(found), total)
    parts = [np.stack(each, 1).astype(float) for each in zip(*found)]
    groups = {"tokens": trace.tokens(texts[0]), "routing_gap": _dataset(parts, budgets, chances, len(dense))}
    recipe = {"texts": len(texts), "tokens": tokens, "beam": beam, "samples": samples, "seed": seed}
    return trace.build(groups, model=model, kind="observe", recipe=recipe, used=set(texts[0]))


def _check(texts: list[list[int]], budgets: Sequence[int], chances: Sequence[float], layers: int, least: int) -> None:
    if not texts or min(map(len, texts)) < 3:
        raise SettingError("give at least one text, and none of fewer than three tokens")
    if not budgets or list(budgets) != sorted(set(budgets)) or not 0 <= budgets[0] <= budgets[-1] <= layers:
        raise SettingError(f"budgets are numbers of big MLPs, increasing, of 0 … {layers}, and not {list(budgets)}")
    if not chances or not all(0 <= chance < 1 for chance in chances):
        raise SettingError(f"chances are numbers from 0, for always, to below 1, and not {list(chances)}")
    if least < 1:
        raise SettingError("tokens, beam and samples are at least 1")


def _places(text: Sequence[int], tokens: int) -> list[int]:
    """Places of a text's later half whose successors are looked at."""
    first = len(text) // 2
    count = len(text) - 1 - first
    return [first + place for place in evenly(count, min(count, tokens))]


def _random(layers: int, dense: list[int], budgets: Sequence[int], samples: int, generator: torch.Generator) -> Tensor:
    """Ways [budgets * samples, layers] with exactly so many big MLPs."""
    order = torch.rand(len(budgets), samples, len(dense), generator=generator).argsort(-1)
    ways = torch.full((len(budgets), samples, layers), BIG)
    ways[..., dense] = torch.where(order < torch.tensor(budgets)[:, None, None], BIG, SMALL)
    return ways.flatten(0, 1)


def _route(paths: Paths, place: int, routers: dict[int, LinearMap], limits: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of a router's ways at each chance, and how many big MLPs each has."""
    taken = torch.zeros(len(limits), device=limits.device)
    every = torch.arange(len(limits), device=limits.device)

    def go(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal taken
        # Before the first layer with a choice all ways are one.
        parents = every if len(x) == len(every) else torch.zeros_like(every)
        kinds = choose(routers[block.index](read_of(block, x[parents])), limits)
        taken = taken + (kinds == BIG)
        return parents, kinds

    return paths.follow(place, go).cpu(), taken.cpu()


def _dataset(parts: list[np.ndarray], budgets: Sequence[int], chances: Sequence[float], layers: int) -> xr.Dataset:
    best, mean, least, routed, taken, whole = parts
    taken_mean = taken.mean(1)
    gap = routed.mean(1) - np.interp(taken_mean, budgets, best.mean(1))
    by_budget = "budget place"
    data = {
        "oracle_loss": variable(by_budget, best, "nats", "least loss found of the next token"),
        "random_loss": variable(by_budget, mean, "nats", "mean loss of random ways"),
        "best_random_loss": variable(by_budget, least, "nats", "loss of the best random way"),
        "router_loss": variable("chance place", routed, "nats", "loss of the router's way"),
        "router_big": variable("chance place", taken, "MLPs", "big MLPs that the router took"),
        "whole_loss": variable("place", whole[0], "nats", "loss with all MLPs big"),
        "gap": variable("chance", gap, "nats", "what the router loses against the oracle"),
    }
    coordinates = {
        "budget": variable("budget", np.array(budgets), "MLPs", "big MLPs"),
        "chance": variable("chance", np.array(chances, dtype=float), "1", "chance above which it takes the big MLP"),
        "place": variable("place", np.arange(best.shape[1]), "tokens", "token looked at"),
    }
    return xr.Dataset(data, coordinates, {"layers": layers})
