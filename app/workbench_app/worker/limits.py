"""What a stranger's tokenizer and chat template may use while they read a prompt.

A template is a program, if one in a sandbox: it can count to any number and multiply strings. Its time is limited from
outside (:data:`READING_SECONDS`), as a process that never comes back cannot be asked; its memory from inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import PromptError

READING_SECONDS = 20.0
"""A prompt of the longest kind is read in less than one; the rest is for a busy machine."""
READING_BYTES = 1 << 30
"""A prompt of the longest kind takes some megabytes."""


@contextlib.contextmanager
def reading(most: int = READING_BYTES) -> Iterator[None]:
    """Let the block take at most so many more bytes, where the system can be told so (Linux).

    Raises
    ------
    PromptError
        If it wants more.
    """
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + most
    resource.setrlimit(resource.RLIMIT_AS, (wanted if before[1] < 0 else min(wanted, before[1]), before[1]))
    try:
        yield
    except MemoryError:
        raise PromptError(
            f"Reading the prompt took more than {most / 1e9:.0f} GB: look at the model's chat template and tokenizer."
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
