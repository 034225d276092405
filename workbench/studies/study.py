"""A study: runs beside their baseline, paired by prompt, as a table, a report, JSON, and on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench import trace
from workbench.errors import TraceError
from workbench.files import write_atomically
from workbench.metrics import Interval, pareto_front
from workbench.studies.groups import BY, groups, matrices
from workbench.studies.plain import plain
from workbench.studies.remarks import comparable, remarks
from workbench.studies.summary import summarise
from workbench.studies.table import row
from workbench.studies.terminal import lines
from workbench.tasks import question_view


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
        context, None where it was read as one), ``question`` (which of the two it was, in words), the beginning of its
        ``text``, and its ``category`` if it has one."""
        return json.loads(self.tree.attrs["prompts"])

    @property
    def question(self) -> str:
        """Whether caches were compressed before the question or with the question seen."""
        return _view(self.prompts)

    @property
    def partial(self) -> bool:
        """Whether it was stopped before its end."""
        return bool(self.tree.attrs["partial"])

    @property
    def measured(self) -> bool:
        """Whether any recipe was timed on any prompt; not so where it was stopped while it warmed up."""
        return bool(self.tree["timing/seconds"].notnull().any())

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """One row for each run over its prompts; a timing is an :class:`workbench.metrics.Interval`.

        ``new_tokens``, ``forwards``, ``drafted``, ``accepted``, ``flops`` and ``bytes`` are sums; ratios are of sums:
        ``mean_accepted_tokens`` is all tokens of decode steps over all decode steps (the model's own token and the
        accepted ones; 1 without drafts), ``accepted_per_forward`` all accepted drafted tokens over the forwards that
        verified a draft. ``cache_bytes_peak`` is the largest; ``first_divergence`` the earliest, counted from 0;
        ``equal_to_baseline`` and the qualities are means.

        Timings are medians over prompts (of the median of each prompt's repeats) with exact intervals of at least
        95 %, from five prompts on; they say the ``n`` prompts ``of`` all that they come from. A prompt on which a run
        wrote a single token has no speed. ``stopped_early`` counts the prompts on which a run decoded less than half of
        the baseline's tokens. ``prompts_needed`` is how many prompts an interval of the speed-up would need to leave
        out 1, ``prompts_needed_within`` for 5 % on either side (:func:`workbench.metrics.prompts_needed`).

        NaN where nothing is known, or there is nothing: no divergence, no draft.
        """
        return self._summaries()

    def table(self, text: bool = False, by: str | None = None) -> pd.DataFrame:
        """Quality and cost of every run beside the baseline.

        Parameters
        ----------
        text : bool
            For showing: a speed-up with its interval and what it comes from as text, other timings as medians, rather
            than columns of numbers.
        by : {"task", "category"}, optional
            Split by it.

        Returns
        -------
        DataFrame
            One row for each run, or for each group and run. Columns say their units, and whether seconds were measured
            or modelled.

        Raises
        ------
        SettingError
            If ``by`` is something else.
        """
        if by is None:
            return pd.DataFrame([row(run, text) for run in self.summary]).set_index("run")
        rows = [{by: group, **row(run, text)} for group, runs in self.split(by).items() for run in runs]
        return pd.DataFrame(rows, columns=None if rows else [by, "run"]).set_index([by, "run"])

    def split(self, by: str) -> dict[str, list[dict[str, Any]]]:
        """:attr:`summary` of every "task" or "category"; empty where no prompt has one."""
        return {group: self._summaries(places) for group, places in groups(self.prompts, by).items()}

    @property
    def remarks(self) -> list[str]:
        """What to know of the numbers: what intervals rest on, who stopped early, warnings, prompts needed."""
        return remarks(self.tree, self.summary)

    def to_dict(self) -> dict[str, Any]:
        """The study as plain values for JSON: ``runs``, each with :data:`workbench.studies.plain.KEYS`, and where it
        comes from.

        NaN becomes None; each timing has ``median``, ``low``, ``high``, the ``level`` of these bounds, and the ``n``
        prompts ``of`` all that it comes from. ``by_task`` and ``by_category`` hold the runs of each group, ``remarks``
        the sentences of :attr:`remarks`.
        """
        attrs = self.tree.attrs
        about = {key: attrs[key] for key in ("schema", "model", "revision", "dtype", "device", "seed")}
        about |= {"arithmetic": attrs.get("arithmetic", ""), "question": self.question}
        about |= {key: json.loads(attrs[key]) for key in ("recipe", "versions", "prompts")}
        failures = {run["name"]: run["failed"] for run in self.runs if run["failed"] is not None}
        about |= {"partial": self.partial, "failures": failures, "remarks": self.remarks}
        split = {f"by_{by}": {group: plain(runs) for group, runs in self.split(by).items()} for by in BY}
        return {**about, "runs": plain(self.summary), **split}

    def to_json(self, path: str | Path | None = None) -> str:
        """:meth:`to_dict` as JSON text, also written to ``path`` if given."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        if path is not None:
            write_atomically(path, text + "\n")
        return text

    def pareto(self, quality: str = "kl", speed: str = "speedup") -> list[str]:
        """Names of the runs on the front of quality against speed.

        Runs that decoded nothing on more than a tenth of the baseline's prompts (they stopped, failed or were not
        reached), or less than half of its tokens in all, take no part (:func:`workbench.metrics.covers`).

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
        return [run["name"] for run, on in zip(self.runs, pareto_front(*axes, comparable(self.tree))) if on]

    def save_html(
        self, path: str | Path, title: str | None = None, own_figures: Sequence[int | str] | None = None
    ) -> Path:
        """Write the report: table and figures with the settings and versions used, one file that opens offline.

        ``own_figures`` are the runs, by number or name, that have the figures of a single run; the first eight if left
        out.
        """
        from workbench.figures import report

        title = title or f"{len(self.runs)} runs on {self.tree.attrs['model']}"
        split = {f"{what}, by {by}": frame for by in BY for what, frame in matrices(self.split(by)).items()}
        return report(
            self.tree, path, title=title, table=self.table(text=True), remarks=self.remarks, more_tables=split,
            own_figures=own_figures,
        )  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Store it as Zarr (``.zarr``) or netCDF (``.nc``)."""
        return trace.save(self.tree, path)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Read a stored study back, its checksums verified."""
        return cls(trace.open(path))

    def lines(self, by: str | None = None) -> list[str]:
        """The table as plain text for a terminal of 120 columns, with what failed and the remarks below it; then the
        speed-up by "task" or "category" if asked for."""
        frames = matrices(self.split(by)) if by else {}
        split = {f"{title}, by {by} (prompts)": frame for title, frame in frames.items()}
        return lines(self.summary, self.question, self.remarks, split, self.partial)

    def __repr__(self) -> str:
        attrs = self.tree.attrs
        state, many = ", partial" if self.partial else "", "s" * (len(self.prompts) != 1)
        return (
            f"<Study of {len(self.runs)} runs on {len(self.prompts)} prompt{many}: {attrs['model']}, {attrs['dtype']}, "
            f"{attrs['device']}{state}>"
        )

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        from workbench.figures import comparison_html

        return comparison_html(self.table(text=True), repr(self)[1:-1], self.remarks)

    def _summaries(self, prompts: list[int] | None = None) -> list[dict[str, Any]]:
        view = _view(self.prompts if prompts is None else [self.prompts[place] for place in prompts])
        return [
            {**run, "question": view, **summarise(self.tree, place, prompts)} for place, run in enumerate(self.runs)
        ]


def _view(prompts: list[dict[str, Any]]) -> str:
    return question_view(*(each.get("context_tokens") for each in prompts))


_LESS_IS_BETTER = ("kl", "perplexity", "time_to_first_token", "flops", "bytes", "cache_bytes_peak")
