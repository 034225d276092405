"""Apply a shared block of layers as many times as a router says, token by token.

Paper
-----
Bae et al., Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level Computation, 2025, arXiv
2507.10524.

Source
------
github.com/raymin0223/mixture_of_recursions

Formula
-------
f(h) is what a recursion adds to the stream h of a token. Expert-choice: the first recursion takes every token, a later
one those of the last whose odds are high enough, and ::

    g_r = sigmoid(theta_r h),    on if g_r > threshold,    h = h + g_r f(h)

Token-choice: before the first recursion a token chooses how many it gets, n = argmax softmax(W h), and behind the last
of them h = h_0 + p_n (h - h_0). Every token goes through the layers before and behind the recursions.

Deviates
--------
See :mod:`workbench.parts.recursive`, which is trained: the gate is on what a recursion adds, so that without a router
the model is a plain one. The block stands in the model once for each recursion, the same weights every time, so that
each recursion has a cache of its own, as in the paper; batches of tokens at different depths (continuous depth-wise
batching) are not here, as a run has one text.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.slots import DepthPolicy
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.depth.recursion.routed import Routed
from workbench.techniques.depth.recursion.routers import trained, untrained

Router = Literal["model", "none", "expert", "token"]


@register
@settings
class Recursion(Technique):
    """Tokens run the recursions of a recursive model that its routers give them; prompt tokens too.

    Parameters
    ----------
    router : {"model", "none", "expert", "token"}
        The model's own routers, of a recursive model such as ``recursion-expert``; none, all tokens run all layers; or
        untrained ones of either kind over any model, whose middle layers then count as recursions: to try things out.
    threshold : float
        Expert-choice: probability above which a token goes on to another recursion.
    keys : {"model", "recursion", "shared"}
        Whose keys and values a recursion reads: as the model was trained; its own, of the tokens that ran it; or those
        of the first, which has every token, so that later ones neither compute nor keep any.
    times : int
        Recursions of untrained routers, at most.

    Notes
    -----
    A token that stopped has no entry in the caches of the recursions that it left out. Plain decoding of a routed model
    runs every recursion ungated, as it was not trained to: compare with ``recursion-fixed``, which was.

    Drafters that exit early are excluded: they pause all rows of a pass before one layer, which a token that has
    stopped may have passed by.
    """

    router: Annotated[Router, Field(description="whose routers: the model's, none, or untrained ones")] = "model"
    threshold: Annotated[float, Field(ge=0, le=1, description="expert-choice: probability to go on above")] = 0.5
    keys: Annotated[
        Literal["model", "recursion", "shared"], Field(description="keys of each recursion or of the first")
    ] = "model"
    times: Annotated[int, Field(ge=1, le=16, description="recursions of untrained routers")] = 2

    slots = ("depth",)
    exact = False
    excludes = ("self_speculative", "dynamic_exit_layer")
    paper = "Bae et al., Mixture-of-Recursions, 2025, arXiv 2507.10524"

    def start(self, run: Run) -> DepthPolicy:
        if self.router == "none":
            return _All(run.model.layers - 1)
        recursive = trained(run.model) if self.router == "model" else untrained(run.model, self.router, self.times)
        return Routed(run, recursive, self.threshold, recursive.keys if self.keys == "model" else self.keys)

    @classmethod
    def neutral(cls) -> Self:
        return cls(router="none")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(router="expert"), cls(router="token", keys="shared"), cls(router="expert", keys="shared")


class _All(DepthPolicy):
    def __init__(self, last: int) -> None:
        self._last = last

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        return layer + 1 if layer < self._last else None

    def stretch(self, layer: int) -> int:
        return self._last
