"""A study: runs beside their baseline, paired by prompt, as a table, a report, JSON, and on disk."""

from __future__ import annotations

import html
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench import trace
from workbench.errors import TraceError
from workbench.metrics.intervals import Interval, bootstrap_median
from workbench.studies.pareto import pareto_front
from workbench.tasks import QUESTION_SEEN

TIMINGS = ("tokens_per_second", "speedup", "time_to_first_token")
KEYS = (
    "name",
    "technique",
    "exact_declared",
    "equal_to_baseline",
    "first_divergence",
    "new_tokens",
    "forwards",
    "accepted_per_forward",
    "layers_per_token",
    "keys_kept",
    "cache_bytes_peak",
    "flops",
    "bytes",
    *TIMINGS,
    "kl",
    "top1_agreement",
    "rouge_l",
)
"""Keys of every run in the JSON, stable."""


class Study:
    """Runs stacked along ``run`` and paired by ``prompt``; :mod:`workbench.studies.tree` says what the tree holds.

    Parameters
    ----------
    tree : xarray.DataTree
        Of kind ``study``.

    Raises
    ------
    TraceError
        If it is none.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        if trace.check(tree).attrs["kind"] != "study":
            raise TraceError(f"a trace of kind {tree.attrs['kind']!r} is no study")
        self.tree = tree

    @property
    def runs(self) -> list[dict[str, Any]]:
        """For every run its ``name``, ``technique``, ``exact_declared``, ``simulated``, ``failed`` and
        ``failed_prompts``."""
        return json.loads(self.tree.attrs["runs"])

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """For every prompt its ``id``, ``task``, ``tokens`` (how many), ``context_tokens`` (how many of them are its
        context, None where it was read as one), ``question`` (which of the two it was, in words) and the beginning of
        its ``text``."""
        return json.loads(self.tree.attrs["prompts"])

    @property
    def question(self) -> str:
        """Whether caches were compressed before the question or with the question seen."""
        return self.tree.attrs.get("question", QUESTION_SEEN)

    @property
    def partial(self) -> bool:
        """Whether it was stopped before its end."""
        return bool(self.tree.attrs["partial"])

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """One row for each run over its prompts; a timing is an :class:`workbench.metrics.Interval`.

        ``new_tokens``, ``forwards``, ``drafted``, ``accepted``, ``flops`` and ``bytes`` are sums; ratios are of sums;
        ``cache_bytes_peak`` is the largest; ``first_divergence`` the earliest, -1 where all texts are equal;
        ``equal_to_baseline`` and the qualities are means. Timings are medians over prompts and repeats with 95 %
        bootstrap intervals. NaN where nothing is known.
        """
        return [{**run, **self._summary(place)} for place, run in enumerate(self.runs)]

    def table(self, text: bool = False) -> pd.DataFrame:
        """Quality and cost of every run beside the baseline.

        Parameters
        ----------
        text : bool
            Intervals as text in one column, for showing, rather than in three columns of numbers.

        Returns
        -------
        DataFrame
            One row for each run. Columns say their units, and whether seconds were measured or modelled.
        """
        table = pd.DataFrame([_row(run, text) for run in self.summary]).set_index("run")
        table.insert(table.columns.get_loc("keys kept"), "cache", self.question)
        return table

    def to_dict(self) -> dict[str, Any]:
        """The study as plain values for JSON: ``runs`` with the keys :data:`KEYS`, and where it comes from.

        NaN becomes None, an infinite divergence the text ``"inf"``; each timing has ``median``, ``low`` and ``high``.
        """
        attrs = self.tree.attrs
        about = {key: attrs[key] for key in ("schema", "model", "revision", "dtype", "device", "seed")}
        about |= {key: json.loads(attrs[key]) for key in ("recipe", "versions", "prompts")}
        failures = {run["name"]: run["failed"] for run in self.runs if run["failed"] is not None}
        runs = [{key: _plain(key, run[key]) for key in KEYS} for run in self.summary]
        about["question"] = self.question
        return {**about, "partial": self.partial, "failures": failures, "runs": runs}

    def to_json(self, path: str | Path | None = None) -> str:
        """:meth:`to_dict` as JSON text, also written to ``path`` if given."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def pareto(self, quality: str = "kl", speed: str = "speedup") -> list[str]:
        """Names of the runs on the front of quality against speed.

        Parameters
        ----------
        quality, speed : str
            Keys of :attr:`summary`. Of ``kl``, ``perplexity``, ``time_to_first_token``, ``flops``, ``bytes`` and
            ``cache_bytes_peak`` less is better, of all others more.
        """
        axes = []
        for key in (quality, speed):
            values = [run[key].median if isinstance(run[key], Interval) else run[key] for run in self.summary]
            axes.append(np.array(values, dtype=float) * (-1 if key in _LESS_IS_BETTER else 1))
        return [run["name"] for run, on in zip(self.runs, pareto_front(*axes)) if on]

    def save_html(self, path: str | Path, title: str | None = None) -> Path:
        """Write the report: table and figures with the settings and versions used, one file that opens offline."""
        from workbench.figures import report

        title = title or f"{len(self.runs)} runs on {self.tree.attrs['model']}"
        return report(self.tree, path, title=title, table=self.table(text=True))

    def save(self, path: str | Path) -> Path:
        """Store it as Zarr (``.zarr``) or netCDF (``.nc``)."""
        return trace.save(self.tree, path)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Read a stored study back, its checksums verified."""
        return cls(trace.open(path))

    def lines(self) -> list[str]:
        """The table as plain text for a terminal of 120 columns, with what failed below it."""
        from workbench.studies.terminal import lines

        return lines(self)

    def __repr__(self) -> str:
        attrs = self.tree.attrs
        state = ", partial" if self.partial else ""
        return (
            f"<Study of {len(self.runs)} runs on {len(self.prompts)} prompts: {attrs['model']}, {attrs['dtype']}, "
            f"{attrs['device']}{state}>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.table(text=True).to_html(escape=True, na_rep='')}"

    def _decoded(self, place: int, name: str) -> float:
        """Counts after the first token, for each token after it."""
        steps = self.tree["steps"].isel(run=place, step=slice(1, None))
        tokens = float(steps["tokens"].clip(min=0).sum())
        return float(steps[name].sum()) / tokens if tokens else np.nan

    def _summary(self, place: int) -> dict[str, Any]:
        scores = {name: array.values[place] for name, array in self.tree["scores"].data_vars.items()}
        total = {name: _known(np.nansum, scores[name]) for name in _SUMS}
        forwards, tokens = total["forwards"], total["new_tokens"]
        layers = _known(np.nansum, scores["layers_per_token"] * scores["new_tokens"])
        parted = scores["first_divergence"][scores["first_divergence"] >= 0]
        equal = _known(np.nanmean, scores["equal_to_baseline"])
        timing = self.tree["timing"]
        return {
            **total,
            **{name: _known(np.nanmean, scores[name]) for name in _MEANS},
            **{f"{name}_per_token": self._decoded(place, name) for name in ("flops", "bytes")},
            **{name: bootstrap_median(timing[name].values[place]) for name in TIMINGS},
            "accepted_per_forward": total["accepted"] / forwards if forwards else np.nan,
            "layers_per_token": layers / tokens if tokens else np.nan,
            "cache_bytes_peak": _known(np.nanmax, scores["cache_bytes_peak"]),
            "flip_margin": _known(np.nanmax, scores["flip_margin"]),
            "equal_to_baseline": equal,
            "first_divergence": float(parted.min()) if len(parted) else (np.nan if np.isnan(equal) else -1.0),
            "modelled": {
                name: _known(np.nanmedian, self.tree["modelled/speedup"].values[place, :, number])
                for number, name in enumerate(json.loads(self.tree.attrs["hardware"]))
            },
        }


_SUMS = ("new_tokens", "forwards", "drafted", "accepted", "flops", "bytes", "flips")
_MEANS = ("keys_kept", "keys_read", "kl", "top1_agreement", "perplexity", "rouge_l", "score")
_LESS_IS_BETTER = ("kl", "perplexity", "time_to_first_token", "flops", "bytes", "cache_bytes_peak")
_WHOLE = ("first_divergence", "new_tokens", "forwards", "cache_bytes_peak", "flops", "bytes")


def _known(statistic: Any, values: np.ndarray) -> float:
    """A statistic that ignores NaN; NaN, without a warning, where there is nothing else."""
    return np.nan if np.isnan(values).all() else float(statistic(values))


def _row(run: dict[str, Any], text: bool) -> dict[str, Any]:
    tokens = run["new_tokens"]
    row = {
        "run": run["name"],
        "technique": run["technique"] + (" (simulated)" if run["simulated"] else ""),
        "exact declared": run["exact_declared"],
        "equal to baseline [share]": run["equal_to_baseline"],
        "first divergence [token]": run["first_divergence"],
        "flips in half precision": run["flips"],
        "largest flip margin [logit]": run["flip_margin"],
        "new tokens": tokens,
        "accepted/forward [tokens]": run["accepted_per_forward"],
        "layers/token": run["layers_per_token"],
        "keys kept": run["keys_kept"],
        "peak cache [MB]": run["cache_bytes_peak"] / 1e6,
        "counted GFLOP/decoded token": run["flops_per_token"] / 1e9,
        "counted GB/decoded token": run["bytes_per_token"] / 1e9,
    }
    for key, name, scale in (
        ("tokens_per_second", "measured tokens/s", 1),
        ("speedup", "measured speed-up", 1),
        ("time_to_first_token", "measured time to first token [ms]", 1e3),
    ):
        bounds = [scale * value for value in (run[key].median, run[key].low, run[key].high)]
        if text:
            row[name] = "{:.4g} [{:.4g}, {:.4g}]".format(*bounds) if not np.isnan(bounds[0]) else ""
        else:
            row |= dict(zip((name, f"{name}, low", f"{name}, high"), bounds))
    row |= {
        "KL [nats]": run["kl"],
        "top-1 agreement": run["top1_agreement"],
        "perplexity": run["perplexity"],
        "ROUGE-L": run["rouge_l"],
        "task score": run["score"],
    }
    row |= {f"modelled speed-up, {name}": value for name, value in run["modelled"].items()}
    return row | {"failed": run["failed"] or ""}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _plain("", getattr(value, name)) for name in ("median", "low", "high")}
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, float) and np.isinf(value):
        return "inf"  # a recipe that gives no chance to a token that the baseline could say
    if key == "equal_to_baseline":
        return value == 1.0
    return int(value) if key in _WHOLE else value
