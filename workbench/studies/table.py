"""One run of a study as a row of its table."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.metrics.intervals import spell_interval
from workbench.metrics.sample_size import spell_count
from workbench.studies.summary import WITHIN


def row(run: dict[str, Any], text: bool) -> dict[str, Any]:
    """The columns of :meth:`workbench.Study.table` from a run's summary.

    Parameters
    ----------
    run : dict
    text : bool
        For showing: a speed-up with its interval in one column, other timings as medians, counts of prompts as words.
    """
    speed, early = run["speedup"], run["stopped_early"]
    found = {
        "run": run["name"],
        "technique": run["technique"] + (" (simulated)" if run["simulated"] else ""),
        "exact declared": run["exact_declared"],
        "equal to baseline [share]": run["equal_to_baseline"],
        "first divergence [token, from 0]": run["first_divergence"],
        "flips in half precision": run["flips"],
        "largest flip margin [logit]": run["flip_margin"],
        "new tokens": run["new_tokens"],
        "mean accepted tokens": run["mean_accepted_tokens"],
        "accepted/verifying forward [tokens]": run["accepted_per_forward"],
        "layers/token": run["layers_per_token"],
        "cache": run["question"],
        "keys kept": run["keys_kept"],
        "peak cache [MB]": run["cache_bytes_peak"] / 1e6,
        "counted GFLOP/decoded token": run["flops_per_token"] / 1e9,
        "counted GB/decoded token": run["bytes_per_token"] / 1e9,
    }
    if text:
        written = "" if np.isnan(run["new_tokens"]) else f"{run['new_tokens']:.0f}"
        found["new tokens"] = written + (f", stopped early on {early}" if early else "")
    else:
        found["stopped early [prompts]"] = early
    for key, name, scale in (
        ("tokens_per_second", "measured tokens/s", 1),
        ("speedup", "measured speed-up", 1),
        ("time_to_first_token", "measured time to first token [ms]", 1e3),
    ):
        found[name] = scale * run[key].median
        if not text:
            found |= {f"{name}, low": scale * run[key].low, f"{name}, high": scale * run[key].high}
    if text:
        found["measured speed-up"] = spell_interval(speed)
        found["measured on [prompts]"] = f"{speed.n} of {speed.of}"
    else:
        found |= {"measured on [prompts]": speed.n, "of prompts": speed.of, "level of the interval": speed.level}
    for key, name in (("prompts_needed", "without 1"), ("prompts_needed_within", f"of ±{100 * WITHIN:.0f} %")):
        found[f"prompts for an interval {name}"] = spell_count(run[key]) if text else run[key]
    found |= {
        "KL [nats]": run["kl"],
        "top-1 agreement": run["top1_agreement"],
        "perplexity": run["perplexity"],
        "ROUGE-L": run["rouge_l"],
        "task score": run["score"],
    }
    found |= {f"modelled speed-up, {name}": value for name, value in run["modelled"].items()}
    return found | {"failed": run["failed"] or ""}
