"""Stop at the first layer whose prediction is confident enough.

Paper
-----
Schuster et al., Confident Adaptive Language Modeling (CALM), 2022, arXiv 2207.07061. Lens: Belrose et al., Tuned Lens,
2023, arXiv 2303.08112. Entropy: Teerapittayanon et al., BranchyNet, 2017, arXiv 1709.01686. Batched fill: Bae et al.,
Fast and Robust Early-Exiting Framework (FREE), 2023, arXiv 2310.05424.

Formula
-------
The token at place t of an output of at most N leaves after the first checked layer l with

    c_l > clip(0.9 threshold + 0.1 exp(-decay t / N)),    or > threshold where decay is 0,

c_l of the lens's logits: top-1 probability, top-2 margin, or 1 - entropy / log(tokens); or the cosine of the streams
after and before layer l. It is unembedded as the lens reads layer l.

Deviates
--------
CALM trains the model so that one head serves all layers; here the model is as it is, and a lens stands before its head.
CALM checks every layer; here some are checked, on the most frequent tokens alone where ``vocabulary`` says so (a token
may then look surer than it is), as the bundled model's head costs as much as eight of its layers. The comparison is
strict, so that a threshold of 1 never leaves. CALM's trained classifier, and its calibration of the threshold to a
guaranteed quality, are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.engine.passes import Pass
from workbench.parts.exits import LensName, Vocabulary, checked_layers, load_lens
from workbench.parts.exits.confidence import Measure, confidence, decayed, saturation
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.depth._exit import ExitPolicy, Filling, Leaving, leave


@register
@settings
class ConfidenceExit(Technique):
    """A token leaves after the first checked layer where a lens is confident; the layers above are not computed for it.

    Parameters
    ----------
    lens : str
        What reads the layers: ``bundled``, the tuned lens; ``logit``, the untrained logit lens; ``untrained``; a file.
    measure : {"probability", "margin", "entropy", "saturation"}
    threshold : float
        Confidence above which a token leaves; 1 never.
    decay : float
        How fast the threshold falls along the output (CALM: 4); 0 keeps it.
    first : float
        Share of the layers below which none is checked.
    every : int
        Layers from one check to the next.
    vocabulary : int
        Most frequent tokens that a check looks at; 0 for all.
    fill : {"hole", "copy", "batch"}
        What later tokens find in the layers that were left out: nothing; keys and values of the stream that left; or
        the token's own, run in one batch with the first later token that comes as deep.

    Notes
    -----
    What checks and copies cost is the policy's in FLOPs and bytes; a row that is run later in a batch is the model's: a
    batch saves reads of weights, hardly operations. The prompt, whose last token says the first one, runs through all
    layers.

    Of the bundled model a lens alone lets few layers go: :class:`workbench.probes.ExitOracle` shows how many at most.
    """

    lens: LensName = "bundled"
    measure: Annotated[Measure, Field(description="what confidence is")] = "probability"
    threshold: Annotated[float, Field(ge=0, le=1, description="confidence above which a token leaves")] = 0.8
    decay: Annotated[float, Field(ge=0, le=100, description="how fast the threshold falls; 0 keeps it")] = 0.0
    first: Annotated[float, Field(ge=0, le=1, description="share of the layers before the first check")] = 0.75
    every: Annotated[int, Field(ge=1, le=64, description="layers from one check to the next")] = 4
    vocabulary: Vocabulary = 2048
    fill: Filling = "copy"

    slots = ("depth",)
    exact = False
    paper = "Schuster et al., CALM, 2022, arXiv 2207.07061; Belrose et al., Tuned Lens, 2023, arXiv 2303.08112"

    def start(self, run: Run) -> _Exit:
        return _Exit(self, run)

    def checked(self, layers: int) -> range:
        """Layers of ``layers`` after which a token may leave."""
        return checked_layers(layers, self.first, self.every)

    @classmethod
    def neutral(cls) -> Self:
        return cls(lens="logit", threshold=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(lens="untrained", threshold=0.05, first=0.25, every=1, vocabulary=32),
            cls(lens="logit", measure="margin", threshold=0.02, decay=4.0, first=0.5, every=1, fill="hole"),
            cls(lens="logit", measure="saturation", threshold=0.7, first=0.5, every=1, fill="batch"),
        )


class _Exit(ExitPolicy):
    def __init__(self, technique: ConfidenceExit, run: Run) -> None:
        checked = technique.checked(run.model.layers)
        saturates = technique.measure == "saturation"
        super().__init__(run, checked, technique.fill, [layer - 1 for layer in checked] if saturates else ())
        self._settings, self._ledger = technique, run.ledger
        self._lens = load_lens(run.model, technique.lens)
        self._first, self._tokens = len(run.prompt) - 1, run.max_new_tokens
        self._before: dict[int, Tensor] = {}

    def opened(self, opened_pass: Pass) -> None:
        super().opened(opened_pass)
        self._before = {}

    def leaving(self, layer: int, opened: Pass, rows: Sequence[int]) -> Leaving:
        x = opened.streams(rows)
        if self._settings.measure == "saturation":
            found, read = self._saturated(layer, opened, rows, x), None
        else:
            found, read = self._confident(layer, x)
        asked = self._settings
        places = []
        for place, sure in enumerate(found.tolist()):
            token = opened.start + opened.relation.depth(rows[place]) - self._first
            if sure > decayed(asked.threshold, asked.decay, token, self._tokens):
                places.append(place)
        if read is not None:
            return leave(rows, places, *read)
        gone, x, _ = leave(rows, places, x, None)
        if gone:
            self._count(self._lens.flops(layer, len(gone)), self._lens.bytes(layer, len(gone)))
            x = self._lens.stream(x, layer)
        return gone, x, None

    def passed(self, layer: int, opened: Pass) -> None:
        if layer + 1 in self.checked and self._settings.measure == "saturation":
            # Row by row, as those of a draft come one after the other.
            self._before |= dict(zip(opened.rows, opened.x[0]))

    def _confident(self, layer: int, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Confidence [rows], what the lens makes of the streams, and logits that need not be computed again."""
        head = self._lens.head(layer, self._settings.vocabulary)
        self._count(head.flops(len(x)), head.bytes(len(x)))
        with self._ledger.timed(POLICY):
            stream = self._lens.stream(x, layer)
            logits = head.read(stream)
            found = confidence(self._settings.measure, logits)
        return found, (stream, logits if head.all_tokens else None)

    def _saturated(self, layer: int, opened: Pass, rows: Sequence[int], x: Tensor) -> Tensor:
        """The same from the streams before the layer; a row that was not there before it is not sure, nor is any where
        the layer was removed."""
        if layer in opened.decoder.removed or not all(row in self._before for row in rows):
            return torch.zeros(len(rows))
        self._count(6 * x.numel(), 2 * x.numel() * x.element_size())
        return saturation(x, torch.stack([self._before[row] for row in rows]))

    def _count(self, flops: int, moved: int) -> None:
        self._ledger.count(POLICY, flops, moved)
