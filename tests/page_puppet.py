"""A technique as somebody's new file would register it: it says what it is told to, and breaks as it is told to.

The page's process and the worker's each run this file. How often it was asked, the worker notes in a file that
``PUPPET_LOG`` names.
"""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from workbench.settings import settings
from workbench.techniques import Technique, register

MARKUP = "<img src=x onerror=window.pwned=1></script>${window.pwned=1}{{7*7}}"
FORCED = f"forced {MARKUP}"


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust."""


def fault(kind):
    """End as a library might."""
    if kind == "error":
        raise RuntimeError("a secret that belongs into the log")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "panic":
        raise PanicException("called `Option::unwrap()` on a `None` value")
    if kind == "crash":
        ctypes.string_at(0)
    if kind == "abort":
        os.abort()
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hangs":
        time.sleep(3600)


class Sayer:
    """Policy that says a text, then ends, slowly if told so; and one that ends with a fault."""

    def __init__(self, technique, run):
        self.technique = technique
        self.words = run.model.tokenizer(technique.text)["input_ids"]
        self.start = len(run.prompt)

    def adjust(self, tokens, logits):
        done = len(tokens) - self.start
        if "PUPPET_LOG" in os.environ:
            with open(os.environ["PUPPET_LOG"], "a") as log:
                log.write(".")
        if self.technique.fails:
            fault("error")
        if done >= self.technique.after:
            fault(self.technique.ending)
        if self.technique.delay:
            time.sleep(self.technique.delay)
        if done < len(self.words):
            logits = logits.clone().fill_(-100.0)
            logits[self.words[done]] = 100.0
        return logits

    def stop(self, generated):
        return self.technique.mode == "short" and len(generated) >= len(self.words)


@register
@settings
class Puppet(Technique):
    """Says what it is told to."""

    text: Annotated[str, Field(min_length=1, max_length=400, description="what it says")] = FORCED
    delay: Annotated[float, Field(ge=0.0, le=1.0, description="pause before every token [s]")] = 0.0
    weight: Annotated[int, Field(ge=0, description="an unbounded whole number")] = 7
    depth: Annotated[int | None, Field(ge=1, description="a number that may be none")] = None
    fails: Annotated[bool, Field(description="whether it raises")] = False
    mode: Annotated[Literal["short", "long"], Field(description="whether it ends with its text")] = "short"
    ending: Annotated[
        Literal["none", "exit", "panic", "crash", "abort", "killed", "hangs"], Field(description="how its process ends")
    ] = "none"
    after: Annotated[int, Field(ge=0, le=999, description="tokens before that")] = 2

    slots = ("logits", "stop")
    exact = False
    stepwise = True
    paper = "None, a puppet for tests, 2026"

    def start(self, run):
        return Sayer(self, run)

    @classmethod
    def neutral(cls):
        return cls()


def calls():
    """How often it was asked so far."""
    log = Path(os.environ["PUPPET_LOG"])
    return log.stat().st_size if log.exists() else 0
