"""What is said where memory runs out in the middle of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from workbench.errors import OutOfMemory


@contextlib.contextmanager
def plain_memory_errors() -> Iterator[None]:
    """Let the block raise :class:`OutOfMemory` for whatever torch says where memory ran out."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not ("out of memory" in text or "can't allocate memory" in text):
            raise
        raise OutOfMemory(
            "there is not enough memory for this run: shorten the prompt, prefill in chunks (prefill_chunk=256), "
            "use bfloat16, or take a cache technique"
        ) from error
