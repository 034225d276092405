"""What the techniques have in common whose trees come from a trained part: their settings."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from workbench.settings import outside, settings
from workbench.techniques.draft._drafter import DraftTechnique


@settings
class TrainedTreeTechnique(DraftTechnique):
    """Base of the techniques whose trees come from a trained part.

    Attributes
    ----------
    kind : type
        Of the part: a :class:`workbench.parts.heads.DraftHeads` or a :class:`workbench.parts.lookahead.LookaheadPart`.
        Decorated as ``trained``, it has a recipe of the technique's own name in :mod:`workbench.training`.

    Parameters
    ----------
    nodes : int
        Most nodes of a verification, rows beside them included; 0 drafts nothing.
    tree : {"adaptive", "fixed"}
        Whether a node's chance is the probability that the part gives it at the moment, or how often its rank was right
        on held-out text. The best products of chances make the tree, and as many are taken as gain the most tokens for
        what the verification costs.
    weights : str
        ``bundled``, ``untrained``, or the path of a part trained with ``workbench train``.
    cost : {"measured", "modelled"}
        See :func:`workbench.engine.verify_cost`. Modelled wherever the text would else hang on the clock.
    """

    nodes: Annotated[int, Field(ge=0, le=64, description="most nodes of a tree; 0 drafts nothing")] = 24
    tree: Annotated[Literal["adaptive", "fixed"], Field(description="chances of the moment, or held-out ones")] = (
        "adaptive"
    )
    weights: Annotated[str, outside("part", "bundled, untrained, or a .safetensors file", min_length=1)] = "bundled"
    cost: Annotated[Literal["measured", "modelled"], Field(description="what a verification costs")] = "measured"

    kind: ClassVar[type[Any]]
    amount = "nodes"
