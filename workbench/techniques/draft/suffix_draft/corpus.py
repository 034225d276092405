"""A text file that drafts are looked up in."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from workbench.errors import SettingError
from workbench.files import at_home, is_there
from workbench.models import Model
from workbench.models.fingerprint import stamps
from workbench.techniques.draft.suffix_draft.suffix_automaton import SuffixAutomaton
from workbench.tokenizing import token_ids

MOST_TOKENS = 500_000
MOST_BYTES = 8_000_000


def indexed(model: Model, path: str) -> SuffixAutomaton:
    """The text of a file as tokens of ``model``, closed: see :meth:`SuffixAutomaton.closed`.

    It is read and indexed once for as long as the file stays as it is.

    Raises
    ------
    SettingError
        If the model has no tokenizer, or the file is missing, no regular file, larger than :data:`MOST_BYTES` (nothing
        is read then), not text in UTF-8, or of more than :data:`MOST_TOKENS` tokens.
    """
    if model.tokenizer is None:
        raise SettingError(f"{model.name} has no tokenizer, so no corpus can be read for it: leave corpus empty")
    file = at_home(path)
    if not (is_there(file) and file.is_file()):
        raise SettingError(f"there is no text file {path!r}: name one as corpus, or leave corpus empty")
    return _indexed(model.tokenizer, file.resolve(), stamps(file.resolve()))


@functools.lru_cache(maxsize=2)
def _indexed(tokenizer: Any, file: Path, _: tuple) -> SuffixAutomaton:
    tokens = token_ids(tokenizer, _text(file), start=False)
    if len(tokens) > MOST_TOKENS:
        raise SettingError(
            f"the corpus {file.name} has {len(tokens):,} tokens, more than the {MOST_TOKENS:,} indexed at most: name a "
            "shorter one"
        )
    return SuffixAutomaton.closed(tokens)


def _text(file: Path) -> str:
    try:
        # Some files do not say how large they are.
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1) if file.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        raise SettingError(f"the corpus {file.name} cannot be read: {error.strerror}") from error
    if content is None or len(content) > MOST_BYTES:
        raise SettingError(f"the corpus {file.name} is larger than {MOST_BYTES:,} bytes: name a smaller one")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingError(
            f"the corpus {file.name} is not text in UTF-8 (byte {error.start:,} is none): convert it first"
        ) from None
