"""Text that layers, exits and parts are judged on before a run, and how far that is.

None of it is what anything is compared on: it is the project's prompts to train on, or a file of one's own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import islice, zip_longest

import torch

from workbench.errors import SettingError
from workbench.files import at_home, is_there
from workbench.models import Model

LENGTH = 128
"""Most tokens of a text."""

Tick = Callable[[], None]


def calibration_texts(model: Model, count: int, source: str = "") -> list[list[int]]:
    """Token ids of ``count`` texts of at most :data:`LENGTH` tokens.

    Parameters
    ----------
    model : Model
    count : int
    source : str
        Path of a text in UTF-8, of which the first pieces are taken. By default the project's prompts to train on, one
        task after the other in turn, which are none of those that anything is compared on. A model without a tokenizer
        gets tokens drawn with a fixed seed.

    Raises
    ------
    SettingError
        If there is no such text, or no piece of it is two tokens long.
    """
    length = min(LENGTH, model.anatomy.positions)
    if model.tokenizer is None:
        return _drawn(model, count, length)
    if not source:
        return [model.tokenizer(text)["input_ids"][:length] for text in islice(_prompts(), count)]
    path = at_home(source)
    if not (is_there(path) and path.is_file()):
        raise SettingError(f"there is no text {source!r:.80}: name a file in UTF-8")
    try:
        tokens = model.tokenizer(path.read_text("utf-8"))["input_ids"]
    except (UnicodeDecodeError, OSError) as error:
        raise SettingError(f"{path.name} cannot be read as a text in UTF-8: name another file") from error
    pieces = [tokens[place : place + length] for place in range(0, len(tokens), length)]
    found = [piece for piece in pieces if len(piece) > 1][:count]
    if not found:
        raise SettingError(f"{path.name} has no two tokens to judge layers on: name a longer text")
    return found


def calibration_prompts(model: Model, count: int, longest: int) -> list[list[int]]:
    """Token ids of ``count`` whole prompts of at most ``longest`` tokens, in the model's chat format, for it to answer.

    They are the project's prompts to train on, of all tasks in turn; a model without a tokenizer gets tokens drawn with
    a fixed seed.
    """
    if model.tokenizer is None:
        return _drawn(model, count, min(LENGTH, longest))
    found = (model.encode(model.chat(text)) for text in _prompts())
    return list(islice((ids for ids in found if len(ids) <= longest), count))


def told(total: int, who: str, what: str = "trials", every: float = 5.0) -> Tick:
    """Called after each of ``total``, it says on standard error how far they are, every so many seconds."""
    done, last = 0, time.monotonic()

    def tick() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > every:
            last = time.monotonic()
            print(f"{who}: {done:,} of {total:,} {what}", file=sys.stderr, flush=True)

    return tick


def _drawn(model: Model, count: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.anatomy.vocabulary, (count, max(1, length // 2)), generator=generator).tolist()


def _prompts() -> Iterator[str]:
    """The prompts to train on, a line each, of all tasks in turn."""
    folder = files("workbench_data").joinpath("prompts", "training")
    tasks = sorted((each for each in folder.iterdir() if each.name.endswith(".jsonl")), key=lambda each: each.name)
    for turn in zip_longest(*(each.read_text("utf-8").splitlines() for each in tasks)):
        yield from (json.loads(line)["prompt"] for line in turn if line)
