"""Recipes side by side on the same prompts: timed in turns, held against the baseline, and never stopped by one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from workbench.cost.hardware import Hardware, hardware_table
from workbench.engine.arguments import tokens_of
from workbench.errors import WorkbenchError
from workbench.models import Model, fingerprint
from workbench.studies.cases import Case, cases
from workbench.studies.cells import NAN, Cell, Cells
from workbench.studies.contents import changed
from workbench.studies.plan import BASELINE, Plan, named_recipes, validate
from workbench.studies.quality import Forced
from workbench.studies.run import run
from workbench.studies.study import Study
from workbench.studies.tree import build_tree

Progress = Callable[[int, int, str], None]


def compare(
    model: Model,
    prompts: Iterable[Any],
    recipes: Mapping[str, Sequence[Any] | str],
    max_new_tokens: int = 64,
    repeats: int = 2,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    quality: bool = True,
    stop_tokens: Sequence[int] | None = None,
    hardware: Sequence[str | Hardware] | None = None,
    folder: str | Path | None = None,
    prefill_chunk: int | None = None,
    compiled: bool = False,
    context_tokens: int | Literal["marked"] | None = "marked",
    stop_text: str | Sequence[str] = (),
    min_new_tokens: int = 0,
) -> Study:
    """Run recipes on prompts beside the baseline.

    After a warm-up, every repeat of a prompt runs all recipes in turns (A B C, then B C A, …). A speed-up is the
    baseline's seconds per decoded token over a run's, in the same prompt and repeat; the prefill shows in the time to
    the first token. Quality is teacher-forced along the
    baseline's own text, free-running against it, and by the task's own score where a prompt has a reference.

    Parameters
    ----------
    model : Model
    prompts : iterable
        See :func:`workbench.studies.cases.cases`: texts, token ids, task prompts or tables.
    recipes : mapping of str to sequence of Technique
        Or to a specification such as ``"prompt_lookup:ngram=3+snap_kv"``. ``baseline``, the empty recipe, is always run
        and comes first.
    max_new_tokens, temperature, top_p, top_k, seed, stop_tokens, prefill_chunk, compiled, stop_text, min_new_tokens
        See :func:`workbench.generate`.
    repeats : int
        Timed generations of every recipe on every prompt.
    progress : callable, optional
        ``progress(done, total, message)`` after every generation and every teacher-forced pass.
    cancel : threading.Event, optional
        Once set, the study ends within one token and holds what was finished, labelled partial.
    quality : bool
        Whether to run the teacher-forced view.
    hardware : sequence of str or Hardware, optional
        What to model seconds on; by default all that is known, this CPU measured first. ``()`` models nothing.
    folder : path, optional
        Keeps every finished recipe and prompt there, and takes from there what an earlier call with the same settings
        finished. Where some recipes are new, the baseline is timed again beside them. What names stand for is part of
        the settings, by content: the model's weights, its tokenizer, draft models, trained parts, corpora, the code
        of a technique's own module and the workbench's version. Where it changed the result is computed anew, which
        progress and remarks say.
    context_tokens : int, "marked" or None
        What of every prompt is context, compressed before the question is read (see :func:`workbench.generate`):
        ``"marked"`` takes what the prompt itself marks (``context`` in a prompts file; a needle's haystack) and reads
        prompts without a mark as one; a number is for all prompts; None reads every prompt as one, so that a cache
        technique sees the question before it evicts. The study's table, report and JSON say which it was.

    Returns
    -------
    Study

    Raises
    ------
    PromptError, SettingError, IncompatibleTechniques
        Before anything runs.

    Notes
    -----
    A recipe that fails on a prompt (NumericalError, OutOfMemory, any other) is marked so with its message, and the
    others go on.
    """
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop_tokens": None if stop_tokens is None else list(tokens_of("stop_tokens", stop_tokens)),
        "prefill_chunk": prefill_chunk,
        "compiled": compiled,
        "stop_text": [stop_text] if isinstance(stop_text, str) else list(stop_text),
        "min_new_tokens": min_new_tokens,
    }
    plan = Plan(model, cases(model, prompts, context_tokens), named_recipes(recipes), options, repeats, quality)
    validate(plan, hardware)
    cells = Cells(folder)
    if folder is not None:
        fingerprint.forget(model)
    plan.hardware = hardware_table(hardware, str(model.dtype).removeprefix("torch."))
    work = _Work(plan, cells, progress, cancel)
    made = work.results()
    return Study(build_tree(plan, made, cancel is not None and cancel.is_set(), work.renewed))


class _Work:
    """The runs of a plan, in turns."""

    def __init__(self, plan: Plan, cells: Cells, progress: Progress | None, cancel: threading.Event | None) -> None:
        self.plan, self.cells, self.cancel = plan, cells, cancel
        self._progress = progress or (lambda done, total, message: None)
        self._per_recipe = plan.repeats + int(plan.quality)
        self._total = len(plan.recipes) * len(plan.cases) * self._per_recipe
        self._done = 0
        self.renewed: Counter[str] = Counter()

    @property
    def cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()

    def results(self) -> dict[str, list[Cell]]:
        """A cell for every recipe and prompt; those that were not reached are empty."""
        plan = self.plan
        made = {name: [Cell.empty(plan.repeats) for _ in plan.cases] for name in plan.recipes}
        warm = False
        for place, case in enumerate(plan.cases):
            missing = []
            for name in plan.recipes:
                kept = self.cells.get(plan.hash(name, case))
                if kept is not None and (kept.quality is not None or not plan.quality):
                    made[name][place] = kept
                    self._tick(self._per_recipe, f"{name} · {case.id} · kept from before")
                else:
                    missing.append(name)
                    self._note_other_content(name, case)
            if not missing or self.cancelled:
                continue
            if not warm:
                warm = True
                self._warm_up(case, missing)
            for name, cell in self._prompt(place, case, missing).items():
                if name in missing:
                    made[name][place] = cell
        return made

    def _note_other_content(self, name: str, case: Case) -> None:
        """What changed since a result was kept under the same names, if one was."""
        plan = self.plan
        before = self.cells.content_of_other(plan.hash(name, case))
        if before is not None:
            changes = changed(before, plan.content(name), plan.model, plan.recipes[name])
            self.renewed.update(changes)
            self._tick(0, f"{name} · {case.id} · computed anew: {', '.join(changes)} changed")

    def _warm_up(self, case: Case, names: Sequence[str]) -> None:
        """A few tokens of every recipe, so that nothing is compiled, loaded or paged in on the clock. What fails here
        fails again in its own turn, and is reported there."""
        for name in dict.fromkeys([BASELINE, *names]):
            if not self.cancelled:
                self._attempt(name, case, Cell.empty(1), 0, min(8, self.plan.options["max_new_tokens"]))

    def _prompt(self, place: int, case: Case, missing: Sequence[str]) -> dict[str, Cell]:
        plan = self.plan
        names = list(dict.fromkeys([BASELINE, *missing]))
        cells = {name: Cell.empty(plan.repeats) for name in names}
        # The first forward of a new length is slower than the next; nobody's clock shall bear it.
        self._attempt(BASELINE, case, Cell.empty(1), 0, 1)
        for repeat in range(plan.repeats):
            for name in plan.order(names, place, repeat):
                if cells[name].failed is None and not self.cancelled:
                    self._attempt(name, case, cells[name], repeat)
                if name in missing:
                    self._tick(1, f"{name} · {case.id} · {repeat + 1} of {plan.repeats}")
        for name in names:
            for repeat in range(plan.repeats):
                own, base = cells[name].seconds_per_token(repeat), cells[BASELINE].seconds_per_token(repeat)
                cells[name].speedup[repeat] = base / own if own > 0 else NAN
        if plan.quality:
            for name, message in self._quality(case, cells):
                if name in missing:
                    self._tick(1, message)
        if not self.cancelled:
            for name in missing:
                if cells[name].failed is None and (cells[name].quality is not None or not plan.quality):
                    self.cells.put(plan.hash(name, case), cells[name], plan.content(name))
        return cells

    def _attempt(self, name: str, case: Case, cell: Cell, repeat: int, limit: int | None = None) -> None:
        """One generation into its cell; an error becomes the cell's, a cancelled one leaves no trace."""
        options = {**self.plan.options_of(case), "cancel": self.cancel}
        if limit is not None:
            options |= {"max_new_tokens": limit, "min_new_tokens": min(limit, options["min_new_tokens"])}
        try:
            result = run(self.plan.model, case.tokens, self.plan.recipes[name], **options)
        except Exception as error:
            cell.failed = _message(error)
            return
        if not result.cancelled:
            cell.steps = result.steps
            cell.seconds[repeat] = result.seconds
            cell.time_to_first_token[repeat] = result.time_to_first_token
            cell.new_tokens[repeat] = len(result.tokens)

    def _quality(self, case: Case, cells: dict[str, Cell]) -> Iterator[tuple[str, str]]:
        plan, baseline = self.plan, cells[BASELINE]
        forced = None
        if baseline.ran and not self.cancelled:
            try:
                chunk = plan.options["prefill_chunk"]
                text = case.tokens, baseline.tokens
                forced = Forced(plan.model, *text, plan.seed, case.context_tokens, chunk, self.cancel)
            except Exception as error:
                baseline.failed = baseline.failed or _message(error)
        for name, cell in cells.items():
            if forced is not None and cell.failed is None and cell.ran and not self.cancelled:
                try:
                    cell.quality = forced.compare(plan.recipes[name])
                    if name == BASELINE and cell.quality is not None:
                        cell.quality["margins"] = forced.margins
                except Exception as error:
                    cell.failed = _message(error)
            yield name, f"{name} · {case.id} · quality"

    def _tick(self, count: int, message: str) -> None:
        if self.cancelled:
            return
        self._done += count
        self._progress(self._done, self._total, message)


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
