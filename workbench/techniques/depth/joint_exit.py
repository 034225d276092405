"""A trained gate at each exit says whether a token leaves there, and trained maps say what it leaves as.

Paper
-----
Regol, Chataoui, Coates, Jointly-Learned Exit and Inference for a Dynamic Neural Network: JEI-DNN, 2023, arXiv
2310.09163.

Source
------
github.com/networkslab/dynn

Formula
-------
A token that has come to exit l has the logits head(norm(x + U_l D_l x + b_l)). With m their highest probability, their
margin, and the entropies of p and of p^2 / sum p^2, it leaves where

    g_l = sigmoid(w_l . m + c_l) > threshold,    P(leaves at l) = g_l prod_{k<l} (1 - g_k).

Deviates
--------
How gates and maps are trained, and what of that differs: :class:`workbench.training.JointExit`. The paper's heads
classify images; here each is a map of low rank before the model's own head, and a gate sees the logits of the most
frequent tokens alone, as it did in training (of the bundled part 2,048, at a third of the cost of a layer). What a
token leaves out is filled as :class:`workbench.techniques.ConfidenceExit` does it, of which the paper, whose inputs are
single, says nothing. The comparison is strict, so that a threshold of 1 never leaves. Its conformal intervals are not
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.engine.passes import Pass
from workbench.parts.exits.joint import gate_flops, load_joint
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.depth._exit import ExitPolicy, Filling, Leaving, leave


@register
@settings
class JointExit(Technique):
    """A token leaves at the first exit whose gate is open; the layers above are not computed for it.

    Parameters
    ----------
    weights : str
        Gates and maps: ``bundled``, ``untrained``, or a file. They say after which layers there are exits.
    threshold : float
        Chance of leaving above which a token that has come so far leaves; the paper's is 0.5; 1 never.
    fill : {"hole", "copy", "batch"}
        What later tokens find in the layers that were left out: nothing; keys and values of the stream that left; or
        the token's own, run in one batch with the first later token that comes as deep.

    Notes
    -----
    What gates and copies cost is the policy's in FLOPs and bytes; a row that is run later in a batch is the model's.
    The prompt runs through all layers. How far the confidence of these exits can be believed, beside plain thresholds:
    :func:`workbench.exit_calibration`.
    """

    weights: Annotated[str, outside("part", "gates and maps: bundled, untrained, or a file", min_length=1)] = "bundled"
    threshold: Annotated[float, Field(ge=0, le=1, description="chance above which a token leaves")] = 0.5
    fill: Filling = "copy"

    slots = ("depth",)
    exact = False
    paper = "Regol et al., JEI-DNN, 2023, arXiv 2310.09163"

    def start(self, run: Run) -> _Exit:
        return _Exit(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(weights="untrained", threshold=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(weights="untrained"),
            cls(weights="untrained", threshold=0.3, fill="hole"),
            cls(weights="untrained", threshold=0.6, fill="batch"),
        )


class _Exit(ExitPolicy):
    def __init__(self, technique: JointExit, run: Run) -> None:
        self._lens = load_joint(run.model, technique.weights)
        super().__init__(run, self._lens.layers, technique.fill)
        self._threshold, self._ledger = technique.threshold, run.ledger

    def leaving(self, layer: int, opened: Pass, rows: Sequence[int]) -> Leaving:
        x, head = opened.streams(rows), self._lens.head(layer, self._lens.tokens)
        gate = gate_flops(self._lens.tokens, len(x))
        self._ledger.count(POLICY, head.flops(len(x)) + gate, head.bytes(len(x)))
        with self._ledger.timed(POLICY):
            stream = self._lens.stream(x, layer)
            logits = head.read(stream)
            chances = self._lens.leaves(layer, logits).tolist()
        places = [place for place, chance in enumerate(chances) if chance > self._threshold]
        return leave(rows, places, stream, logits if head.all_tokens else None)
