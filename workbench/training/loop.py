"""One training loop for every recipe: seeded, checkpointed, resumable.

Source: AdamW, Loshchilov and Hutter, 2017, arXiv 1711.05101; warm-up and cosine, the same authors, 2016, arXiv
1608.03983; clipping of the gradient's norm, Pascanu et al., 2012, arXiv 1211.5063.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
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
from workbench.models import Model
from workbench.models.weight_files import read_safetensors
from workbench.training._recipe import Recipe
from workbench.training.batches import Batches
from workbench.training.data import TrainingData

_CLIP = 1.0
_DECAY = 0.01
_EVALUATED = 96  # held-out texts looked at on the way; at the end all are


class Training:
    """The state of one training.

    Parameters
    ----------
    recipe : Recipe
    model : Model
    data : TrainingData
    seed, evaluations : int
        As for :func:`workbench.training.train`.

    Attributes
    ----------
    part : nn.Module
    step : int
        Steps taken.
    curve : dict of str to list
        ``step`` and figures of every step, and ``held_out_step`` with those of the held-out texts.
    """

    def __init__(self, recipe: Recipe, model: Model, data: TrainingData, seed: int = 0, evaluations: int = 10) -> None:
        self.recipe, self.model, self.data, self.seed = recipe, model, data, seed
        learned, unseen = data.part(held_out=False), data.part(held_out=True)
        if not len(learned.tokens) or not len(unseen.tokens):
            raise SettingError(f"{len(data.tokens)} texts are too few to train on some and hold others out")
        batch, length, device = recipe.batch, recipe.length, model.device
        self._batches = Batches(learned, batch, length, seed, device)
        self._unseen = Batches(unseen, batch, length, seed, device).in_order()
        self._every = max(1, recipe.steps // max(1, evaluations))
        with self._seeded(-1):
            prepared = recipe.prepare(model, learned.flat().to(device))
            self.part = recipe.part(model)
        state = self.part.state_dict()
        tensors = {key: value for key, value in prepared.items() if isinstance(value, Tensor)}
        self._prepared = {key: value for key, value in prepared.items() if key not in tensors}
        with torch.no_grad():
            for key, value in tensors.items():
                state[key].copy_(value)
        self._named = {key: value for key, value in self.part.named_parameters() if value.requires_grad}
        self._optimiser = torch.optim.AdamW(self._named.values(), recipe.learning_rate, weight_decay=_DECAY)
        self.step = 0
        self.seconds = 0.0
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
        with self._seeded(self.step), self._autocast():
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
        if self.step % self._every == 0 and self.step < self.recipe.steps:
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

    @torch.no_grad()
    def evaluate(self, texts: int | None = None) -> dict[str, float]:
        """Mean loss and figures of (at most ``texts``) held-out texts, every answer token weighing the same."""
        sums: dict[str, float] = {}
        weight = seen = 0
        self.part.eval()
        for tokens, answer in self._unseen:
            if texts is not None and seen >= texts:
                break
            with self._seeded(-2), self._autocast():
                loss, figures = self.recipe.loss(self.model, self.part, tokens, answer)
            count = int(answer[:, 1:].sum())
            for key, value in {"loss": float(loss), **figures}.items():
                sums[key] = sums.get(key, 0.0) + count * float(value)
            weight, seen = weight + count, seen + len(tokens)
        return {key: value / max(1, weight) for key, value in sums.items()}

    def checkpoint(self, file: Path) -> None:
        """Write part, optimiser and curve as one safetensors file; no pickle."""
        from safetensors.torch import save_file

        tensors = {f"part/{key}": value.detach().cpu().contiguous() for key, value in self.part.state_dict().items()}
        for key, parameter in self._named.items():
            for kind in ("exp_avg", "exp_avg_sq"):
                if parameter in self._optimiser.state:
                    tensors[f"{kind}/{key}"] = self._optimiser.state[parameter][kind].cpu().contiguous()
        facts = {"step": self.step, "seconds": self.seconds, "curve": self.curve, "named": self._identity()}
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        save_file(tensors, scratch, {"state": json.dumps(facts)})
        os.replace(scratch, file)

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
        own = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith("part/")}
        artifacts.fit(self.part, own, file.name)
        for key, parameter in self._named.items():
            if state["step"] > 0:
                try:
                    moments = {kind: tensors[f"{kind}/{key}"].to(parameter) for kind in ("exp_avg", "exp_avg_sq")}
                except KeyError:
                    raise CorruptModel(f"{file.name} lacks the optimiser's state of {key}") from None
                self._optimiser.state[parameter] = {"step": torch.tensor(float(state["step"])), **moments}
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def finish(self, place: Path) -> dict[str, Any]:
        """Write the artefact, look at the held-out texts once more with what was written, and return the card."""
        stored = {key: artifacts.rounded(value) for key, value in self.part.state_dict().items()}
        self.part.load_state_dict(stored)
        result = self.evaluate()
        # A part may keep what the held-out texts showed of it in a buffer.
        stored = {key: artifacts.rounded(value) for key, value in self.part.state_dict().items()}
        self._note("held_out_", self.step, result)
        facts = {
            "model": {"name": self.model.name, "revision": self.model.revision},
            "settings": asdict(self.recipe),
            "paper": self.recipe.paper,
            "seed": self.seed,
            "data": {**self.data.facts, "held_out_texts": int(self.data.held_out.sum())},
            **({"prepared": self._prepared} if self._prepared else {}),
            "steps": self.step,
            "seconds": round(self.seconds, 3),
            "machine": _machine(self.model.device),
            "parameters": sum(value.numel() for value in self._named.values()),
            "result": {f"held_out_{key}": round(value, 5) for key, value in result.items()},
            "curve": _thinned(self.curve),
        }
        return artifacts.save(self.recipe.name, stored, facts, place)

    def _look(self) -> None:
        self._note("held_out_", self.step, self.evaluate(_EVALUATED))

    def _note(self, prefix: str, step: int, figures: dict[str, float]) -> None:
        self.curve[f"{prefix}step"].append(step)
        for key, value in figures.items():
            self.curve.setdefault(prefix + key, []).append(round(float(value), 6))

    def _identity(self) -> dict[str, Any]:
        named = {"recipe": self.recipe.name, "settings": asdict(self.recipe), "seed": self.seed}
        return json.loads(json.dumps({**named, "model": self.model.name, "texts": list(self.data.tokens.shape)}))

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Torch's generator as it is at a step, whatever came before it."""
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(1_000_003 * self.seed + step + 2)
            yield

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        low = self.model.dtype == torch.bfloat16
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=low)


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
