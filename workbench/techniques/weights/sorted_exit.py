"""Run the sub-model of a sorted model that a budget pays for: its first layers, its first neurons, nothing searched.

Paper
-----
Valipour et al., Sorted LLaMA: Unlocking the Potential of Intermediate Layers of Large Language Models for Dynamic
Inference Using Sorted Fine-Tuning, 2023, arXiv 2309.08968; Valipour et al., SortedNet, 2023, arXiv 2309.00255.

Formula
-------
One change of low rank for all: ``W' = W + strength U D`` in the blocks that were trained. The sub-model (n, w) is

    head(norm(block'_n(... block'_1(embedding)))),   with the first w of the neurons of each MLP that changes

through the model's own final norm and unembedding. ``of="layers"``: the deepest at full width with n / layers within
the budget. ``of="flops"``: of those whose operations are within, the one that agreed most with the untouched model on
held-out text, as its card says.

Deviates
--------
The papers fine-tune all weights; here a low-rank change of the upper blocks is trained, see
:mod:`workbench.training.sorted_exit`, and heads and channels are not nested. The full sub-model is the *changed* model:
what it writes is not what the untouched one writes. Used with ``SelfSpeculative`` or ``DynamicExitLayer`` on
``lens="logit"`` a sub-model drafts for the changed model and the text is exactly that one's; for the untouched model it
cannot draft without running its blocks twice, as they share no rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field

from workbench.artifacts import place
from workbench.engine import Run
from workbench.engine.slots import WeightsPolicy
from workbench.errors import SettingError
from workbench.models import Anatomy, Model
from workbench.models.fingerprint import stamps
from workbench.models.removed import lower_blocks
from workbench.models.views import Views
from workbench.parts.exits.sorted import NAME, SortedAdapter, load_sorted
from workbench.parts.exits.submodels import SubModel, sorted_view, submodels
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register

_VIEWS = Views(2)  # each has weights of its own
_ROUNDING = 1e-6


@register
@settings
class SortedExit(Technique):
    """A shallower, and a narrower, model for a run, of one set of weights that serves all budgets.

    Parameters
    ----------
    budget : float
        Share of the whole model that the sub-model may take.
    of : {"layers", "flops"}
        What the share is of: the number of layers, or the operations of a token in all linear maps, unembedding
        included.
    strength : float
        What the trained change is multiplied by; 0 leaves the weights as they are, so that exits of the untuned model
        can be seen beside it.
    weights : str
        The change: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.

    Notes
    -----
    With ``budget=1`` all sub-models are there, and a technique of the slot ``depth`` may let each token leave at the
    one that is sure: ``ConfidenceExit(lens="logit")``. A layer that is left out is not computed, and keeps no cache.
    """

    budget: Annotated[float, Field(gt=0, le=1, description="share of the model that the sub-model may take")] = 0.8
    of: Annotated[Literal["layers", "flops"], Field(description="what the share is of")] = "layers"
    strength: Annotated[float, Field(ge=0, le=2, description="what the trained change is multiplied by")] = 1.0
    weights: Annotated[str, outside("part", "change: bundled, untrained, or a file", min_length=1)] = "bundled"

    slots = ("weights",)
    exact = False
    paper = "Valipour et al., Sorted LLaMA, 2023, arXiv 2309.08968; SortedNet, 2023, arXiv 2309.00255"

    def start(self, run: Run) -> _Sorted:
        return _Sorted(self, run.model)

    @classmethod
    def neutral(cls) -> Self:
        return cls(budget=1.0, strength=0.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(budget=0.75, weights="untrained"), cls(budget=0.9, of="flops", weights="untrained")

    def chosen(self, model: Model) -> SubModel:
        """The sub-model that runs.

        Raises
        ------
        SettingError
            If the budget pays for none, or there is no change for the model.
        """
        return self._found(model)[1]

    def _found(self, model: Model) -> tuple[SortedAdapter, SubModel]:
        part = load_sorted(model, self.weights)
        among = submodels(model, part)
        if self.of == "layers":
            among = [each for each in among if each.width == 1]
        cost = [getattr(each, self.of) for each in among]
        within = [each for each, share in zip(among, cost, strict=True) if share <= self.budget + _ROUNDING]
        if not within:
            raise SettingError(
                f"budget={self.budget:g} pays for no sub-model of {model.name}: the smallest takes {min(cost):.3f} of "
                f"its {self.of}"
            )
        if self.of == "layers":
            return part, max(within, key=lambda each: each.depth)
        return part, max(within, key=lambda each: (each.accuracy, each.flops))


class _Sorted(WeightsPolicy):
    """Puts a view of the sub-model in the place of a model's anatomy."""

    def __init__(self, technique: SortedExit, model: Model) -> None:
        self._settings, self._model = technique, model
        self._found = None if (technique.budget, technique.strength) == (1, 0) else technique._found(model)

    @contextlib.contextmanager
    def weights(self, model: Model) -> Iterator[None]:
        whole = model.anatomy
        if self._found is not None:
            part, chosen = self._found if model is self._model else self._settings._found(model)
            view = self._view(whole, part, chosen)
            model.anatomy = view if chosen.depth == whole.layers else lower_blocks(view, chosen.depth)
        try:
            yield
        finally:
            model.anatomy = whole

    def _view(self, whole: Anatomy, part: SortedAdapter, chosen: SubModel) -> Anatomy:
        """All layers, with the change and the neurons of the sub-model."""
        asked = self._settings
        if not asked.strength and chosen.width == 1:
            return whole
        stamp = () if asked.weights == "untrained" else stamps(place(NAME, asked.weights))
        key = asked.weights, stamp, asked.strength, chosen.width
        return _VIEWS.of(whole, key, lambda: sorted_view(whole, part, chosen.width, asked.strength))
