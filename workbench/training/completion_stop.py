"""The controller of :class:`workbench.techniques.CompletionStop`: which tokens are right already, and which never.

Paper
-----
Sun, Du, Song, Li, When Neural Code Completion Models Size up the Situation: Attaining Cheaper and Faster Completion
through Dynamic Model Inference, 2024, arXiv 2401.09964.

Source
------
github.com/v587su/SEC (``generate_dataset.py``, ``model/multi_lmhead_gpt2.py``)

On real code, read as it stands, a token is of one class at each layer: *exit* where this layer or one before it names
it, *stop* where no layer does, *go on* where only a later one does. The loss is the cross-entropy, a layer weighing as
much as its number.

Deviates
--------
What a layer names is what a trained lens has there, instead of a head of its own; maps are one for each layer unless
``shared``, see :mod:`workbench.parts.exit_controller`. The paper's data is a corpus of functions from public
repositories; here it is the standard library of the Python that runs this, so that the text hangs a little on its
version, which the card names.
"""

from __future__ import annotations

import platform
import threading
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts.exit_controller import EXIT, STOP, ExitController, classes_of, right_at
from workbench.parts.exits import Lens, load_lens
from workbench.settings import outside, settings
from workbench.tasks.functions import LEARNED_MODULES, learned_functions
from workbench.tokenizing import token_ids
from workbench.training._forward import streams
from workbench.training._recipe import Recipe, register
from workbench.training.data import TrainingData
from workbench.training.writing import Progress, hold_out

_LENGTH, _OPENING = 256, 8  # most tokens of a function; tokens that are read before any is foreseen
_REMEMBERED = 32_000  # tokens whose streams are kept, some 30 kB each of the bundled model

# By model what was found out of a text: streams [layers, places, width], and the first layer that is right [places].
_KNOWN: WeakKeyDictionary[Model, dict[Any, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


@register
@settings
class CompletionStop(Recipe):
    """Cross-entropy of three classes at every layer but the last: stop, exit and go on.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    lens : str
        What says which token a layer names: ``bundled``, the tuned lens, ``logit``, ``untrained``, or a file.
    shared : bool
        One map for all layers, as in the paper.
    functions : int
        At most so many functions of the standard library, evenly spread over its modules; 0 takes all.

    Notes
    -----
    Nearly all of the time goes into what every layer names, which is found out once for a text and kept for up to
    32,000 tokens (1 GB of the bundled model): few functions, seen again and again, make a short training.

    Figures, as means over layers: ``accuracy``, the share of tokens whose class is the likeliest; ``exit_precision``
    and ``stop_precision``, of those said to be right already, or never, the share that is; ``exit_recall`` and
    ``stop_recall``, the share that is found. ``never``: the share that no layer gets right, the last included.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 300
    batch: Annotated[int, Field(ge=1, description="functions of a step")] = 6
    length: Annotated[int, Field(ge=8, description="tokens of a function")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-3
    lens: Annotated[str, outside("lens", "lens: bundled, logit, untrained, or a file", min_length=1)] = "bundled"
    shared: Annotated[bool, Field(description="one map for all layers")] = False
    functions: Annotated[int, Field(ge=0, description="functions to learn from; 0: all")] = 0

    paper = "Sun et al., When Neural Code Completion Models Size up the Situation, 2024, arXiv 2401.09964"

    def texts(
        self, model: Model, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> TrainingData:
        return function_texts(model, self.functions)

    def part(self, model: Model) -> ExitController:
        return ExitController(1 if self.shared else model.layers - 1, model.anatomy.width).to(model.device)

    def loss(
        self, model: Model, part: ExitController, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        found = [self._read(model, *each) for each in zip(tokens, answer) if each[1][1:].any()]
        after, first = torch.cat([x for x, _ in found], 1), torch.cat([layers for _, layers in found])
        label = classes_of(first, model.layers)
        odds = part(after).float()
        each = F.cross_entropy(odds.flatten(0, 1), label.flatten(), reduction="none").view(label.shape).mean(1)
        weight = torch.arange(1, len(each) + 1, device=each.device)
        return (weight * each).sum() / weight.sum(), _figures(odds.argmax(-1), label)

    @torch.no_grad()
    def _read(self, model: Model, tokens: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Of one text the streams [layers - 1, places, width] before tokens of the answer, and the first layer that is
        right of each, int [places], ``layers`` where none is."""
        place = answer[1:].nonzero()[:, 0]
        text = tokens[: int(place[-1]) + 2]
        known = _KNOWN.setdefault(model, {})
        key = self.lens, tuple(text.tolist()), tuple(place.tolist())
        if key not in known:
            *after, last = streams(model.anatomy, text[None], torch.zeros_like(place), place)[1:]
            first = _first_right(load_lens(model, self.lens), [*after, last], text[place + 1])
            if sum(len(layers) for _, layers in known.values()) > _REMEMBERED:
                known.clear()
            known[key] = torch.stack(after), first
        return known[key]

    @classmethod
    def example(cls) -> CompletionStop:
        return cls(steps=2, batch=2, length=24, lens="untrained")


def _first_right(lens: Lens, after: list[Tensor], due: Tensor) -> Tensor:
    """The first layer whose first choice is ``due``, int [rows]; as many as there are layers where none is."""
    first = torch.full_like(due, len(after))
    for layer, x in enumerate(after):
        left = (first == len(after)).nonzero()[:, 0]
        if len(left):
            first[left[right_at(lens, layer, x[left], due[left])]] = layer
    return first


def _figures(said: Tensor, label: Tensor) -> dict[str, float]:
    figures = {"accuracy": float((said == label).float().mean()), "never": float((label[0] == STOP).float().mean())}
    for name, kind in (("exit", EXIT), ("stop", STOP)):
        hits = ((said == kind) & (label == kind)).sum()
        figures[f"{name}_precision"] = float(hits / (said == kind).sum().clamp_min(1))
        figures[f"{name}_recall"] = float(hits / (label == kind).sum().clamp_min(1))
    return figures


def function_texts(model: Model, limit: int = 0, held_out: float = 0.1, seed: int = 0) -> TrainingData:
    """The functions of the running Python's standard library that may be trained on; some modules of them are held out.

    Every token but the first few of a function counts as one to be foreseen.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    limit : int
        At most so many, evenly spread; 0 takes all.
    held_out : float
        Share of them, by module.
    seed : int
        Of which modules.

    Raises
    ------
    SettingError
        If the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise SettingError(f"{model.name} has no tokenizer: give texts as data=")
    found = [(module, token_ids(model.tokenizer, text)[:_LENGTH]) for module, text in learned_functions()]
    found = [(module, ids) for module, ids in found if len(ids) > 2 * _OPENING]
    kept = min(len(found), limit or len(found))
    found = [found[number * len(found) // kept] for number in range(kept)]
    tokens = torch.zeros(len(found), _LENGTH, dtype=torch.int32)
    lengths = torch.tensor([len(ids) for _, ids in found], dtype=torch.int32)
    for row, (_, ids) in enumerate(found):
        tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
    places = torch.arange(_LENGTH)
    answer = (places >= _OPENING) & (places < lengths[:, None])
    modules = list(dict.fromkeys(module for module, _ in found))
    groups = [modules.index(module) for module, _ in found]
    facts: dict[str, Any] = {
        "texts": len(found),
        "tokens": int(lengths.sum()),
        "answer_tokens": int(answer.sum()),
        "groups": len(modules),
        "sources": f"functions of {len(modules)} of {len(LEARNED_MODULES)} modules of the standard library "
        f"(workbench.tasks.LEARNED_MODULES) of Python {platform.python_version()}",
        "held_out_by": "modules",
    }
    return TrainingData(tokens, answer, lengths, hold_out(groups, held_out, torch.Generator().manual_seed(seed)), facts)
