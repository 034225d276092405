"""Run the neurons of each MLP that a small predictor says will fire, and leave the others' weights unread.

Paper
-----
Elkerdawy, Elhoushi, Zhang, Ray, Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask
Prediction, 2022, arXiv 2110.08232.

Source
------
github.com/selkerdawy/FTWT

Formula
-------
Of what a layer's MLP reads, x, the neurons run whose predicted chance of firing is above a half (``chance``)::

    run = sigmoid(W_wide silu(W_narrow x + a) + b) > chance

The predictor has learned which neurons hold a share of the mass of the activations for x, so that their number follows
from each row: see :mod:`workbench.training.neuron_gate`.

Deviates
--------
The paper prunes filters of convolutional networks for images and fine-tunes the network with the predicted masks; here
it is neurons of a language model, whose weights stay as they are, and ``chance`` can be set after the training. The
paper's predictor is one linear layer; here it is of low rank, as it would otherwise cost a third of the MLP, with a
SiLU in the middle.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.engine import Run
from workbench.engine.ledger import POLICY, Ledger
from workbench.engine.slots import MlpPolicy
from workbench.models import Block
from workbench.parts.neuron_predictor import predictor_maps, read_of
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register


@register
@settings
class NeuronGate(Technique):
    """Each row of a pass has its own neurons, by itself alone: verified tokens are computed as decoded ones.

    Parameters
    ----------
    chance : float
        Predicted chance of firing above which a neuron runs; 0 runs all, and asks no predictor.
    weights : str
        The predictor: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.

    Notes
    -----
    What the predictor costs is counted (``policy_flops``, ``policy_bytes`` of a step), and what is not multiplied and
    not read is not. Of ``up``, two thirds of a gated MLP, those neurons' rows are read and multiplied that any row
    of the pass runs; ``down`` is multiplied whole, so that a row's sums have one order whatever runs beside it. A pass
    of many rows spares little: nearly every neuron is run by one of them.
    """

    chance: Annotated[float, Field(ge=0, lt=1, description="chance of firing above which a neuron runs")] = 0.5
    weights: Annotated[str, outside("part", "predictor: bundled, untrained, or a file", min_length=1)] = "bundled"

    slots = ("mlp",)
    exact = False
    paper = "Elkerdawy et al., Fire Together Wire Together, 2022, arXiv 2110.08232"

    def start(self, run: Run) -> MlpPolicy:
        if self.chance == 0:
            return _All()
        maps = predictor_maps(run.model, self.weights)
        return _Gate(maps, math.log(self.chance / (1 - self.chance)), run.ledger)

    @classmethod
    def neutral(cls) -> Self:
        return cls(chance=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(weights="untrained"), cls(chance=0.51, weights="untrained")


class _All(MlpPolicy):
    def neurons(self, block: Block, x: Tensor) -> Tensor | None:
        return None


class _Gate(MlpPolicy):
    def __init__(self, maps: dict[int, tuple[Any, Any]], limit: float, ledger: Ledger) -> None:
        self._maps, self._limit, self._ledger = maps, limit, ledger

    def neurons(self, block: Block, x: Tensor) -> Tensor | None:
        narrow, wide = self._maps[block.index]
        with self._ledger.timed(POLICY):
            odds = wide(F.silu(narrow(read_of(block, x))))
            for linear in (narrow, wide):
                self._ledger.product(POLICY, len(x), linear)
            return odds > self._limit
