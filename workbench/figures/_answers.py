"""Prompts and answers as HTML: every character escaped, every step shaded by what its tokens cost."""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np
import xarray as xr

from workbench.figures._runs import each_token, group, labels, runs
from workbench.figures._text import visible
from workbench.trace import words

LEVELS = 7
SPANS = 60_000  # shaded steps in a page; after so many, answers are plain
_LETTERS = 20_000  # of a prompt


def prompt_text(text: str) -> str:
    """A prompt, or plain answer, as escaped HTML; what is hidden in it is spelled out."""
    cut = len(text) - _LETTERS
    more = f"\n… {cut:,} more characters" if cut > 0 else ""
    return f"<pre>{_safe(text[:_LETTERS])}{more}</pre>"


def _safe(text: str) -> str:
    return html.escape(visible(text, spaces=False).replace("⏎", "⏎\n") if text else "", quote=True)


def answers(tree: xr.DataTree) -> str:
    """All prompts with the answer of every run, folded.

    Shading goes by the measured seconds for each token of a step, in seven levels between the quantiles of the whole
    study; the prefill is not shaded. Accepted drafts are underlined. Hovering gives the step's facts.

    Parameters
    ----------
    tree : DataTree
        With ``text`` and ``steps``.
    """
    text, steps = group(tree, "text"), group(tree, "steps")
    prompts = json.loads(tree.attrs.get("prompts", "[]")) or [{}] * text.sizes["prompt"]
    read = words(tree)
    seconds = each_token(steps, "seconds").values
    decode = seconds[..., 1:]
    decode = decode[np.isfinite(decode)]
    edges = np.quantile(decode, np.linspace(0, 1, LEVELS + 1)[1:-1]) if len(decode) else np.zeros(LEVELS - 1)
    spans, folded = 0, []
    for number, prompt in enumerate(prompts):
        parts = [str(prompt[key]) for key in ("id", "task") if prompt.get(key) not in (None, "")]
        name = " · ".join(parts) or f"prompt {number}"
        inside = []
        if isinstance(asked := prompt.get("text"), str):
            inside.append(f"<h3>Prompt</h3>{prompt_text(asked)}")
        for run, label in enumerate(labels(tree)):
            here = text.isel(run=run, prompt=number)
            made = here["id"].values
            made = made[made >= 0]
            spans += len(made)
            if not len(made):
                body = f"<p>{html.escape(_why_none(runs(tree)[run], prompt))}</p>"
            elif spans > SPANS:
                body = prompt_text("".join(read(here)))
            else:
                facts = steps.isel(run=run, prompt=number)
                body = f"<pre>{_shaded(here, read(here), facts, seconds[run, number], edges)}</pre>"
            inside.append(f"<h3>{html.escape(label)}</h3>{body}")
        opened, name = " open" if number == 0 else "", html.escape(visible(name, spaces=False))
        folded.append(f"<details{opened}><summary>{name}</summary>{''.join(inside)}</details>")
    legend = "".join(f'<span class="c{level}">&nbsp;{level}&nbsp;</span>' for level in range(1, LEVELS + 1))
    note = (
        f"Shading: measured milliseconds for each token, in seven equal parts of all steps ({legend}; "
        f"from {1e3 * edges[0]:.3g} ms in the second to {1e3 * edges[-1]:.3g} ms in the last). "
        "Underlined: drafted and accepted. Not shaded: the prefill."
    )
    return f"<h2>Prompts and answers</h2>\n<p>{note}</p>\n" + "\n".join(folded)


def _why_none(run: dict[str, Any], prompt: dict[str, Any]) -> str:
    if prompt.get("id") in (run.get("failed_prompts") or ()):
        return f"No answer: {visible(str(run.get('failed')), spaces=False)}"
    return "No answer: it was not reached."


def _shaded(text: xr.Dataset, made: list[str], steps: xr.Dataset, seconds: np.ndarray, edges: np.ndarray) -> str:
    step = text["step"].values[: len(made)].astype(int)
    draft = text["accepted_draft"].values[: len(made)] == 1
    breaks = [i for i in range(len(made)) if i == 0 or step[i] != step[i - 1] or draft[i] != draft[i - 1]]
    facts = {name: steps[name].values for name in ("tokens", "drafted", "accepted", "layers", "keys_read", "seconds")}
    pieces = []
    for start, end in zip(breaks, [*breaks[1:], len(made)], strict=True):
        at = int(step[start])
        level = int(np.searchsorted(edges, seconds[at], side="left")) + 1 if at > 0 and np.isfinite(seconds[at]) else 0
        kinds = [f"c{level}"] * (level > 0) + ["draft"] * bool(draft[start])
        title = (
            f"step {at}: {facts['tokens'][at]:.0f} tokens in {1e3 * facts['seconds'][at]:.3g} ms, accepted "
            f"{facts['accepted'][at]:.0f} of {facts['drafted'][at]:.0f} drafted, {facts['layers'][at]:.0f} layers, "
            f"{facts['keys_read'][at]:.4g} keys read"
        )
        name = f' class="{" ".join(kinds)}"' if kinds else ""
        words_here = "".join(made[start:end])
        pieces.append(f'<span{name} title="{title}">{_safe(words_here)}</span>')
    return "".join(pieces)
