"""What the techniques with lookahead rows have in common: their settings, and the policy they start."""

from __future__ import annotations

import abc
from typing import Self

from torch import Tensor

from workbench.engine import Run, verify_cost
from workbench.engine.verify_cost import steady
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.parts.loading import part_tensors
from workbench.parts.lookahead import LookaheadPart
from workbench.settings import settings
from workbench.techniques.draft._lookahead_drafter import LookaheadDrafter
from workbench.techniques.draft._trained_tree import TrainedTreeTechnique

ORDERS = 3


@settings
class LookaheadTechnique(TrainedTreeTechnique):
    """Base of the techniques with lookahead rows."""

    @abc.abstractmethod
    def fresh(self, model: Model) -> LookaheadPart:
        """An untrained part."""

    @abc.abstractmethod
    def built(self, tensors: dict[str, Tensor]) -> LookaheadPart:
        """The part whose ``state_dict`` the tensors are."""

    def drafter(self, run: Run) -> LookaheadDrafter:
        tensors = part_tensors(self.name, run.model, self.weights, lambda: self.fresh(run.model))
        model = run.model
        part = self.built(tensors).to(model.device, model.dtype)
        if part.width != model.anatomy.width or not 0 <= part.layer < model.layers:
            raise ArtifactError(
                f"rows of width {part.width} before layer {part.layer} do not fit {model.name}, which is "
                f"{model.anatomy.width} wide and has {model.layers} layers"
            )
        cost = verify_cost(model, steady(self.cost, run))
        return LookaheadDrafter(part, model, cost, self.nodes, self.tree == "adaptive")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(nodes=16, tree="fixed", weights="untrained", cost="modelled"),
            cls(nodes=9, weights="untrained", cost="modelled"),
        )
