"""One training loop for every recipe: seeded, checkpointed, resumable.

Source: AdamW, Loshchilov and Hutter, 2017, arXiv 1711.05101; warm-up and cosine, the same authors, 2016, arXiv
1608.03983; clipping of the gradient's norm, Pascanu et al., 2012, arXiv 1211.5063.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench import artifacts
from workbench.errors import CorruptModel, NumericalError, SettingError
from workbench.files import save_tensors
from workbench.models import Model, fingerprint
from workbench.models.weight_files import read_safetensors
from workbench.training._recipe import Progress, Recipe
from workbench.training.batches import Batches
from workbench.training.data import TrainingData
from workbench.training.evaluate import autocast, evaluate
from workbench.training.optimiser import Optimiser, optimiser_of, restore, size, states

_CLIP = 1.0
_WATCHED = 96  # held-out texts of every point of the curve, evenly spread over all of them


class Training:
    """The state of one training.

    Parameters
    ----------
    recipe : Recipe
    model : Model
    data : TrainingData
    seed, evaluations, progress
    optimiser : {"adamw", "adamw8bit"}
        As for :func:`workbench.training.train`.

    Attributes
    ----------
    part : nn.Module
    step : int
        Steps taken.
    best : dict
        ``step`` and ``loss`` where the held-out loss has been least so far, and a copy of the part there.
    curve : dict of str to list
        ``step`` and figures of every step, and ``held_out_step`` with those of the held-out texts that are watched: the
        same ones at every point.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        data: TrainingData,
        seed: int = 0,
        evaluations: int = 10,
        progress: Progress | None = None,
        optimiser: Optimiser = "adamw",
    ) -> None:
        self.recipe, self.model, self.data, self.seed = recipe, model, data, seed
        learned, unseen = data.part(held_out=False), data.part(held_out=True)
        if not len(learned.tokens) or not len(unseen.tokens):
            raise SettingError(f"{len(data.tokens)} texts are too few to train on some and hold others out")
        batch, length, device = recipe.batch, recipe.length, model.device
        self._batches = Batches(learned, batch, length, seed, device)
        self._unseen = Batches(unseen, batch, length, seed, device)
        self._every = max(1, recipe.steps // max(1, evaluations))
        with self._seeded(-1):
            prepared = recipe.prepare_texts(model, learned, progress)
            self.part = recipe.part(model)
        state = self.part.state_dict()
        tensors = {key: value for key, value in prepared.items() if isinstance(value, Tensor)}
        self._prepared = {key: value for key, value in prepared.items() if key not in tensors}
        with torch.no_grad():
            for key, value in tensors.items():
                state[key].copy_(value)
        self._named = {key: value for key, value in self.part.named_parameters() if value.requires_grad}
        self._kind, self._optimiser = optimiser, optimiser_of(optimiser, self._named, recipe.learning_rate)
        self.step = 0
        self.seconds = 0.0
        self.best: dict[str, Any] = {"step": 0, "loss": math.inf, "part": {}}
        self.curve: dict[str, list[float]] = {"step": [], "loss": [], "learning_rate": [], "held_out_step": []}

    def advance(self) -> float:
        """Take one step and return its loss."""
        start = time.perf_counter()
        if self.step == 0:
            self._look()
        rate = self.rate(self.step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        tokens, answer = self._batches(self.step)
        self.part.train()
        with self._seeded(self.step), autocast(self.model):
            loss, figures = self.recipe.loss(self.model, self.part, tokens, answer)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericalError(f"the loss of {self.recipe.name} became {value} at step {self.step}: lower the rate")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(self._named.values()), _CLIP)
        self._optimiser.step()
        self.step += 1
        self._note("", self.step, {"loss": value, "learning_rate": rate, **figures})
        if self.step % self._every == 0 or self.step == self.recipe.steps:
            self._look()
        self.seconds += time.perf_counter() - start
        return value

    def rate(self, step: int) -> float:
        """Learning rate of a step: a line up to the peak, then half a cosine down."""
        steps, peak = self.recipe.steps, self.recipe.learning_rate
        warm = max(1, steps // 20)
        if step < warm:
            return peak * (step + 1) / warm
        return 0.5 * peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    def evaluate(self, texts: int | None = None) -> dict[str, float]:
        """Mean loss and figures of the held-out texts, or of ``texts`` of them, evenly spread."""
        with self._seeded(-2), autocast(self.model):
            return evaluate(self.recipe, self.model, self.part, self._unseen.in_order(texts))

    def checkpoint(self, file: Path) -> None:
        """Write part, optimiser and curve as one safetensors file; no pickle."""
        tensors = {f"part/{key}": value.detach().cpu().contiguous() for key, value in self.part.state_dict().items()}
        kept = states(self._optimiser, self._named)
        tensors |= {f"optimiser/{key}": value.cpu().contiguous() for key, value in kept.items()}
        tensors |= {f"best/{key}": value.cpu() for key, value in self.best["part"].items()}
        best = {key: self.best[key] for key in ("step", "loss")} if self.best["part"] else None
        named = self._identity()
        facts = {"step": self.step, "seconds": self.seconds, "curve": self.curve, "best": best, "named": named}
        save_tensors(file, tensors, {"state": json.dumps(facts)})

    def restore(self, file: Path) -> None:
        """Go back to what :meth:`checkpoint` wrote.

        Raises
        ------
        SettingError
            If there is no checkpoint, or one of another recipe, model, data or seed.
        CorruptModel
            If it is damaged.
        """
        from safetensors import safe_open

        if not file.is_file():
            raise SettingError(f"there is no {file.name} to resume from in {file.parent}")
        names = read_safetensors(file).names
        with safe_open(file, "pt") as opened:
            state = json.loads((opened.metadata() or {}).get("state", "{}"))
            if state.get("named") != self._identity():
                raise SettingError(f"{file.name} is of another training: its settings, model, data or seed differ")
            tensors = {key: opened.get_tensor(key) for key in names}
        best, own = (
            {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(prefix)}
            for prefix in ("best/", "part/")
        )
        artifacts.fit(self.part, own, file.name)
        if state["best"] and {key: value.shape for key, value in best.items()} != {
            key: value.shape for key, value in own.items()
        }:
            raise CorruptModel(f"{file.name} lacks the part as it was at its best")
        if state["best"]:
            self.best = {**state["best"], "part": {key: value.to(self.model.device) for key, value in best.items()}}
        if state["step"] > 0:
            moments = {key.partition("/")[2]: tensors[key] for key in tensors if key.startswith("optimiser/")}
            restore(self._optimiser, self._named, state["step"], moments)
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def finish(self, place: Path) -> dict[str, Any]:
        """Write the artefact as it was at its best, look at all held-out texts with what was written, and return the
        card."""
        self.part.load_state_dict({key: artifacts.rounded(value) for key, value in self.best["part"].items()})
        result = self.evaluate()
        # A part may keep what the held-out texts showed of it in a buffer.
        stored = {key: artifacts.rounded(value) for key, value in self.part.state_dict().items()}
        texts = int(self.data.held_out.sum())
        facts = {
            "model": {"name": artifacts.name_of(self.model), "revision": self.model.revision},
            "settings": _public(self.recipe),
            "paper": self.recipe.paper,
            "seed": self.seed,
            "data": {**self.data.facts, "held_out_texts": texts, "watched_texts": min(texts, _WATCHED)},
            **({"prepared": self._prepared} if self._prepared else {}),
            "steps": self.step,
            "best_step": self.best["step"],
            "seconds": round(self.seconds, 3),
            "machine": _machine(self.model.device),
            "parameters": sum(value.numel() for value in self._named.values()),
            "optimiser": {"name": self._kind, "bytes": size(self._optimiser, self._named)},
            "result": {f"held_out_{key}": round(value, 5) for key, value in result.items()},
            "curve": _thinned(self.curve),
        }
        return artifacts.save(self.recipe.name, stored, facts, place)

    def _look(self) -> None:
        figures = self.evaluate(_WATCHED)
        self._note("held_out_", self.step, figures)
        if self.step and figures["loss"] < self.best["loss"]:
            part = {key: value.detach().clone() for key, value in self.part.state_dict().items()}
            self.best = {"step": self.step, "loss": figures["loss"], "part": part}

    def _note(self, prefix: str, step: int, figures: dict[str, float]) -> None:
        self.curve[f"{prefix}step"].append(step)
        for key, value in figures.items():
            self.curve.setdefault(prefix + key, []).append(round(float(value), 6))

    def _identity(self) -> dict[str, Any]:
        named = {"recipe": self.recipe.name, "settings": _public(self.recipe), "seed": self.seed, **self._prepared}
        named["optimiser"] = self._kind
        model = artifacts.name_of(self.model)
        content = {"weights": fingerprint.of_model(self.model), "texts": fingerprint.of_tensor(self.data.tokens)}
        return json.loads(json.dumps({**named, "model": model, **content}))

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Torch's generator as it is at a step, whatever came before it."""
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(1_000_003 * self.seed + step + 2)
            yield


def _public(recipe: Recipe) -> dict[str, Any]:
    """The recipe's settings as a card may show them: of a path the file's name alone."""
    given = asdict(recipe)
    return {key: Path(value).name if isinstance(value, str) else value for key, value in given.items()}


def _machine(device: torch.device) -> str:
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{what}, {platform.machine()}, torch {torch.__version__}"


def _thinned(curve: dict[str, list[float]], most: int = 400) -> dict[str, list[float]]:
    """The curve with at most so many steps, for the card; the last one stays."""
    stride = -(-len(curve["step"]) // most)
    return {
        key: values if key.startswith("held_out_") or stride <= 1 else values[stride - 1 :: stride]
        for key, values in curve.items()
    }
