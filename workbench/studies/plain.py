"""Summaries as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.metrics import Interval
from workbench.studies.summary import TIMINGS

KEYS = (
    "name",
    "technique",
    "exact_declared",
    "question",
    "equal_to_baseline",
    "first_divergence",
    "prompts",
    "new_tokens",
    "stopped_early",
    "forwards",
    "mean_accepted_tokens",
    "accepted_per_forward",
    "layers_per_token",
    "keys_kept",
    "cache_bytes_peak",
    "flops",
    "bytes",
    *TIMINGS,
    "prompts_needed",
    "kl",
    "top1_agreement",
    "rouge_l",
)
"""Keys of every run in the JSON, stable."""
_WHOLE = ("first_divergence", "prompts_needed", "new_tokens", "forwards", "cache_bytes_peak", "flops", "bytes")


def plain(summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The keys :data:`KEYS` of every run; None for what is not known or not finite."""
    return [{key: _plain(key, run[key]) for key in KEYS} for run in summaries]


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _plain("", getattr(value, name)) for name in ("median", "low", "high", "level", "n", "of")}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if key == "equal_to_baseline":
        return value == 1.0
    return int(value) if key in _WHOLE else value
