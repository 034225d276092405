"""The text that trained parts learn from: what the model itself writes on the project's training prompts.

A part that foresees a model's tokens must learn from that model's own text (self-distillation), so every prompt is
answered by the model, once greedily and a few times by chance, and the prompts' own text, licensed extracts of real
pages and code, is continued by it without any chat template. A tenth of the prompts is held out, with all their texts.

Source: sequence-level distillation from the model's own generations, Kim and Rush, 2016, arXiv 1606.07947; answers of
the model itself for draft heads: Cai et al., Medusa, 2024, arXiv 2401.10774.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CorruptModel, SettingError
from workbench.models import Model
from workbench.models.bundled import cache_folder
from workbench.models.weight_files import read_safetensors
from workbench.tasks import encode_prompt, training_prompts

Progress = Callable[[int, int, str], None]


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
        At most this many prompts; None takes all.
    seed : int
    """

    sampled: int = 3
    continued: int = 2
    temperature: float = 0.7
    new_tokens: int = 256
    length: int = 768
    held_out: float = 0.1
    prompts: int | None = None
    seed: int = 0


@dataclass(eq=False)
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
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"tokens": self.tokens, "answer": self.answer, "lengths": self.lengths, "held_out": self.held_out}
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, scratch, {"facts": json.dumps(self.facts)})
        os.replace(scratch, path)

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


def training_data(
    model: Model,
    settings: DataSettings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> TrainingData:
    """The training text of a model, written by it on first use and kept in the user's cache folder.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    settings : DataSettings, optional
    progress : callable, optional
        ``progress(done, total, message)``.
    cancel : Event, optional
        Once set, nothing more is written and KeyboardInterrupt is raised.

    Raises
    ------
    SettingError
        If the model has no tokenizer.
    """
    settings = settings or DataSettings()
    if model.tokenizer is None:
        raise SettingError(f"{model.name} has no tokenizer, so it cannot write training text")
    prompts = training_prompts(limit=settings.prompts)
    asked = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
    bare = [model.tokenizer(prompt.prompt)["input_ids"] for prompt in prompts]
    named = [model.name, model.revision, str(model.dtype), asdict(settings), asked]
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
    path = cache_folder() / "training" / f"text-{key}.safetensors"
    if path.is_file():
        return TrainingData.read(path)
    data = write_texts(model, asked, bare, settings, progress, cancel)
    data.facts |= {
        "sources": "workbench.tasks.training_prompts, answered and continued by the model itself",
        "prompts": len(prompts),
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": asdict(settings),
    }
    data.save(path)
    return data


def write_texts(
    model: Model,
    asked: Sequence[Sequence[int]],
    bare: Sequence[Sequence[int]],
    settings: DataSettings,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> TrainingData:
    """Let a model answer and continue token ids.

    Parameters
    ----------
    model : Model
    asked : sequence of token ids
        Prompts to be answered.
    bare : sequence of token ids
        For each prompt the text that is cut and continued.
    settings, progress, cancel
        As for :func:`training_data`.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    count = len(asked)
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[torch.randperm(count, generator=generator)[: round(settings.held_out * count)]] = True
    jobs: list[tuple[int, list[int], bool]] = []
    for place in range(count):
        jobs += [(place, list(asked[place]), sampled > 0) for sampled in range(1 + settings.sampled)]
        for continued in range(settings.continued):
            if len(bare[place]) > 1:
                share = 0.1 + 0.8 * float(torch.rand((), generator=generator))
                cut = max(1, round(share * len(bare[place])))
                jobs.append((place, list(bare[place][:cut]), continued % 2 > 0))
    jobs = [(place, start[-(settings.length - 1) :], chance) for place, start, chance in jobs]
    written = _write(model, jobs, settings, progress, cancel)
    tokens = torch.full((len(jobs), settings.length), max(model.stop_tokens, default=0), dtype=torch.int32)
    answer = torch.zeros(tokens.shape, dtype=torch.bool)
    lengths = torch.zeros(len(jobs), dtype=torch.int32)
    for row, ((_, start, _), said) in enumerate(zip(jobs, written)):
        text = (start + said)[-settings.length :]
        tokens[row, : len(text)] = torch.tensor(text, dtype=torch.int32)
        answer[row, len(text) - len(said) : len(text)] = True
        lengths[row] = len(text)
    facts = {"texts": len(jobs), "tokens": int(lengths.sum()), "answer_tokens": int(answer.sum())}
    return TrainingData(tokens, answer, lengths, held_out[[place for place, _, _ in jobs]], facts)


def _write(
    model: Model,
    jobs: Sequence[tuple[int, list[int], bool]],
    settings: DataSettings,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> list[list[int]]:
    """What the model says after the start of every job, up to a stop token, that one included."""
    size = 1024 if model.device.type == "cuda" else 32
    written: list[list[int]] = [[] for _ in jobs]
    done = 0
    for chance in (False, True):
        # Starts of similar length go together, so that little of a batch is padding.
        places = sorted((p for p, job in enumerate(jobs) if job[2] == chance), key=lambda p: len(jobs[p][1]))
        for first in range(0, len(places), size):
            if cancel is not None and cancel.is_set():
                raise KeyboardInterrupt
            group = places[first : first + size]
            said = _continue(model, [jobs[place][1] for place in group], settings, chance, settings.seed + done)
            for place, tokens in zip(group, said):
                written[place] = tokens
            done += len(group)
            if progress is not None:
                progress(done, len(jobs), "texts written")
    return written


def _continue(
    model: Model, starts: list[list[int]], settings: DataSettings, chance: bool, seed: int
) -> list[list[int]]:
    from transformers import GenerationConfig

    ends = list(model.stop_tokens)
    filler = ends[0] if ends else 0
    width = max(map(len, starts))
    tokens = torch.full((len(starts), width), filler)
    mask = torch.zeros(tokens.shape, dtype=torch.int64)
    for row, start in enumerate(starts):
        tokens[row, width - len(start) :] = torch.tensor(start)
        mask[row, width - len(start) :] = 1
    new = min(settings.new_tokens, model.anatomy.positions - width)
    law = {"do_sample": True, "temperature": settings.temperature, "top_k": 0} if chance else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=new, eos_token_id=ends or None, pad_token_id=filler, **law)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode():
        torch.manual_seed(seed)
        out = model.hf.generate(
            tokens.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )[:, width:].tolist()
    stopped = []
    for row in out:
        place = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        stopped.append(row[: place + 1])
    return stopped
