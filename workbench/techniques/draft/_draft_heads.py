"""What the techniques with trained draft heads have in common: their settings, and the policy they start."""

from __future__ import annotations

from typing import ClassVar, Self

import torch

from workbench.engine import Run, verify_cost
from workbench.engine.verify_cost import steady
from workbench.parts.heads import DraftHeads
from workbench.parts.loading import part_tensors
from workbench.settings import settings
from workbench.techniques.draft._head_drafter import HeadDrafter
from workbench.techniques.draft._trained_tree import TrainedTreeTechnique

_HEADS, _VOCABULARY = 4, 8192


@settings
class DraftHeadsTechnique(TrainedTreeTechnique):
    """Base of the techniques with trained draft heads."""

    kind: ClassVar[type[DraftHeads]]

    def drafter(self, run: Run) -> HeadDrafter:
        model = run.model
        width, vocabulary = model.anatomy.width, torch.arange(min(_VOCABULARY, model.anatomy.vocabulary))
        tensors = part_tensors(self.name, model, self.weights, lambda: self.kind(width, _HEADS, vocabulary))
        heads = self.kind.of(width, tensors).to(model.device, model.dtype)
        cost = verify_cost(model, steady(self.cost, run))
        return HeadDrafter(heads, model, cost, self.nodes, self.tree == "adaptive", run.max_new_tokens)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(nodes=12, tree="fixed", weights="untrained", cost="modelled"),
            cls(nodes=6, weights="untrained", cost="modelled"),
        )
