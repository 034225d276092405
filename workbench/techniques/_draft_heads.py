"""What the techniques with trained draft heads have in common: their settings, and the policy they start."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field

from workbench.drafting.heads import DraftHeads
from workbench.drafting.heads.drafter import HeadDrafter
from workbench.drafting.parts import part_tensors
from workbench.drafting.silent import Silent
from workbench.engine import Run, verify_cost
from workbench.settings import settings
from workbench.techniques._technique import Technique

_HEADS, _VOCABULARY = 4, 8192


@settings
class DraftHeadsTechnique(Technique):
    """Base of the techniques with trained draft heads.

    Parameters
    ----------
    nodes : int
        Most nodes of a tree; 0 drafts nothing.
    tree : {"adaptive", "fixed"}
        Whether a node's chance is the probability that its head gives it at the moment, or how often its rank was right
        on held-out text. The best products of chances make the tree, and as many are taken as gain the most tokens for
        what the verification costs.
    weights : str
        ``bundled``, ``untrained``, or the path of heads trained with ``workbench train``.
    cost : {"measured", "modelled"}
        See :func:`workbench.engine.verify_cost`.
    """

    nodes: Annotated[int, Field(ge=0, le=64, description="most nodes of a tree; 0 drafts nothing")] = 24
    tree: Annotated[Literal["adaptive", "fixed"], Field(description="chances of the moment, or held-out ones")] = (
        "adaptive"
    )
    weights: Annotated[str, Field(min_length=1, description="bundled, untrained, or a .safetensors file")] = "bundled"
    cost: Annotated[Literal["measured", "modelled"], Field(description="what a verification costs")] = "measured"

    slots = ("draft",)
    exact = True
    kind: ClassVar[type[DraftHeads]]

    def start(self, run: Run) -> HeadDrafter | Silent:
        if self.nodes == 0:
            return Silent()
        model = run.model
        width, vocabulary = model.anatomy.width, torch.arange(min(_VOCABULARY, model.anatomy.vocabulary))
        tensors = part_tensors(self.name, model, self.weights, lambda: self.kind(width, _HEADS, vocabulary))
        heads = self.kind.of(width, tensors).to(model.device, model.dtype)
        cost = verify_cost(model, self.cost)
        return HeadDrafter(heads, model, cost, self.nodes, self.tree == "adaptive", run.max_new_tokens)

    @classmethod
    def neutral(cls) -> Self:
        return cls(nodes=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(nodes=12, tree="fixed", weights="untrained", cost="modelled"),
            cls(nodes=6, weights="untrained", cost="modelled"),
        )
