"""What a model loses without some of its layers, measured on texts, and the searches that go by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.engine.attention import attend
from workbench.errors import SettingError
from workbench.models import Block, Model
from workbench.models.removed import without
from workbench.models.walk import walk
from workbench.parts.calibration import Tick, told
from workbench.techniques.weights.layer_drop.calibration import Unit

MOST = 5000
"""Most sets that are tried one by one."""

Removed = frozenset[Unit]


def less(block: Block, removed: Iterable[Unit]) -> Block:
    """A block without its units among ``removed``."""
    parts = {unit.part for unit in removed if unit.layer == block.index}
    whole = "block" in parts
    return without(block, attention=whole or "attention" in parts, mlp=whole or "mlp" in parts)


@torch.inference_mode()
def losses(
    model: Model, texts: Sequence[Sequence[int]], base: Removed, sets: Sequence[Removed], measure: str, tick: Tick
) -> list[float]:
    """What the model loses without each of some sets of units.

    Parameters
    ----------
    model : Model
    texts : sequence of token ids
    base : set of Unit
        What all the sets have in common: up to where one differs, nothing is computed anew.
    sets : sequence of set of Unit
    measure : str
        ``loss``: mean cross-entropy of the next tokens [nats]; ``divergence``: mean Jensen-Shannon divergence [nats]
        of the next-token distributions from those of the whole model.
    tick : callable
        Called after every set.

    Returns
    -------
    list of float
    """
    anatomy, sums = model.anatomy, [0.0] * len(sets)
    for text in texts:
        ids = torch.tensor([list(text)], device=anatomy.device)
        positions = torch.arange(len(text), device=anatomy.device)
        ropes, look_back = anatomy.rope(positions, len(text)), _causal(positions)
        start, whole = anatomy.embed(ids, positions), None
        if measure == "divergence":
            whole = anatomy.unembed(walk(anatomy.blocks, start, ropes, look_back)[0]).float().log_softmax(-1)
        streams: list[Tensor] = []
        walk([less(block, base) for block in anatomy.blocks], start, ropes, look_back, _into(streams))
        for place, removed in enumerate(sets):
            first = min((unit.layer for unit in removed ^ base), default=0)
            blocks = [less(block, removed) for block in anatomy.blocks[first:]]
            logits = anatomy.unembed(walk(blocks, streams[first], ropes, look_back)[0]).float()
            sums[place] += _lost(logits, ids[0], whole) * len(text)
            tick()
    return [each / sum(map(len, texts)) for each in sums]


def _into(streams: list[Tensor]) -> Callable[[int, Tensor], None]:
    return lambda layer, x: streams.append(x)


def _lost(logits: Tensor, ids: Tensor, whole: Tensor | None) -> float:
    if whole is None:
        return float(F.cross_entropy(logits[:-1], ids[1:]))
    logs = logits.log_softmax(-1)
    middle = torch.logaddexp(logs, whole) - math.log(2)
    sides = [F.kl_div(middle, each, reduction="none", log_target=True).sum(-1) for each in (logs, whole)]
    return float(torch.stack(sides).mean())


def _causal(positions: Tensor) -> Callable[[Block, Tensor, Tensor, Tensor], Tensor]:
    distance = positions[:, None] - positions

    def look_back(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        visible = distance >= 0 if block.window is None else (distance >= 0) & (distance < block.window)
        return attend(query, key, value, visible, block.scoring)

    return look_back


def greedy(
    model: Model,
    texts: Sequence[Sequence[int]],
    among: Sequence[Unit],
    count: int,
    measure: str,
    known: Sequence[Unit] = (),
) -> list[Unit]:
    """``count`` units, one after the other the one whose removal loses least; ``known`` were chosen before."""
    chosen = list(known[:count])
    tries = sum(len(among) - done for done in range(len(chosen), count))
    tick = told(tries * len(texts), "layer_drop")
    while len(chosen) < count:
        base, left = frozenset(chosen), [unit for unit in among if unit not in chosen]
        lost = losses(model, texts, base, [base | {unit} for unit in left], measure, tick)
        chosen.append(left[lost.index(min(lost))])
    return chosen


def exhaustive(
    model: Model, texts: Sequence[Sequence[int]], among: Sequence[Unit], count: int, measure: str
) -> list[Unit]:
    """The ``count`` units whose removal loses least, of all sets.

    Raises
    ------
    SettingError
        If there are more than :data:`MOST` sets.
    """
    sets = math.comb(len(among), count)
    if sets > MOST:
        raise SettingError(
            f"there are {sets:,} ways to remove {count} of {len(among)}, too many to try: take criterion='greedy', or "
            "remove fewer"
        )
    tried = list(itertools.combinations(among, count))
    lost = losses(
        model, texts, frozenset(), [frozenset(each) for each in tried], measure, told(sets * len(texts), "layer_drop")
    )
    return list(tried[lost.index(min(lost))])
