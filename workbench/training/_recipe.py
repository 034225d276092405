"""What a training recipe is: settings, the part to train, and its loss."""

from __future__ import annotations

import abc
import threading
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from workbench.models import Model
from workbench.registry import Registry
from workbench.training.data import DataSettings, TrainingData
from workbench.training.writing import Progress, training_data

RECIPES = Registry("training recipe")
register = RECIPES.register


class Recipe(abc.ABC):
    """Base of every recipe: a frozen dataclass of settings (see :func:`workbench.settings.settings`).

    Attributes
    ----------
    paper : str
        Authors, title, year, arXiv id of what is trained.
    steps, batch, length : int
        Optimiser steps, sequences in each, and the most tokens of a sequence.
    learning_rate : float
        The peak; warmed up over the first twentieth of the steps and brought to zero by a cosine.
    data : DataSettings
        The text that :meth:`texts` lets the model write.
    name : str
        Name in the registry, the class name in snake case; the artefact is called so too.

    Notes
    -----
    What is drawn by chance in :meth:`part` and :meth:`loss` comes from torch's own generator, which the trainer seeds
    for the part and for every step, so that a training can be resumed exactly.
    """

    paper: ClassVar[str]
    name: ClassVar[str]
    data: ClassVar[DataSettings] = DataSettings()
    steps: int
    batch: int
    length: int
    learning_rate: float

    @abc.abstractmethod
    def part(self, model: Model) -> nn.Module:
        """The part to be trained, freshly initialised in float32 on the model's device, with only its own parameters
        and buffers in its ``state_dict``: that is the artefact."""

    @abc.abstractmethod
    def loss(self, model: Model, part: nn.Module, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of one batch, and figures worth a curve (``accuracy`` of each head, say).

        Parameters
        ----------
        model : Model
            The frozen model; ``model.hf`` is the transformers model, whose ``hidden_states[-1]`` is already normed.
        part : nn.Module
        tokens : int Tensor [batch, length]
            Texts that begin at the first column; behind its end each is filled up with a token of no meaning.
        answer : bool Tensor [batch, length]
            True where a token was written by the model itself rather than by the prompt's author. At least one is.
        """

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        """Things that depend on the whole training text (the draft vocabulary, say), computed once before
        :meth:`part`; ``tokens`` is int [tokens], all training texts one after another.

        A tensor is copied into the part's parameter or buffer of that name; anything else is handed to the card.
        """
        return {}

    def prepare_texts(self, model: Model, texts: TrainingData, progress: Progress | None = None) -> dict[str, Any]:
        """The same of texts that must be told apart; by default :meth:`prepare` of all of them together.

        Parameters
        ----------
        model : Model
        texts : TrainingData
            Those that are trained on.
        progress : callable, optional
            ``progress(done, texts, message)``, where it takes long.
        """
        return self.prepare(model, texts.flat().to(model.device))

    def texts(
        self, model: Model, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> TrainingData:
        """The text that it is trained on if none is given; by default what the model itself writes."""
        return training_data(model, self.data, progress, cancel)

    @classmethod
    def example(cls) -> Self:
        """Settings that tests run for two steps on a tiny model."""
        return cls(steps=2, batch=2, length=24)
