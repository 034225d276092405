"""A column of text as HTML: every token coloured by what it cost, with live numbers and the badge of equality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.studies.fact_table import mean
from workbench.studies.facts import speed, sums
from workbench_app.plain import safe
from workbench_app.race import Column, Race, first_difference

COLOURS = {"time per token": "time", "layers": "layers", "keys read": "keys", "accepted draft": "draft"}
"""What tokens can be coloured by -> its short name in the style sheet."""


@dataclass(frozen=True)
class Scale:
    """What full colour stands for, the same for all columns so that they can be compared."""

    time: float  # ms
    layers: float
    keys: float


def scale(columns: Sequence[Column], layers: int) -> Scale:
    """The scale of a race; without the prefill and the slowest twentieth of the steps, which would pale the rest."""
    steps = [step for column in columns for step in column.steps[1:]]
    times = sorted(1e3 * step.seconds / max(len(step.tokens), 1) for step in steps) or [1.0]
    keys = max((mean(step.keys_read) for step in steps if step.keys_read), default=1.0)
    return Scale(times[int(0.95 * (len(times) - 1))] or 1.0, float(layers), keys or 1.0)


def column_html(column: Column, race: Race, title: str) -> str:
    """The whole column.

    Parameters
    ----------
    column : Column
    race : Race
        That it belongs to.
    title : str
        Of the column.
    """
    full = scale(race.columns, race.model.layers)
    return (
        f'<section class="answer" data-state="{column.state}">'
        f"<header><b>{safe(title)}</b><code>{safe(column.name)}</code></header>"
        f'<div class="badges">{badges(column, race)}</div>'
        f'<dl class="numbers">{numbers(column, race.baseline)}</dl>'
        f'<div class="text" tabindex="0" aria-label="{safe(title)}: text">{tokens_html(column, full)}</div>'
        f"{legend(full)}</section>"
    )


def tokens_html(column: Column, full: Scale) -> str:
    """Every token as a span that carries its costs as style variables, and says them when pointed at."""
    spans, place = [], 0
    for step in column.steps:
        count = max(len(step.tokens), 1)
        time, layers = 1e3 * step.seconds / count, len(step.layers) / count
        keys = mean(step.keys_read) if step.keys_read else 0.0
        for number in range(len(step.tokens)):
            drafted = number < step.accepted
            hint = (
                f"token {place}, step {step.index} ({step.phase}) of {count} token{'s' * (count > 1)}: "
                f"{time:.1f} ms, {layers:.3g} layers per token, {keys:.0f} keys read"
                f"{', accepted draft' if drafted else ''}, {step.model}"
            )
            style = (
                f"--time:{min(time / full.time, 1):.3f};--layers:{min(layers / full.layers, 1):.3f};"
                f"--keys:{min(keys / full.keys, 1):.3f};--draft:{int(drafted)}"
            )
            mark = ' data-draft="1"' if drafted else ""
            spans.append(
                f'<span class="token" style="{style}"{mark} title="{safe(hint)}">{safe(column.pieces[place])}</span>'
            )
            place += 1
    return "".join(spans) or '<span class="note">nothing yet</span>'


def legend(full: Scale) -> str:
    """What the colours mean, one line for each way of colouring; the style sheet shows the chosen one."""
    lines = {
        "time": f"0 to {full.time:.3g} ms per token (the first token includes the prompt)",
        "layers": f"0 to {full.layers:.0f} layers per token",
        "keys": f"0 to {full.keys:.0f} keys read per query, mean over layers",
        "draft": "tokens that came from an accepted draft",
    }
    rows = (f'<span data-of="{name}"><i></i>{safe(text)}</span>' for name, text in lines.items())
    return f'<footer class="legend">{"".join(rows)}<span class="dotted">dotted: accepted draft</span></footer>'


def badges(column: Column, race: Race) -> str:
    """Equality with the baseline, what is declared, and whether the text is whole."""
    badges = []
    if column is race.baseline:
        badges.append(("plain", "the baseline"))
    else:
        badges += [equality(column, race), ("plain", "declared exact" if column.exact else "declared approximate")]
    if column.state == "partial":
        badges.append(("warning", f"partial: cancelled after {len(column.tokens)} tokens"))
    if column.state == "failed":
        badges.append(("bad", f"failed: {column.problem}"))
    if column.state in ("running", "waiting"):
        badges.append(("plain", column.state))
    return "".join(f'<span class="badge {kind}">{safe(text)}</span>' for kind, text in badges)


def equality(column: Column, race: Race) -> tuple[str, str]:
    """Kind and text of the badge that holds a column against the baseline's tokens of the same run."""
    baseline = race.baseline
    finished = column.state == "done" and baseline.state == "done"
    place = first_difference(column.tokens, baseline.tokens, finished)
    if place is None:
        shared = min(len(column.tokens), len(baseline.tokens))
        if finished:
            return "good", "equal to baseline"
        return "plain", f"equal so far ({shared} tokens)" if shared else "not compared yet"
    text = f"diverges at token {place}, counted from 0"
    if not column.exact:
        return "warning", text
    if race.options["temperature"] > 0:
        return "plain", f"{text}; sampled, so only the distribution is promised"
    if str(race.model.dtype) != "torch.float32":
        return "warning", f"{text}; exact is promised in float32, a near tie may flip in half precision"
    return "bad", f"{text}, although declared exact"


def numbers(column: Column, baseline: Column) -> str:
    """Live numbers of a column, as the pairs of a description list.

    Speed is decoding, after the first token, here as everywhere: the prefill shows in the time to the first token. It
    is that of one run on one prompt, so it has no interval.
    """
    total, (rate, first) = sums(column.steps), speed(column.steps)
    against = rate / speed(baseline.steps)[0]
    shown: list[tuple[str, Any]] = [
        ("tokens", f"{total['new_tokens']}"),
        ("decoding, measured", _known(rate, "{:.1f} tokens/s")),
        ("against baseline", _known(against, "{:.2f}x")),
        ("time to first token", _known(1e3 * first, "{:.0f} ms")),
        ("mean accepted tokens", _known(total["mean_accepted_tokens"], "{:.2f}")),
        ("layers per token", f"{total['layers_per_token']:.3g}" if total["new_tokens"] else "-"),
        ("keys kept", f"{total['keys_kept']:.0f}" if column.steps else "-"),
        ("cache", f"{total['cache_bytes_peak'] / 1e6:.1f} MB" if column.steps else "-"),
    ]
    return "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in shown)


def _known(value: float, form: str) -> str:
    return "-" if value != value else form.format(value)
