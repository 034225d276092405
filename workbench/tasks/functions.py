"""Functions of the Python standard library: some to train on, read where Python runs, and others to judge by.

Source: the standard library of CPython, copyright 2001-2023 Python Software Foundation (PSF-2.0). What is trained on is
read from the interpreter that runs this and is not copied, so it differs a little from one version of Python to the
next. What is held out comes from other modules and is a file, the same everywhere.
"""

from __future__ import annotations

import ast
import importlib.util
import textwrap
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from workbench.errors import PromptError
from workbench.tasks.prompt_file import parse_prompts
from workbench.tasks.prompts import Prompt, prompt_of

__all__ = ["LEARNED_MODULES", "functions_of", "held_out_functions", "learned_functions"]

LEARNED_MODULES = (
    "argparse", "ast", "base64", "bdb", "cProfile", "code", "compileall", "contextlib", "copy", "csv", "dataclasses",
    "dis", "doctest", "email.utils", "filecmp", "fractions", "functools", "getopt", "gettext", "glob", "gzip", "html",
    "ipaddress", "linecache", "locale", "logging", "mimetypes", "pdb", "pickle", "pickletools", "pkgutil", "platform",
    "plistlib", "pprint", "profile", "pyclbr", "pydoc", "quopri", "reprlib", "secrets", "smtplib", "socket", "ssl",
    "subprocess", "symtable", "tarfile", "tempfile", "timeit", "tokenize", "trace", "traceback", "types", "typing",
    "urllib.parse", "urllib.request", "uuid", "warnings", "webbrowser", "zipapp",
)  # fmt: skip
"""Modules that may be trained on; what is held out, and the prompts of `load_prompts`, are of others."""

_LINES = 6, 45


def learned_functions(modules: Iterable[str] = LEARNED_MODULES) -> list[tuple[str, str]]:
    """Functions and methods of modules of the running Python: the module of each, and its text.

    Parameters
    ----------
    modules
        Those that this Python lacks, or has without their source, are passed over.

    Raises
    ------
    PromptError
        There is no source of any.
    """
    found = [(module, text) for module in modules for _, text in functions_of(module)]
    if not found:
        raise PromptError("this Python has no source of its standard library: install one that has, or give other text")
    return found


def functions_of(module: str) -> Iterator[tuple[str, str]]:
    """Name and text of every function and method of a module that is neither very short nor very long, in the order of
    the file and moved to the left margin."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return
    if spec is None or not (spec.origin or "").endswith(".py") or not Path(spec.origin).is_file():
        return
    source = Path(spec.origin).read_text(encoding="utf-8")
    lines, known = source.splitlines(keepends=True), set()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if _LINES[0] <= node.end_lineno - node.lineno < _LINES[1]:
            text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
            if text not in known:
                yield node.name, text
            known.add(text)


def held_out_functions(limit: int | None = None) -> list[Prompt]:
    """Functions of other modules, cut near the middle of their bodies; the reference is the true rest.

    Parameters
    ----------
    limit
        At most this many, evenly spread.

    Raises
    ------
    PromptError
        `limit` is not positive.
    """
    if limit is not None and limit < 1:
        raise PromptError(f"limit must be 1 or more, not {limit}")
    place = files("workbench_data").joinpath("prompts", "functions", "held_out.jsonl")
    prompts = parse_prompts(place.read_text(encoding="utf-8"), "functions/held_out", prompt_of)
    kept = min(len(prompts), limit or len(prompts))
    return [prompts[number * len(prompts) // kept] for number in range(kept)]
