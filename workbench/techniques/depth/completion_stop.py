"""At every layer a small classifier says of a token: leave here, go on, or stop the completion, as it will be wrong.

Paper
-----
Sun, Du, Song, Li, When Neural Code Completion Models Size up the Situation: Attaining Cheaper and Faster Completion
through Dynamic Model Inference, 2024, arXiv 2401.09964. Lens: Belrose et al., Tuned Lens, 2023, arXiv 2303.08112.

Source
------
github.com/v587su/SEC (Stop and Exit Controller)

Formula
-------
After a checked layer, with p of three classes as :mod:`workbench.parts.exit_controller` has them::

    stop the completion     p_stop > stop_above  and  p_stop is the largest
    leave, named by a lens  p_exit > exit_above  and  p_exit is the largest
    go on                   otherwise

The first token, which the prompt's own pass says, is not asked about. In place of a token that will be wrong a stop
token is written. The layers that were left out get keys and values of the stream that left.

Deviates
--------
The paper trains a head for every layer on code; here a trained lens reads the layers, and the model's own head. The
paper's code also stops after the last layer; here what gets that far is written. Layers can be left out of the checks.
A stopped token's layers are filled like any other's, so that another run may go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import MODEL, POLICY
from workbench.engine.passes import Pass
from workbench.engine.slots import StopPolicy
from workbench.models.device import numbers
from workbench.parts.exit_controller import EXIT, STOP, load_controller
from workbench.parts.exits import LensName, checked_layers, load_lens
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.depth._exit import ExitPolicy, Filling, Leaving

_RULED_OUT = -100.0
"""Logit of every token but the one that ends a completion."""


@register
@settings
class CompletionStop(Technique):
    """A token leaves at the first layer that a classifier holds for right; one that no layer will get right ends the
    completion.

    Parameters
    ----------
    exit_above, stop_above : float
        Chance above which a token leaves, and above which the completion stops; 1 never.
    weights : str
        The classifier: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.
    lens : str
        What reads the layer that a token leaves at: ``bundled``, the tuned lens; ``logit``; ``untrained``; a file.
    first : float
        Share of the layers below which none is asked.
    every : int
        Layers from one question to the next.
    fill : {"hole", "copy", "batch"}
        What later tokens find in the layers that were left out, see :class:`workbench.techniques.ConfidenceExit`.

    Notes
    -----
    It is made for code, which its classifier is trained on: functions of Python. Where nobody asks whether to stop, as
    along a text that is given or before ``min_new_tokens`` are there, a token that would stop goes on.
    """

    exit_above: Annotated[float, Field(ge=0, le=1, description="chance above which a token leaves; 1 never")] = 0.9
    stop_above: Annotated[float, Field(ge=0, le=1, description="chance above which all stops; 1 never")] = 0.9
    weights: Annotated[str, outside("part", "classifier: bundled, untrained, or a file", min_length=1)] = "bundled"
    lens: LensName = "bundled"
    first: Annotated[float, Field(ge=0, le=1, description="share of the layers before the first question")] = 0.0
    every: Annotated[int, Field(ge=1, le=64, description="layers from one question to the next")] = 1
    fill: Filling = "copy"

    slots = ("depth", "stop")
    exact = False
    paper = "Sun et al., When Neural Code Completion Models Size up the Situation, 2024, arXiv 2401.09964"

    def start(self, run: Run) -> _Stop:
        return _Stop(self, run)

    def checked(self, layers: int) -> range:
        """Layers of ``layers`` after which is asked."""
        if self.exit_above == self.stop_above == 1:
            return range(0)
        return checked_layers(layers, self.first, self.every)

    @classmethod
    def neutral(cls) -> Self:
        return cls(exit_above=1, stop_above=1)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        # An untrained classifier is sure of nothing: these leave, and do not stop.
        return (
            cls(exit_above=0.34, stop_above=0.9, weights="untrained", lens="untrained"),
            cls(exit_above=0.3, stop_above=1, weights="untrained", lens="untrained", first=0.5, fill="hole"),
        )


class _Stop(ExitPolicy, StopPolicy):
    def __init__(self, technique: CompletionStop, run: Run) -> None:
        super().__init__(run, technique.checked(run.model.layers), technique.fill)
        self._settings, self._ledger = technique, run.ledger
        self._end = min(run.model.stop_tokens, default=None)
        if self.checked:
            self._controller = load_controller(run.model, technique.weights)
            self._lens = load_lens(run.model, technique.lens)
        self._first, self._answered = len(run.prompt) - 1, 0
        # By tokens written, the texts since the pass began after which the next token would be wrong.
        self._wrong: dict[int, set[tuple[int, ...]]] = {}

    def opened(self, opened_pass: Pass) -> None:
        super().opened(opened_pass)
        self._wrong = {}

    def stop(self, generated: Sequence[int]) -> bool:
        self._answered = len(generated)
        paths = self._wrong.get(len(generated), ())
        return any(tuple(generated[-1 - len(path) : -1]) == path for path in paths)

    def leaving(self, layer: int, opened: Pass, rows: Sequence[int]) -> Leaving:
        x, asked = opened.streams(rows), self._settings
        self._ledger.count(POLICY, self._controller.flops(layer, len(x)), self._controller.bytes(layer, len(x)))
        with self._ledger.timed(POLICY):
            said = self._controller.chances(layer, x)
            chances, likeliest = said.tolist(), said.argmax(-1).tolist()
        stopping = asked.stop_above < 1 and self._is_asked(opened)
        stops, leaves = [], []
        for place, (chance, kind) in enumerate(zip(chances, likeliest)):
            if kind == STOP and stopping and chance[STOP] > asked.stop_above:
                stops.append(place)
            elif kind == EXIT and chance[EXIT] > asked.exit_above:
                leaves.append(place)
        for place in stops:
            self._note(opened, rows[place])
        places = sorted(stops + leaves)
        if not places:
            return [], x[:0], None
        stream = x[numbers(places, x.device)]
        self._ledger.count(POLICY, self._lens.flops(layer, len(places)), self._lens.bytes(layer, len(places)))
        stream = self._lens.stream(stream, layer)
        return [rows[place] for place in places], stream, self._ending(opened, stream, [p in stops for p in places])

    def _is_asked(self, opened: Pass) -> bool:
        """Whether the run has asked, after its last token, if it should stop: then it will after the next."""
        return self._answered > 0 and self._answered == opened.start - self._first

    def _note(self, opened: Pass, row: int) -> None:
        path, parent = list[int](), row
        while parent >= 0:
            path.insert(0, opened.tokens[parent])
            parent = opened.relation.parents[parent]
        written = opened.start + opened.relation.depth(row) - self._first + 1
        self._wrong.setdefault(written, set()).add(tuple(path))

    def _ending(self, opened: Pass, stream: Tensor, ends: list[bool]) -> Tensor | None:
        """Logits of rows that leave, a stop token where the completion ends; None where the head is to say them all."""
        if self._end is None or not any(ends):
            return None
        anatomy = opened.decoder.anatomy
        logits = stream.new_full((len(ends), anatomy.vocabulary), _RULED_OUT)
        logits[:, self._end] = 0
        named = [place for place, end in enumerate(ends) if not end]
        if named:
            chosen = numbers(named, stream.device)
            self._ledger.product(MODEL, len(named), anatomy.head)
            logits[chosen] = anatomy.unembed(stream[chosen]).to(logits.dtype)
        return logits
