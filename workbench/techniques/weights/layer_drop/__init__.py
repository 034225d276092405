"""Leave out blocks, or attention or MLP sublayers alone, that matter least on a calibration text.

Paper
-----
Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You Expect, 2024, arXiv 2403.03853
(``influence`` of blocks). Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, 2024, arXiv 2403.17887
(``angular``). He et al., What Matters in Transformers? Not All Attention is Needed, 2024, arXiv 2406.15786
(``influence`` of sublayers). Zhang et al., FinerCut: Finer-grained Interpretable Layer Pruning for Large Language
Models, 2024, arXiv 2405.18218 (``greedy``).

Formula
-------
``influence``    the units with the smallest E[1 - cos(x, x')] over tokens; x, x' the stream before and after the unit
``angular``      the ``count`` blocks from l on, l = argmin E[arccos(cos(x_l, x_(l + count))) / pi] over last tokens
``greedy``       one unit after the other, always the one without which the model loses least
``exhaustive``   the set without which it loses least, of all sets of ``count`` units

``measure`` says what it loses: ``divergence`` is the Jensen-Shannon divergence of its next-token distributions from the
whole model's, ``loss`` the cross-entropy of the text. What is removed is not computed and has no cache.

Deviates
--------
Calibration takes at most 128 tokens of each of ``texts`` prompts that ship with the project for training; the papers
take longer texts of PG19, C4 or Wikitext-2. Nothing is healed by training after the removal, as Gromov et al. do. The
units of ``influence`` are judged once, not again after every removal. FinerCut compares whole outputs in several
distances; of these the Jensen-Shannon divergence is here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from weakref import WeakKeyDictionary

from pydantic import Field

from workbench.engine import Run
from workbench.engine.slots import WeightsPolicy
from workbench.errors import SettingError
from workbench.files import at_home, is_there, write_atomically
from workbench.models import Anatomy, Model
from workbench.models.bundled import cache_folder
from workbench.models.fingerprint import of_model, stamps
from workbench.models.variant import varied
from workbench.models.views import Views
from workbench.parts.calibration import calibration_texts
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.weights.layer_drop.calibration import Unit, angles, influences, units
from workbench.techniques.weights.layer_drop.measured import exhaustive, greedy, less

# Of a model's anatomy what was chosen, by settings, and its views without that.
_CHOSEN: WeakKeyDictionary[Anatomy, dict[Any, tuple[Unit, ...]]] = WeakKeyDictionary()
_VIEWS = Views()


@register
@settings
class LayerDrop(Technique):
    """A shallower model, for a run.

    Parameters
    ----------
    count : int
        Units removed.
    unit : {"block", "attention", "mlp", "sublayer"}
        What is removed at once; ``sublayer`` may be an attention or an MLP.
    criterion : {"influence", "angular", "greedy", "exhaustive"}
        By which they are chosen. The last two run the model once for each trial: what they chose is kept in the user's
        cache folder.
    measure : {"divergence", "loss"}
        What ``greedy`` and ``exhaustive`` keep small.
    texts : int
        Calibration texts.
    text : str
        A text file in UTF-8 to calibrate on; empty for the prompts to train on that ship with the project.
    """

    count: Annotated[int, Field(ge=0, le=1000, description="units removed")] = 3
    unit: Annotated[Literal["block", "attention", "mlp", "sublayer"], Field(description="what is removed at once")] = (
        "block"
    )
    criterion: Annotated[
        Literal["influence", "angular", "greedy", "exhaustive"], Field(description="by which they are chosen")
    ] = "influence"
    measure: Annotated[Literal["divergence", "loss"], Field(description="what measured criteria keep small")] = (
        "divergence"
    )
    texts: Annotated[int, Field(ge=1, le=256, description="calibration texts")] = 16
    text: Annotated[str, outside("text", "file to calibrate on; empty for the project's own text")] = ""

    slots = ("weights",)
    exact = False
    paper = "Men et al., ShortGPT, 2024, arXiv 2403.03853; Zhang et al., FinerCut, 2024, arXiv 2405.18218"

    def start(self, run: Run) -> _Dropped:
        return _Dropped(self, run.model)

    @classmethod
    def neutral(cls) -> Self:
        return cls(count=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(count=1, texts=2),
            cls(count=2, criterion="angular", texts=2),
            cls(count=3, unit="sublayer", criterion="greedy", texts=1),
        )

    def removed(self, model: Model) -> tuple[Unit, ...]:
        """What it removes of a model, in the order in which it was chosen; found once for every model and setting.

        Raises
        ------
        SettingError
            If not so much can be removed, or the settings do not fit one another.
        """
        there = len(units(model, self.unit))
        if self.count >= there:
            raise SettingError(f"{model.name} has {there} units to remove ({self.unit}): take a count below that")
        if self.criterion == "angular" and self.unit != "block":
            raise SettingError(
                "criterion='angular' removes neighbouring blocks: take unit='block', or another criterion"
            )
        if not self.count:
            return ()
        path = at_home(self.text)
        key = self, stamps(path) if self.text and is_there(path) else ()
        known = _CHOSEN.setdefault(model.anatomy, {})
        if key not in known:
            known[key] = tuple(self._choose(model))
        return known[key]

    def _choose(self, model: Model) -> Sequence[Unit]:
        texts, among = calibration_texts(model, self.texts, self.text), units(model, self.unit)
        if self.criterion == "influence":
            scores = influences(model, texts, self.unit)
            return sorted(among, key=scores.__getitem__)[: self.count]
        if self.criterion == "angular":
            turns = angles(model, texts, self.count)
            first = turns.index(min(turns))
            return among[first : first + self.count]
        kept = _Kept(self, model, texts)
        if self.criterion == "exhaustive":
            found = kept.read()
            whole = len(found) == self.count
            return found if whole else kept.write(exhaustive(model, texts, among, self.count, self.measure))
        before = kept.read()
        if len(before) < self.count:
            before = kept.write(greedy(model, texts, among, self.count, self.measure, before))
        return before[: self.count]


class _Dropped(WeightsPolicy):
    """Puts a view without the units in the place of a model's anatomy."""

    def __init__(self, technique: LayerDrop, model: Model) -> None:
        self._technique, self._model = technique, model
        # Of the model as it is before the slot's techniques change it.
        self._removed = technique.removed(model)

    @contextlib.contextmanager
    def weights(self, model: Model) -> Iterator[None]:
        whole = model.anatomy
        removed = frozenset(self._removed if model is self._model else self._technique.removed(model))
        if removed:
            model.anatomy = _view(whole, removed)
        try:
            yield
        finally:
            model.anatomy = whole


def _view(whole: Anatomy, removed: frozenset[Unit]) -> Anatomy:
    """An anatomy less some units."""
    gone = {unit.layer for unit in removed}
    return _VIEWS.of(
        whole,
        removed,
        lambda: varied(whole, others={layer: less(whole.blocks[layer], removed) for layer in gone}),
    )


class _Kept:
    """What was chosen by measuring, in the user's cache folder, named after all that it follows from."""

    def __init__(self, technique: LayerDrop, model: Model, texts: Sequence[Sequence[int]]) -> None:
        self._there = {tuple(unit) for unit in units(model, technique.unit)}
        # A greedy choice begins with those of smaller counts.
        count = technique.count if technique.criterion == "exhaustive" else 0
        wanted: dict[str, Any] = {**dataclasses.asdict(technique), "count": count, "text": list(map(list, texts))}
        key = hashlib.sha256(json.dumps([of_model(model), str(model.dtype), wanted]).encode()).hexdigest()
        # A model without a tokenizer was made in memory.
        self._path: Path | None = cache_folder() / "layer_drop" / f"{key}.json" if model.tokenizer else None

    def read(self) -> list[Unit]:
        """What was kept; nothing where there is none, or it is damaged."""
        if self._path is None or not self._path.is_file():
            return []
        try:
            found = [Unit(layer, part) for layer, part in json.loads(self._path.read_text("utf-8"))]
        except (ValueError, TypeError):
            return []
        different = {tuple(unit) for unit in found}
        return found if different <= self._there and len(different) == len(found) else []

    def write(self, chosen: Sequence[Unit]) -> list[Unit]:
        if self._path is not None:
            write_atomically(self._path, json.dumps(list(map(list, chosen))) + "\n")
        return list(chosen)
