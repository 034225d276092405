"""Stop where a second residual stream, which runs ahead of the model's own, is confident of the next token.

Paper
-----
Bhendawade et al., M2R2: Mixture of Multi-Rate Residuals for Efficient Transformer Inference, 2025, arXiv 2502.02040.

Formula
-------
Beside the model's own, slow stream h a token has an accelerated one p, which some layers move on by an accelerator and
all others by the slow stream's own move (:mod:`workbench.parts.exits.accelerated`)::

    p = h at the first accelerated layer l      p <- p + (h - h before) + A_l(p, h)

trained so that p after n layers is h after R n, or after the last. The token leaves after the first checked layer where
c(head(norm(p))) > threshold, c the top-1 probability, the top-2 margin, or 1 - entropy / log(tokens), and is unembedded
as p there. Keys and values are those of the slow stream everywhere.

Deviates
--------
The paper's formulas were not at hand, only its abstract. In it the accelerated stream has attention of its own, over
the keys and values of the slow one, and a router that attends to accelerated streams decides who leaves; here it takes
over the slow stream's moves, and its confidence decides. The rate is one for all tokens. Ahead-of-time loading of
experts, the paper's third use, is not here. Drafting by the same stream, its second use, is ``accelerated`` of
:class:`workbench.techniques.SelfSpeculative`. CALM's confidences: Schuster et al., 2022, arXiv 2207.07061.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.engine.passes import Pass
from workbench.parts.exits import Vocabulary, load_accelerated
from workbench.parts.exits.confidence import confidence
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.depth._exit import ExitPolicy, Filling, Leaving, leave


@register
@settings
class AcceleratedResidual(Technique):
    """A token leaves after the first checked layer where its accelerated stream is confident.

    Parameters
    ----------
    weights : str
        The accelerators: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file. They say which layers are
        accelerated.
    measure : {"probability", "margin", "entropy"}
    threshold : float
        Confidence above which a token leaves; 1 never.
    first : float
        Share of the layers below which no accelerated one is checked.
    vocabulary : int
        Most frequent tokens that a check looks at; 0 for all.
    fill : {"hole", "copy", "batch"}
        What later tokens find in the layers that were left out: nothing; keys and values of the slow stream where the
        token left; or the token's own, run in one batch with the first later token that comes as deep.

    Notes
    -----
    What accelerators, checks and copies cost is the policy's in FLOPs and bytes. A token that leaves nowhere pays for
    all accelerators. The prompt, whose last token says the first one, runs through all layers and has no second stream.
    """

    weights: Annotated[str, outside("part", "accelerators: bundled, untrained, or a file", min_length=1)] = "bundled"
    measure: Annotated[Literal["probability", "margin", "entropy"], Field(description="what confidence is")] = (
        "probability"
    )
    threshold: Annotated[float, Field(ge=0, le=1, description="confidence above which a token leaves")] = 0.8
    first: Annotated[float, Field(ge=0, le=1, description="share of the layers before the first check")] = 0.75
    vocabulary: Vocabulary = 2048
    fill: Filling = "copy"

    slots = ("depth",)
    exact = False
    paper = "Bhendawade et al., M2R2, 2025, arXiv 2502.02040"

    def start(self, run: Run) -> _Accelerated:
        return _Accelerated(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(weights="untrained", threshold=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(weights="untrained", threshold=0.05, first=0.25, vocabulary=32),
            cls(weights="untrained", measure="margin", threshold=0.02, first=0.5, fill="hole"),
            cls(weights="untrained", measure="entropy", threshold=0.15, first=0.5, vocabulary=0, fill="batch"),
        )


class _Accelerated(ExitPolicy):
    def __init__(self, technique: AcceleratedResidual, run: Run) -> None:
        self._lens = load_accelerated(run.model, technique.weights)
        floor = technique.first * run.model.layers
        super().__init__(
            run, [layer for layer in self._lens.layers if layer + 1 >= floor], technique.fill, self._lens.layers
        )
        # Behind the last check nobody asks for the stream.
        self._followed = {layer for layer in self._lens.layers if layer < max(self.checked, default=-1)} - self.checked
        self._settings, self._ledger = technique, run.ledger
        self._leads: dict[int, Tensor] = {}

    def opened(self, opened_pass: Pass) -> None:
        super().opened(opened_pass)
        self._leads = {}

    def passed(self, layer: int, opened: Pass) -> None:
        if layer in self._followed and not opened.prompt:
            rows = [row for row in opened.rows if 0 <= row < opened.count and row not in opened.answers]
            if rows:
                self._advance(layer, rows, opened.streams(rows))

    def leaving(self, layer: int, opened: Pass, rows: Sequence[int]) -> Leaving:
        x = self._advance(layer, rows, opened.streams(rows))
        head = self._lens.head(layer, self._settings.vocabulary)
        self._ledger.product(POLICY, len(rows), head.unembedding)
        with self._ledger.timed(POLICY):
            logits = head.read(x)
            found = confidence(self._settings.measure, logits)
        places = [place for place, sure in enumerate(found.tolist()) if sure > self._settings.threshold]
        return leave(rows, places, x, logits if head.all_tokens else None)

    def _advance(self, layer: int, rows: Sequence[int], x: Tensor) -> Tensor:
        """The accelerated streams [rows, width] of rows behind an accelerator, from the slow ones ``x``."""
        flops, moved = self._lens.seeing(layer, len(rows))
        self._ledger.count(POLICY, flops, moved)
        with self._ledger.timed(POLICY):
            # Row by row, as those of a draft come one after the other.
            before = None if layer == self._lens.layers[0] else torch.stack([self._leads[row] for row in rows])
            lead = self._lens.advance(x, layer, before)
            self._leads |= dict(zip(rows, lead))
            return x + lead
