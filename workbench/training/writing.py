"""The text that trained parts learn from, written by the model itself.

A part that foresees a model's tokens must learn from that model's own text (self-distillation), so every prompt is
answered by the model, once greedily and a few times by chance, and the prompts' own text, licensed extracts of real
pages and code, is continued by it without any chat template. A tenth of the prompts is held out, with all their texts;
prompts that share a page or a question's wording are held out together or not at all.

Source: sequence-level distillation from the model's own generations, Kim and Rush, 2016, arXiv 1606.07947; answers of
the model itself for draft heads: Cai et al., Medusa, 2024, arXiv 2401.10774; questions that an aligned model asks where
its chat template lets the user speak: Xu et al., Magpie, 2024, arXiv 2406.08464.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from workbench import artifacts
from workbench.errors import SettingError
from workbench.models import Model, fingerprint
from workbench.models.bundled import BUNDLED, cache_folder
from workbench.tasks import encode_prompt, load_prompts, shared_pages, training_prompts
from workbench.training.data import DataSettings, TrainingData

Progress = Callable[[int, int, str], None]

_QUESTION = 64  # most tokens of a prompt that the model asks itself


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
    prompts = [] if settings.prompts == 0 else training_prompts(limit=settings.prompts)
    asked = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
    bare = [list(model.tokenizer(prompt.prompt)["input_ids"]) for prompt in prompts]
    groups = shared_pages(prompts)
    named = [model.name, model.revision, str(model.dtype), asdict(settings), asked, groups]
    # A local folder, or a branch on the hub, is not always the same model.
    named += [] if model.name in BUNDLED else [fingerprint.of_model(model)]
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
    path = cache_folder() / "training" / f"text-{key}.safetensors"
    if path.is_file():
        return TrainingData.read(path)
    for whole, question in ask(model, settings, progress, cancel):
        groups.append(len(groups))
        asked.append(whole)
        bare.append(question)
    data = write_texts(model, asked, bare, settings, progress, cancel, groups)
    sources = [f"{len(prompts)} of workbench.tasks.training_prompts"] if prompts else []
    sources += [f"{len(asked) - len(prompts)} that the model asked itself"] if settings.asked else []
    data.facts |= {
        "sources": f"prompts ({' and '.join(sources)}), answered and continued by the model itself",
        "prompts": len(asked),
        "held_out_by": "groups of prompts that share a page or a wording",
        "model": artifacts.name_of(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": asdict(settings),
    }
    data.save(path)
    return data


def evaluation_data(model: Model, every: int = 7, settings: DataSettings | None = None) -> TrainingData:
    """Texts on every so-manieth of the prompts that techniques are compared on (:func:`workbench.tasks.load_prompts`),
    of which none shares a page with a training prompt: a greedy answer and one drawn by chance to each.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    every : int
    settings : DataSettings, optional
        Those that say how texts are written.
    """
    settings = settings or DataSettings(sampled=1, continued=0, new_tokens=160)
    prompts = load_prompts("all")[::every]
    asked = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
    data = write_texts(model, asked, asked, settings)
    data.facts |= {"sources": f"{len(prompts)} of workbench.tasks.load_prompts, answered by the model itself"}
    return data


def write_texts(
    model: Model,
    asked: Sequence[Sequence[int]],
    bare: Sequence[Sequence[int]],
    settings: DataSettings,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    groups: Sequence[int] | None = None,
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
    groups : sequence of int, optional
        The group of each prompt; one group's prompts are held out together. By default each is its own.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    count = len(asked)
    groups = range(count) if groups is None else groups
    held_out = hold_out(groups, settings.held_out, generator)
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
    for row, ((_, start, _), continuation) in enumerate(zip(jobs, written)):
        text = (start + continuation)[-settings.length :]
        tokens[row, : len(text)] = torch.tensor(text, dtype=torch.int32)
        answer[row, len(text) - len(continuation) : len(text)] = True
        lengths[row] = len(text)
    facts = {
        "texts": len(jobs),
        "tokens": int(lengths.sum()),
        "answer_tokens": int(answer.sum()),
        "groups": len(set(groups)),
    }
    return TrainingData(tokens, answer, lengths, held_out[[place for place, _, _ in jobs]], facts)


def hold_out(groups: Sequence[int], share: float, generator: torch.Generator) -> Tensor:
    """Which of the prompts are held out, bool [prompts]: whole groups in an order drawn by chance, each that still fits
    into ``share`` of the prompts."""
    named = torch.tensor(list(groups), dtype=torch.int64)
    chosen = torch.zeros(len(named), dtype=torch.bool)
    distinct = named.unique()
    for place in torch.randperm(len(distinct), generator=generator).tolist():
        group = named == distinct[place]
        if int(chosen.sum()) + int(group.sum()) <= round(share * len(named)):
            chosen |= group
    return chosen


def ask(
    model: Model, settings: DataSettings, progress: Progress | None = None, cancel: threading.Event | None = None
) -> list[tuple[list[int], list[int]]]:
    """Prompts that the model asks itself, drawn at temperature 1: with the template's tokens around them, and bare.

    Parameters
    ----------
    model : Model
        With a tokenizer. It speaks where its chat template lets the user speak; one without a template begins a text.
    settings, progress, cancel
        As for :func:`training_data`. A question longer than 64 tokens is cut; equal ones are kept once.
    """
    before, after = _user_turn(model)
    wanted = replace(settings, new_tokens=_QUESTION, temperature=1.0)
    asked = _write(model, [(0, before, True)] * settings.asked, wanted, progress, cancel) if settings.asked else []
    stops = set(model.stop_tokens)
    questions = dict.fromkeys(tuple(token for token in question if token not in stops) for question in asked)
    return [([*before, *question, *after], list(question)) for question in questions if question]


def _user_turn(model: Model) -> tuple[list[int], list[int]]:
    """The chat template's tokens before and after what the user says."""
    if getattr(model.tokenizer, "chat_template", None) is None:
        return [max(model.stop_tokens, default=0)], []
    mark = "QUESTION"
    before, after = model.chat(mark).split(mark)
    return tuple(list(model.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, after))


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
            texts = _continue(model, [jobs[place][1] for place in group], settings, chance, settings.seed + done)
            for place, tokens in zip(group, texts):
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
    sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": 0} if chance else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=new, eos_token_id=ends or None, pad_token_id=filler, **sampling)
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
