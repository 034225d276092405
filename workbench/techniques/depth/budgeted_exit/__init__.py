"""Exits whose thresholds are solved for, so that average FLOPs, peak FLOPs and memory meet given budgets.

Paper
-----
Yue et al., DeeR-VLA: Dynamic Inference of Multimodal Large Language Models for Efficient Robot Execution, 2024,
arXiv 2411.02359. Lens: Belrose et al., Tuned Lens, 2023, arXiv 2303.08112.

Source
------
github.com/yueyang130/DeeR-VLA (``ExitController`` of ``robot_flamingo/models/value_net.py``)

Formula
-------
Exits 1 … K cost c_1 < … < c_K; K is the deepest whose own cost is within the peak and whose layers are within the
memory. A share of the tokens leaves at each::

    q_k = r^k / sum_j r^j        the largest r with  sum_k q_k c_k <= average
    t_k                          of the calibration tokens still there at k, those surest there leave, until
                                 q_1 + ... + q_k of all have left; t_k is how sure the last of them is

A token leaves at the first exit where it is at least t_k sure, and at K in any case.

Deviates
--------
The paper's exits say actions of a robot, and its criterion is how near those of neighbouring exits are to each other;
of tokens it is how sure a lens is, or, with ``criterion="consistency"``, 1 less the total variation distance between
the distributions of neighbouring exits. The first layer looked at is then only compared with, where the paper compares
its first exit with the embedding. The public code leaves once for a whole observation; here every token does, and those
that come later find a copy of it in the layers it left out, or nothing. There r is given and shares are rounded down,
so that costs end up above what was asked; here r follows from the budget and the sums of the shares are rounded up. The
paper's training of the exits, its online variant (Bayesian optimisation by the robot's success), its other families of
shares and its ensemble of the last two actions are not here. Layers above the deepest exit are taken out of the run by
the slot ``weights``: the process still holds them, as the next run may need them. The lens, small, comes on top.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY
from workbench.engine.passes import Pass
from workbench.engine.slots import WeightsPolicy
from workbench.errors import SettingError
from workbench.files import at_home, is_there
from workbench.models import Model
from workbench.models.device import numbers
from workbench.models.fingerprint import stamps
from workbench.models.removed import lower_blocks
from workbench.parts.exits import Lens, LensName, Vocabulary, checked_layers, load_lens
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.depth._exit import ExitPolicy, Leaving
from workbench.techniques.depth.budgeted_exit.measuring import Criterion, Kept, Measured, measure, sureness
from workbench.techniques.depth.budgeted_exit.plan import Budget, Plan, plan

# By model, whose anatomy a run may exchange for a while: what was solved for, by settings, and what was measured.
_PLANS: WeakKeyDictionary[Model, dict[Any, Plan]] = WeakKeyDictionary()
_MEASURED: WeakKeyDictionary[Model, dict[Any, Measured]] = WeakKeyDictionary()


@register
@settings
class BudgetedExit(Technique):
    """A token leaves at the first exit that is sure enough, by thresholds that keep the budgets on a calibration text.

    Parameters
    ----------
    average : float
        Operations of a token on average, over the full model's.
    peak : float
        The same of the token that goes deepest; 1 is no limit.
    memory : float
        Bytes of weights that have to be there, over the full model's.
    lens : str
        What reads the layers: ``bundled``, the tuned lens; ``logit``, the untrained logit lens; ``untrained``; a file.
    criterion : {"probability", "margin", "entropy", "consistency"}
        What it is to be sure; the last is how much an exit agrees with the one before.
    first : float
        Share of the layers below which no token is looked at.
    every : int
        Layers from one look to the next.
    vocabulary : int
        Most frequent tokens that a look is at; 0 for all.
    fill : {"hole", "copy"}
        What later tokens find in the layers that were left out: nothing, or keys and values of the stream that left.
    texts : int
        Calibration texts: the project's prompts to train on, and what the model itself answers.
    answer : int
        Tokens of an answer.
    text : str
        A text file in UTF-8 to calibrate on in their place, at all of its tokens.

    Notes
    -----
    Costs are counted operations of a token that is decoded, looks, copies and the unembedding included; the prompt runs
    through all layers up to the deepest exit. The average is promised on the calibration text, as the whole model reads
    it. A run differs: its text is another, and its tokens see what those before them left;
    :func:`workbench.budget_met` shows what was met. Peak and memory hold for every token. A batched fill is not
    offered, as it computes in the end what was to be saved.
    """

    average: Annotated[float, Field(gt=0, le=1, description="average FLOPs of a token, of the full model's")] = 0.85
    peak: Annotated[float, Field(gt=0, le=1, description="FLOPs of the deepest token; 1: no limit")] = 1.0
    memory: Annotated[float, Field(gt=0, le=1, description="weights that have to be there; 1: no limit")] = 1.0
    lens: LensName = "bundled"
    criterion: Annotated[Criterion, Field(description="what it is to be sure")] = "probability"
    first: Annotated[float, Field(ge=0, le=1, description="share of the layers before the first look")] = 0.6
    every: Annotated[int, Field(ge=1, le=64, description="layers from one look to the next")] = 3
    vocabulary: Vocabulary = 2048
    fill: Annotated[Literal["hole", "copy"], Field(description="what later tokens find in layers left out")] = "copy"
    texts: Annotated[int, Field(ge=1, le=256, description="calibration texts")] = 16
    answer: Annotated[int, Field(ge=2, le=512, description="tokens of an answer to calibrate on")] = 32
    text: Annotated[str, outside("text", "file to calibrate on; empty for the project's own text")] = ""

    slots = ("depth", "weights")
    exact = False
    paper = "Yue et al., DeeR-VLA, 2024, arXiv 2411.02359"

    def start(self, run: Run) -> _Budgeted:
        return _Budgeted(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(average=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        small: dict[str, Any] = {"first": 0.25, "every": 1, "vocabulary": 32, "texts": 2, "answer": 8}
        return (
            cls(average=0.85, lens="untrained", **small),
            cls(average=0.7, memory=0.9, lens="untrained", criterion="consistency", fill="hole", **small),
        )

    def checked(self, layers: int) -> list[int]:
        """Layers of ``layers`` after which may be looked."""
        return list(checked_layers(layers, self.first, self.every))

    def plan(self, model: Model) -> Plan:
        """Exits and thresholds for a model, and what they promise; found once for every model and setting.

        Raises
        ------
        SettingError
            If no exit meets the budgets, or there is no lens or text.
        """
        last, budget = model.layers - 1, Budget(self.average, self.peak, self.memory)
        if budget == Budget(1, 1, 1):
            return Plan((last,), (), (), (1.0,), budget)
        checks, compared = self.checked(model.layers), self.criterion == "consistency"
        if len(checks) <= compared:
            raise SettingError(f"of the {last + 1} layers of {model.name} none is an exit: set first= or every= lower")
        known, key = _PLANS.setdefault(model, {}), (self, self._stamps)
        if key not in known:
            lens = load_lens(model, self.lens)
            measured = self._measured(model, lens, checks)
            known[key] = plan(
                model, budget, checks, compared, lens, measured, self.vocabulary, copies=self.fill == "copy"
            )
        return known[key]

    @property
    def _stamps(self) -> tuple[Any, ...]:
        paths = [at_home(each) for each in (self.lens, self.text) if each]
        return tuple(stamps(path) for path in paths if is_there(path))

    def _measured(self, model: Model, lens: Lens, checks: list[int]) -> Measured:
        asked = self.criterion, self.vocabulary, self.texts, self.answer, self.text
        known, key = _MEASURED.setdefault(model, {}), (*asked, self.lens, tuple(checks), self._stamps)
        if key not in known:
            kept = Kept(model, checks, [*asked, self.lens, list(map(str, self._stamps))])
            known[key] = kept.read() or kept.write(measure(model, lens, checks, *asked))
        return known[key]


class _Budgeted(ExitPolicy, WeightsPolicy):
    """Lets tokens leave by the plan; the layers above its deepest exit are not there."""

    def __init__(self, technique: BudgetedExit, run: Run) -> None:
        self._settings, self._ledger = technique, run.ledger
        self._plan = technique.plan(run.model)
        self._deepest = self._plan.exits[-1]
        self._limits = dict(zip(self._plan.exits, self._plan.thresholds))
        super().__init__(run, self._plan.checks, technique.fill, [self._deepest])
        plain = self._deepest == self._last and not self.checked
        self._lens = None if plain else load_lens(run.model, technique.lens)
        self._before: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def weights(self, model: Model) -> Iterator[None]:
        whole, deepest = model.anatomy, self._settings.plan(model).exits[-1]
        if deepest < model.layers - 1:
            model.anatomy = lower_blocks(whole, deepest + 1)
        try:
            yield
        finally:
            model.anatomy = whole

    def opened(self, opened_pass: Pass) -> None:
        super().opened(opened_pass)
        self._before = {}

    def passed(self, layer: int, opened: Pass) -> None:
        if layer != self._deepest or layer == self._last:
            return
        rows = [row for row in opened.rows if 0 <= row < opened.count and row not in opened.answers]
        if rows:
            with self._ledger.timed(POLICY):
                opened.answers.give(rows, self._lens.stream(opened.streams(rows), layer))
            self._ledger.count(POLICY, self._lens.flops(layer, len(rows)), self._lens.bytes(layer, len(rows)))

    def leaving(self, layer: int, opened: Pass, rows: Sequence[int]) -> Leaving:
        x, head = opened.streams(rows), self._lens.head(layer, self._settings.vocabulary)
        self._ledger.count(POLICY, head.flops(len(x)), head.bytes(len(x)))
        with self._ledger.timed(POLICY):
            stream = self._lens.stream(x, layer)
            logits = head.read(stream)
            sure, compared = sureness(self._settings.criterion, logits, self._compared(rows))
        if compared is not None:
            self._before |= dict(zip(rows, compared))
        limit = self._limits.get(layer, math.inf)
        places = [place for place, found in enumerate(sure.tolist()) if found >= limit]
        if not places:
            return [], x[:0], None
        chosen = numbers(places, x.device)
        return [rows[place] for place in places], stream[chosen], logits[chosen] if head.all_tokens else None

    def _compared(self, rows: Sequence[int]) -> Tensor | None:
        """What the exit before made of rows; None if one of them was not there."""
        known = [self._before[row] for row in rows if row in self._before]
        return torch.stack(known) if len(known) == len(rows) else None
