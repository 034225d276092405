"""What the techniques with lookahead rows have in common: their settings, and the policy they start."""

from __future__ import annotations

from typing import ClassVar, Self

from workbench.engine import Run, verify_cost
from workbench.engine.verify_cost import steady
from workbench.errors import ArtifactError
from workbench.parts.loading import part_tensors
from workbench.parts.lookahead import LookaheadPart
from workbench.settings import settings
from workbench.techniques.draft._lookahead_drafter import LookaheadDrafter
from workbench.techniques.draft._trained_tree import TrainedTreeTechnique

ORDERS = 3


@settings
class LookaheadTechnique(TrainedTreeTechnique):
    """Base of the techniques with lookahead rows."""

    kind: ClassVar[type[LookaheadPart]]

    def drafter(self, run: Run) -> LookaheadDrafter:
        model = run.model
        tensors = part_tensors(self.name, model, self.weights, lambda: self.kind.untrained(model, ORDERS))
        part = self.kind.of(tensors).to(model.device, model.dtype)
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
