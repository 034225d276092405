"""The one table of facts: what each is called, where it comes from, and how every table and trace shows it.

Traces (groups ``steps`` and ``scores``), :attr:`workbench.Study.summary`, the study's table and the terminal's are made
from its rows, each in the order of the rows. A new fact of :class:`workbench.engine.step.Step` is its field there and
one row here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.engine.step import Step


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes
    ----------
    name : str
        In traces and summaries; of a step also the field it is read from, unless ``of_step`` says otherwise.
    units, long_name : str
        As an axis says them; ``run_name`` is the long name over a run, where that is another.
    step : {"", "whole", "real"}
        Whether the group ``steps`` has it, as int32 padded with -1 or as float64 padded with NaN.
    of_step : callable, optional
        The value of a step.
    of_run : callable, optional
        The value of a run's steps, which makes it a variable of the group ``scores``.
    judged : bool
        Whether it is a score that a study gives a run, from more than its own steps.
    over_prompts : callable, optional
        The summary's value over prompts, NaN left out; :func:`workbench.studies.summary.summarise` has the formulas of
        the others.
    part : {"text", "counts", "quality"}
        Where its column stands.
    column : str
        Heading in the study's table; none if empty.
    unit : float
        Of the column, in the summary's units: 1e9 for GFLOP.
    per_token : bool
        Whether the column is of decode steps, for each token that they decoded: ``<name>_per_token`` of the summary.
    brief : (str, str, callable), optional
        Column of the terminal's table: two lines of heading, and the text of a summary.
    """

    name: str
    units: str = ""
    long_name: str = ""
    step: str = ""
    of_step: Callable[[Step], Any] | None = None
    of_run: Callable[[Sequence[Step]], float] | None = None
    run_name: str = ""
    judged: bool = False
    over_prompts: Callable[[np.ndarray], Any] | None = None
    part: str = "counts"
    column: str = ""
    unit: float = 1.0
    per_token: bool = False
    brief: tuple[str, str, Callable[[dict[str, Any]], str]] | None = None

    def value(self, step: Step) -> Any:
        """Of one step."""
        return getattr(step, self.name) if self.of_step is None else self.of_step(step)

    def cell(self, summary: dict[str, Any]) -> Any:
        """Of a run, in the study's table."""
        value = summary[f"{self.name}_per_token" if self.per_token else self.name]
        return value if self.unit == 1.0 else value / self.unit


def mean(values: Sequence[float]) -> float:
    """Mean of a sequence; NaN of an empty one."""
    return float(np.mean(values)) if len(values) else float("nan")


def total(name: str, decode: bool = False) -> Callable[[Sequence[Step]], float]:
    """Sum of a field over steps; of decode steps alone, as far as there are any, if asked for."""

    def of_run(steps: Sequence[Step]) -> float:
        return sum(getattr(step, name) for step in (decoded(steps) or steps if decode else steps))

    return of_run


def decoded(steps: Sequence[Step]) -> list[Step]:
    """The decode steps."""
    return [step for step in steps if step.phase == "decode"]


def new_tokens(steps: Sequence[Step]) -> int:
    """Tokens produced."""
    return sum(len(step.tokens) for step in steps)


def mean_accepted_tokens(steps: Sequence[Step]) -> float:
    """Tokens of decode steps over their number, so the token that the model adds to each accepted draft counts and the
    prefill does not: 1 without drafts, as in EAGLE (Li et al., 2024, arXiv 2401.15077) and Spec-Bench (Xia et al.,
    2024, arXiv 2401.07851); NaN without a decode step."""
    return mean([len(step.tokens) for step in decoded(steps)])


def accepted_per_forward(steps: Sequence[Step]) -> float:
    """Accepted drafted tokens over the forwards of the steps that verified a draft; NaN where there was none."""
    verified = sum(step.forwards for step in decoded(steps) if step.drafted)
    return sum(step.accepted for step in steps) / verified if verified else float("nan")


def layers_per_token(steps: Sequence[Step]) -> float:
    """Sequential layer passes over tokens, NaN where there are none."""
    count = new_tokens(steps)
    return sum(len(step.layers) for step in steps) / count if count else float("nan")


def keys_read(steps: Sequence[Step]) -> float:
    """Mean over decode steps and layers; over the prefill where there is nothing else."""
    return mean([keys for step in decoded(steps) or steps for keys in step.keys_read])


def number(value: float, form: str, nothing: str = "-") -> str:
    """A number as text."""
    return nothing if math.isnan(value) else form.format(value)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else "yes" if value == 1 else "no" if value == 0 else f"{100 * value:.0f} %"


def _brief(name: str, form: str, *headings: str, nothing: str = "-", unit: float = 1.0) -> Any:
    return *headings, lambda run: number(run[name] / unit, form, nothing)


FACTS: tuple[Fact, ...] = (
    Fact("tokens", "tokens", "tokens produced", "whole", lambda step: len(step.tokens)),
    Fact("new_tokens", "tokens", "tokens produced", of_run=new_tokens, over_prompts=np.nansum, column="new tokens",
         brief=("new", "tokens", lambda run: number(run["new_tokens"], "{:.0f}") + "*" * bool(run["stopped_early"]))),
    Fact("forwards", "forwards", "forwards of the model, prefill included", of_run=total("forwards"),
         over_prompts=np.nansum),
    Fact("drafted", "tokens", "tokens drafted", "whole", of_run=total("drafted"), over_prompts=np.nansum),
    Fact("accepted", "tokens", "drafted tokens kept", "whole", of_run=total("accepted"), over_prompts=np.nansum),
    Fact("mean_accepted_tokens", "tokens", "tokens for each decode step, the model's own included",
         of_run=mean_accepted_tokens, column="mean accepted tokens",
         brief=_brief("mean_accepted_tokens", "{:.2f}", "tokens", "/step")),
    Fact("accepted_per_forward", "tokens", "drafted tokens kept for each forward that verified a draft",
         of_run=accepted_per_forward, column="accepted/verifying forward [tokens]"),
    Fact("layers", "layers", "sequential layer passes", "whole", lambda step: len(step.layers)),
    Fact("layers_per_token", "layers", "sequential layer passes for each new token", of_run=layers_per_token,
         column="layers/token", brief=_brief("layers_per_token", "{:.1f}", "layers", "/token")),
    Fact("question", column="cache"),
    Fact("keys_read", "keys", "keys read by a query, mean over layers", "real", lambda step: mean(step.keys_read)),
    Fact("keys_kept", "keys", "keys in the cache, mean over layers", "real", lambda step: mean(step.keys_kept),
         of_run=lambda steps: mean(steps[-1].keys_kept) if steps else float("nan"),
         run_name="keys in the cache at the end, mean over layers", over_prompts=np.nanmean, column="keys kept"),
    Fact("keys_read", "keys", "keys read by a query while decoding, mean over layers", of_run=keys_read,
         over_prompts=np.nanmean),
    Fact("forwards", "forwards", "forwards of the model", "whole"),
    Fact("seconds", "s", "wall clock, measured", "real"),
    Fact("draft_seconds", "s", "wall clock of drafting, measured", "real"),
    Fact("verify_seconds", "s", "wall clock of the forward, measured", "real"),
    Fact("cache_bytes_peak", "bytes", "most bytes allocated for the cache",
         of_run=lambda steps: max((step.cache_bytes for step in steps), default=0), over_prompts=np.nanmax,
         column="peak cache [MB]", unit=1e6, brief=_brief("cache_bytes_peak", "{:.3g}", "cache", "MB", unit=1e6)),
    Fact("flops", "FLOP", "floating-point operations, counted", "real", of_run=total("flops"), over_prompts=np.nansum,
         column="counted GFLOP/decoded token", unit=1e9, per_token=True),
    Fact("bytes", "bytes", "weights and cache read and written, counted", "real", of_run=total("bytes"),
         over_prompts=np.nansum, column="counted GB/decoded token", unit=1e9, per_token=True),
    Fact("policy_flops", "FLOP", "operations of policies, counted", "real", of_run=total("policy_flops"),
         over_prompts=np.nansum),
    Fact("policy_bytes", "bytes", "bytes read and written by policies, counted", "real", of_run=total("policy_bytes"),
         over_prompts=np.nansum),
    Fact("policy_seconds", "s", "wall clock of policies, measured", "real", of_run=total("policy_seconds"),
         over_prompts=np.nansum),
    Fact("draft_seconds", "s", "wall clock of drafting, measured", of_run=total("draft_seconds")),
    Fact("verify_seconds", "s", "wall clock of the forwards of decode steps, measured",
         of_run=total("verify_seconds", decode=True)),
    Fact("decode_seconds", "s", "wall clock of decode steps, measured", of_run=total("seconds", decode=True)),
    Fact("cache_bytes", "bytes", "bytes allocated for the cache", "real"),
    Fact("entropy", "nats", "entropy of the next-token distribution", "real",
         lambda step: np.nan if step.entropy is None else step.entropy),
    Fact("equal_to_baseline", "1", "whether the text equals the baseline's", judged=True, over_prompts=np.nanmean,
         part="text", column="equal to baseline [share]",
         brief=("same", "text", lambda run: _share(run["equal_to_baseline"]))),
    Fact("first_divergence", "token", "first token that differs from the baseline's, counted from 0; NaN for none",
         judged=True, over_prompts=np.nanmin, part="text", column="first divergence [token, from 0]",
         brief=_brief("first_divergence", "{:.0f}", "parts", "at", nothing="")),
    Fact("flips", "1", "whether an exact recipe parted from the baseline in half precision", judged=True,
         over_prompts=np.nansum, part="text", column="flips in half precision"),
    Fact("flip_margin", "logit", "lead of the baseline's best token where the texts part", judged=True,
         over_prompts=np.nanmax, part="text", column="largest flip margin [logit]"),
    Fact("kl", "nats", "KL(baseline || run) along the baseline's text, mean over tokens", judged=True,
         over_prompts=np.nanmean, part="quality", column="KL [nats]",
         brief=("KL", "nats", lambda run: number(run["kl"], "{:.1g}" if run["kl"] < 0.01 else "{:.2g}"))),
    Fact("top1_agreement", "1", "share of equal best tokens along the baseline's text", judged=True,
         over_prompts=np.nanmean, part="quality", column="top-1 agreement",
         brief=_brief("top1_agreement", "{:.2f}", "top-1", "")),
    Fact("perplexity", "1", "perplexity of the baseline's text", judged=True, over_prompts=np.nanmean, part="quality",
         column="perplexity"),
    Fact("rouge_l", "1", "ROUGE-L of the text against the baseline's", judged=True, over_prompts=np.nanmean,
         part="quality", column="ROUGE-L"),
    Fact("score", "1", "the task's own score", judged=True, over_prompts=np.nanmean, part="quality",
         column="task score"),
)  # fmt: skip
"""Every fact; where a step's and a run's have different names they are two rows."""

OF_STEP = tuple(fact for fact in FACTS if fact.step)
OF_RUN = tuple(fact for fact in FACTS if fact.of_run)
SCORES: dict[str, tuple[str, str]] = {
    fact.name: (fact.units, fact.run_name or fact.long_name) for fact in FACTS if fact.of_run or fact.judged
}
"""Variable of the group ``scores`` -> units and long name."""


def columns(part: str) -> tuple[Fact, ...]:
    """Facts with a column in one part of the study's table."""
    return tuple(fact for fact in FACTS if fact.part == part and fact.column)


def briefs(part: str) -> tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...]:
    """Columns in one part of the terminal's table."""
    return tuple(fact.brief for fact in FACTS if fact.part == part and fact.brief)
