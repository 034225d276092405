"""What the worker does: each job is a function of a :class:`Job` and plain arguments that tells what it finds.

``model`` says what a text is run on, ``columns`` what is new in a race, ``progress`` how far a study has come; the rest
is HTML that the page shows as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import workbench as wb
import workbench.probes
import workbench.techniques
from workbench.registry import PROBES, TECHNIQUES
from workbench.settings import spell
from workbench_app import charts, loaded
from workbench_app.offers import OFFERED
from workbench_app.race import Column, Race
from workbench_app.worker import limits, studies
from workbench_app.worker.columns import News
from workbench_app.worker.job import Job
from workbench_app.worker.recipes import restored

PREFILL_CHUNK = 256  # tokens; between two chunks a long prompt can be cancelled
EVERY = 0.1  # s between two pictures of the texts

MODELS = loaded.Models()
JOBS: dict[str, Callable[..., None]] = {}


def job(function: Callable[..., None]) -> Callable[..., None]:
    """Let the page ask for a function by its name."""
    JOBS[function.__name__] = function
    return function


def get_model(job: Job, name: str, dtype: str) -> Any:
    """A model, loaded first if it is not at hand."""
    if not MODELS.holds(name, dtype):
        with job.phase("loading"):
            MODELS.get(name, dtype)
    model = MODELS.get(name, dtype)
    job.say("holds", models=[[*key, loaded.about(each)] for key, each in MODELS.items()])
    return model


def read(job: Job, model: Any, text: str, chat: bool) -> tuple[list[int], int | None]:
    """Token ids of a prompt and how many are its context, within the limits of :mod:`.limits`."""
    with job.phase("reading"), limits.reading():
        return loaded.parts(model, text, chat)


@job
def offer(job: Job, offers: Sequence[str]) -> None:
    """Know what visitors may name."""
    OFFERED.renew(offers)


@job
def load(job: Job, model: str, dtype: str) -> None:
    """Have a model at hand."""
    get_model(job, model, dtype)


@job
def race(
    job: Job, model: str, dtype: str, prompt: str, chat: bool, recipes: Sequence[Any], options: dict[str, Any]
) -> None:
    """Run recipes side by side on one prompt; the first is the baseline."""
    columns = [Column([restored(item, TECHNIQUES) for item in items]) for items in recipes]
    held = get_model(job, model, dtype)
    ids, context = read(job, held, prompt, chat)
    job.say(
        "model", about=loaded.about(held), cache=wb.tasks.question_view(context), layers=held.layers,
        dtype=str(held.dtype),
    )  # fmt: skip
    run = Race(held, ids, columns, {"prefill_chunk": PREFILL_CHUNK, **options, "context_tokens": context}, job.cancel)
    news, shown_at = News(columns), 0.0
    with closing(run.turns()) as turns:
        for _ in turns:
            if time.monotonic() - shown_at >= EVERY:
                job.say("columns", columns=news.take())
                shown_at = time.monotonic()
    job.say("columns", columns=news.take())


@job
def observe(job: Job, model: str, dtype: str, prompt: str, chat: bool, probes: Sequence[Any], scheme: str) -> None:
    """Let probes ride one forward pass, and draw what they saw."""
    chosen = [restored(item, PROBES) for item in probes]
    held = get_model(job, model, dtype)
    ids, _ = read(job, held, prompt, chat)
    job.say("model", about=loaded.about(held))
    with job.phase("observing"):
        trace = wb.observe(held, ids, chosen, job.cancel)
    if trace is not None and not job.cancel.is_set():
        with job.phase("drawing"):
            job.say("figures", html=charts.figures(trace, scheme=scheme))


@job
def study(
    job: Job, model: str, dtype: str, prompt: str, chat: bool, more: int, repeats: int, recipes: Sequence[Any],
    options: dict[str, Any], scheme: str, files: str,
) -> None:  # fmt: skip
    """Compare recipes properly, and draw and write what came of it."""
    chosen = [[restored(item, TECHNIQUES) for item in items] for items in recipes]
    named = {"+".join(spell(each) for each in techniques): techniques for techniques in chosen}
    prompts = studies.prompts_of(prompt, chat, more)
    held = get_model(job, model, dtype)
    read(job, held, prompt, chat)
    for each in prompts[1:]:
        # Once before the study does it without a limit: a template may mind one prompt and not another.
        read(job, held, each.prompt, each.chat)
    job.say("progress", done=0, total=1, message="warming up")

    def progress(done: int, total: int, message: str) -> None:
        job.say("progress", done=done, total=total, message=message)

    options = {"prefill_chunk": PREFILL_CHUNK, **options}
    made = wb.compare(held, prompts, named, repeats=repeats, progress=progress, cancel=job.cancel, **options)
    if made.partial and not made.measured:
        return  # the page says so, and keeps what it shows of an earlier study
    with job.phase("drawing"):
        job.say("table", html=charts.table(made.table(text=True)))
        figures = charts.figures(made.tree, [run["name"] for run in made.runs], scheme)
        report = studies.write(made, Path(files))
    job.say("study", html=studies.outcome(made), figures=figures, report=str(report))
