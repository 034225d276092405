"""Small routers say, from the prompt, which layers are skipped, run or repeated for the whole answer.

Paper
-----
Heakl, Gubri, Khan, Yun, Oh, Dr.LLM: Dynamic Layer Routing in LLMs, 2025, arXiv 2510.12773.

Source
------
github.com/parameterlab/dr-llm

Formula
-------
Of the stream H before layer l, as the means m_w of at most W windows of consecutive tokens::

    p = softmax(mean_w(outer_l gelu(inner_l m_w + a) + b))          of skip, run, repeat
    choice_l = argmax((1 - |lean|) p + |lean| e)                    e: all on run (lean > 0) or on skip (lean < 0)

H passes a skipped layer as it is, and goes through a repeated one twice. The routers have learned what a tree search
found to keep the answer: see :mod:`workbench.training.layer_router`.

Deviates
--------
The paper's routers are trained on the stream of the question alone, with one set of choices for a whole answer; here
they are asked so too: once, at the prompt's first pass, and the choices are kept. The public code asks them again in
every forward, when decoding of one token alone, so that a layer would hold the keys of some tokens and lack others'.
``lean`` is the public code's, less its lean towards repeating. On the second visit of a layer a token sees the keys of
both visits, its own and others', as they stand in the cache. Of a prompt that is read in chunks the first one decides.
What the routers learned from differs too.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.parts.layer_router import RUN, SKIP, ChoicePolicy, FixedChoices, load_routers
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register


@register
@settings
class LayerRouter(Technique):
    """Every layer is skipped, run or repeated for a whole answer, as its router says of the prompt.

    Parameters
    ----------
    lean : float
        How much is put on running every layer (1: all run, and no router is asked), or on skipping (-1: all are
        skipped), in place of what the routers say (0).
    weights : str
        The routers: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.

    Notes
    -----
    A skipped layer is not computed and holds no keys; a repeated one holds two entries for every token. What the
    routers cost is the policy's, all of it in the prefill. With a repeated layer a decode step runs block by block,
    not in one compiled call.
    """

    lean: Annotated[float, Field(ge=-1, le=1, description="1: run all layers; -1: skip all; 0: as routed")] = 0.0
    weights: Annotated[str, outside("part", "routers: bundled, untrained, or a file", min_length=1)] = "bundled"

    slots = ("depth",)
    exact = False
    paper = "Heakl et al., Dr.LLM, 2025, arXiv 2510.12773"

    def start(self, run: Run) -> ChoicePolicy:
        return FixedChoices([RUN] * run.model.layers) if self.lean == 1 else _Routed(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(lean=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(weights="untrained"), cls(weights="untrained", lean=0.05)


class _Routed(ChoicePolicy):
    def __init__(self, technique: LayerRouter, run: Run) -> None:
        super().__init__(run.model.layers)
        self._routers, self._ledger = load_routers(run.model, technique.weights), run.ledger
        self._lean = technique.lean

    def choose(self, layer: int, x: Tensor) -> int:
        self._ledger.count(POLICY, self._routers.flops(len(x)), self._routers.bytes(len(x)))
        with self._ledger.timed(POLICY):
            chances = (1 - abs(self._lean)) * self._routers.chances(layer, x)
            chances[RUN if self._lean > 0 else SKIP] += abs(self._lean)
            return int(chances.argmax())
