"""Whether the keys and values of a long prompt have room, before they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from workbench.errors import PromptError

RUNS = 3
"""Caches side by side: the baseline's and one for either column."""


def cache_bytes(model: Any, tokens: int) -> int:
    """Bytes that the keys and values of so many tokens take in one run that keeps them all."""
    size = torch.empty((), dtype=model.dtype).element_size()
    return sum(2 * block.kv_heads * block.head_dim * size * tokens for block in model.anatomy.blocks)


def free_bytes(model: Any) -> int | None:
    """Memory that is free where the model is; None where the system does not say."""
    if model.device.type == "cuda":
        return torch.cuda.mem_get_info(model.device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def check_memory(model: Any, tokens: int) -> None:
    """Refuse a prompt whose keys and values cannot be kept.

    Raises
    ------
    PromptError
    """
    needed, free = RUNS * cache_bytes(model, tokens), free_bytes(model)
    if free is not None and needed > free:
        raise PromptError(
            f"The keys and values of {tokens:,} tokens take {needed / RUNS / 1e9:.2g} GB in each of {RUNS} runs, and "
            f"{free / 1e9:.2g} GB are free: shorten the prompt, or take bfloat16 or a smaller model."
        )
