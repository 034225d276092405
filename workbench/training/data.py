"""The text that trained parts learn from: how it is made, and what it is once it is there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CorruptModel, SettingError
from workbench.files import save_tensors
from workbench.models.weight_files import read_safetensors


@dataclass(frozen=True)
class DataSettings:
    """How training text is made.

    Attributes
    ----------
    sampled : int
        Answers to each prompt that are drawn by chance, beside the greedy one.
    continued : int
        Continuations of each prompt's own text, cut at a place drawn by chance, greedy and by chance in turn.
    temperature : float
        Of the drawn ones.
    new_tokens : int
        Most tokens of an answer.
    length : int
        Most tokens of a text; of a longer one the end is kept, where the answer is.
    held_out : float
        Share of the prompts whose texts are never trained on.
    prompts : int or None
        At most this many of the project's prompts; None takes all.
    asked : int
        Prompts beside these that the model asks itself: texts that no part trained on the project's prompts has seen.
    seed : int
    """

    sampled: int = 3
    continued: int = 2
    temperature: float = 0.7
    new_tokens: int = 256
    length: int = 768
    held_out: float = 0.1
    prompts: int | None = None
    asked: int = 0
    seed: int = 0


@dataclass(eq=False, repr=False)
class TrainingData:
    """Texts, which of their tokens the model wrote, and which texts are held out.

    Attributes
    ----------
    tokens : int32 Tensor [texts, length]
    answer : bool Tensor [texts, length]
    lengths : int32 Tensor [texts]
        Tokens of each text; what stands behind them has no meaning.
    held_out : bool Tensor [texts]
    facts : dict
        Where it comes from, for the card.
    """

    tokens: Tensor
    answer: Tensor
    lengths: Tensor
    held_out: Tensor
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        held = int(self.held_out.sum())
        return (
            f"<TrainingData: {len(self.tokens):,} texts, {held:,} of them held out, {int(self.lengths.sum()):,} tokens>"
        )

    def part(self, held_out: bool) -> TrainingData:
        """The texts that are held out, or those that are not."""
        chosen = self.held_out == held_out
        return TrainingData(
            self.tokens[chosen], self.answer[chosen], self.lengths[chosen], self.held_out[chosen], self.facts
        )

    def flat(self) -> Tensor:
        """All texts one after another, int32 [tokens]."""
        return self.tokens[torch.arange(self.tokens.shape[1]) < self.lengths[:, None]]

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file."""
        tensors = {"tokens": self.tokens, "answer": self.answer, "lengths": self.lengths, "held_out": self.held_out}
        save_tensors(path, tensors, {"facts": json.dumps(self.facts)})

    @classmethod
    def read(cls, path: Path) -> TrainingData:
        """What :meth:`save` wrote.

        Raises
        ------
        SettingError
            If there is no such file.
        CorruptModel
            If it is damaged or holds something else.
        """
        from safetensors import safe_open

        if not path.is_file():
            raise SettingError(f"there is no training text at {path}")
        wanted = {"tokens", "answer", "lengths", "held_out"}
        if read_safetensors(path).names != wanted:
            raise CorruptModel(f"{path.name} holds no training text")
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return cls(**{name: file.get_tensor(name) for name in wanted}, facts=facts)
