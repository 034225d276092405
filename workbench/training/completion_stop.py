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

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts.exit_controller import EXIT, STOP, ExitController, classes_of, right_at
from workbench.parts.exits import load_lens
from workbench.settings import outside, settings
from workbench.tasks.functions import LEARNED_MODULES, learned_functions
from workbench.tokenizing import token_ids
from workbench.training._forward import some_places, streams
from workbench.training._recipe import Recipe, register
from workbench.training.data import TrainingData
from workbench.training.writing import Progress, hold_out

_LENGTH, _OPENING = 256, 8  # most tokens of a function; tokens that are read before any is foreseen


@register
@settings
class CompletionStop(Recipe):
    """Cross-entropy of three classes at every layer but the last: stop, exit and go on.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    places : int
        Tokens of a batch that every layer learns from in a step.
    lens : str
        What says which token a layer names: ``bundled``, the tuned lens, ``logit``, ``untrained``, or a file.
    shared : bool
        One map for all layers, as in the paper.

    Notes
    -----
    Figures, as means over layers: ``accuracy``, the share of tokens whose class is the likeliest; ``exit_precision``
    and ``stop_precision``, of those said to be right already, or never, the share that is; ``exit_recall`` and
    ``stop_recall``, the share that is found. ``never``: the share that no layer gets right, the last included.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 300
    batch: Annotated[int, Field(ge=1, description="functions of a step")] = 6
    length: Annotated[int, Field(ge=8, description="tokens of a function")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-3
    places: Annotated[int, Field(ge=1, description="tokens of a batch that all layers learn from")] = 256
    lens: Annotated[str, outside("lens", "lens: bundled, logit, untrained, or a file", min_length=1)] = "bundled"
    shared: Annotated[bool, Field(description="one map for all layers")] = False

    paper = "Sun et al., When Neural Code Completion Models Size up the Situation, 2024, arXiv 2401.09964"

    def texts(
        self, model: Model, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> TrainingData:
        return function_texts(model)

    def part(self, model: Model) -> ExitController:
        return ExitController(1 if self.shared else model.layers - 1, model.anatomy.width).to(model.device)

    def loss(
        self, model: Model, part: ExitController, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        text, place = some_places(answer, self.places)
        with torch.no_grad():
            # The first stream is the embedding's.
            after = streams(model.anatomy, tokens, text, place)[1:]
            lens, due = load_lens(model, self.lens), tokens[text, place + 1]
            right = torch.stack([right_at(lens, layer, x, due) for layer, x in enumerate(after)])
            label = classes_of(right)[:-1]
        odds = part(torch.stack(after[:-1])).float()
        each = F.cross_entropy(odds.flatten(0, 1), label.flatten(), reduction="none").view(label.shape).mean(1)
        weight = torch.arange(1, len(each) + 1, device=each.device)
        with torch.no_grad():
            said = odds.argmax(-1)
            figures = {"accuracy": float((said == label).float().mean()), "never": float((label[0] == STOP).float().mean())}
            for name, kind in (("exit", EXIT), ("stop", STOP)):
                hits = ((said == kind) & (label == kind)).sum()
                figures[f"{name}_precision"] = float(hits / (said == kind).sum().clamp_min(1))
                figures[f"{name}_recall"] = float(hits / (label == kind).sum().clamp_min(1))
        return (weight * each).sum() / weight.sum(), figures

    @classmethod
    def example(cls) -> CompletionStop:
        return cls(steps=2, batch=2, length=24, places=16, lens="untrained")


def function_texts(model: Model, held_out: float = 0.1, seed: int = 0) -> TrainingData:
    """The functions of the running Python's standard library that may be trained on; some modules of them are held out.

    Every token but the first few of a function counts as one to be foreseen.

    Raises
    ------
    SettingError
        If the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise SettingError(f"{model.name} has no tokenizer: give texts as data=")
    found = [(module, token_ids(model.tokenizer, text)[:_LENGTH]) for module, text in learned_functions()]
    found = [(module, ids) for module, ids in found if len(ids) > 2 * _OPENING]
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
