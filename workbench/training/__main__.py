"""Training where little is installed: ``python -m workbench.training NAME``, without the shell's own libraries.

``python -m workbench.training data --out FILE`` writes the training text alone, for every recipe to read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any, get_args

from workbench.errors import WorkbenchError
from workbench.models import load
from workbench.models.bundled import BUNDLED
from workbench.settings import build
from workbench.training import RECIPES, DataSettings, train, training_data
from workbench.training.optimiser import Optimiser, check


def main(arguments: list[str] | None = None) -> int:
    """Run one training, or write the training text; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.training", description=__doc__)
    parser.add_argument("name", help=f"data, or one of: {', '.join(RECIPES)}")
    parser.add_argument("--model", default="smollm2-135m", help="a bundled name, a Hugging Face id, or a folder")
    parser.add_argument("--name", dest="called", help="the bundled model that the folder of --model holds")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device")
    parser.add_argument("--data", type=Path, help="training text written before")
    parser.add_argument("--out", type=Path, help="a folder; of data, the file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; repeatable")
    parser.add_argument("--optimiser", choices=get_args(Optimiser), default="adamw")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    cancel = threading.Event()

    def stop(*_: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)
    try:
        return _run(options, cancel)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace, cancel: threading.Event) -> int:
    given = pairs(options.set)
    # A wrong setting is said before the model is loaded.
    settings = build_data(given) if options.name == "data" else build(RECIPES[options.name], given)
    check(options.optimiser)
    model = load(options.model, options.dtype, options.device)
    if options.called:
        known = BUNDLED.get(options.called)
        revision = model.revision if known is None else known.revision
        model = dataclasses.replace(model, name=options.called, revision=revision)
    if options.name == "data":
        data = training_data(model, settings, say, cancel)
        if options.out:
            data.save(options.out)
        print(json.dumps(data.facts, indent=1))
        return 0
    card = train(
        options.name, model, options.out, options.data, options.resume, options.seed,
        optimiser=options.optimiser, progress=say, cancel=cancel, **given,
    )  # fmt: skip
    if card is None:
        print("stopped; go on with --resume", file=sys.stderr)
        return 130
    print(json.dumps({key: value for key, value in card.items() if key != "curve"}, indent=1))
    return 0


def pairs(given: list[str]) -> dict[str, str]:
    """``key=value`` texts as a dictionary; SettingError if one is none."""
    from workbench.errors import SettingError

    settings = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"{text!r} is not key=value")
        settings[key.strip()] = value.strip()
    return settings


def build_data(given: dict[str, str]) -> DataSettings:
    """Settings of the training text from texts; SettingError if one does not fit."""
    from pydantic import TypeAdapter, ValidationError

    from workbench.errors import SettingError

    known: dict[str, Any] = {field.name: field for field in dataclasses.fields(DataSettings)}
    for key in given:
        if key not in known:
            raise SettingError(f"the training text has no setting {key!r}; it has: {', '.join(sorted(known))}")
    try:
        return TypeAdapter(DataSettings).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingError(f"{first['loc'][0]}={first['input']!r} is not allowed: {first['msg']}") from error


def say(done: int, total: int, message: str) -> None:
    """One line for about every twentieth part."""
    if done == total or done % max(1, total // 20) == 0 or message.startswith("texts"):
        print(f"[{done}/{total}] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
