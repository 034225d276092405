"""One recipe on one prompt, timed, and its trace."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xarray as xr
from torch import Tensor

from workbench import trace
from workbench.engine.generate import generate, whole_text
from workbench.engine.step import Step
from workbench.models import Model
from workbench.settings import spell
from workbench.shown import facts_html
from workbench.studies.contents import contents
from workbench.studies.facts import drafted, drafts_dataset, layers_dataset, steps_dataset, text_dataset
from workbench.tasks import question_view

clock = time.perf_counter

# Options that do not change what a run writes, and the seed, which stands by itself.
_DECIDES_NOTHING = ("seed", "cancel", "logprobs", "logits")


@dataclass(frozen=True, eq=False, repr=False)
class RunResult:
    """What one generation did and how long it took.

    Attributes
    ----------
    model : Model
    prompt : list of int
    recipe : dict
        Specifications of the techniques, the options of the generation, and ``hash``.
    steps : list of Step
    seconds : float
        Wall clock of the whole generation, prefill and decoding [s].
    time_to_first_token : float
        Wall clock up to the end of the prefill [s]; NaN where it was cancelled before.
    cancelled : bool
        Whether it ended because it was told to: the text is then a beginning.
    """

    model: Model
    prompt: list[int]
    recipe: dict[str, Any]
    steps: list[Step]
    seconds: float
    time_to_first_token: float
    cancelled: bool = False

    def __repr__(self) -> str:
        facts = self._facts()
        state = ", cancelled" if self.cancelled else ""
        return f"<RunResult of {facts['recipe']} on {self.model.name}: {facts['output']} in {facts['time']}{state}>"

    def _repr_html_(self) -> str:
        facts = {**self._facts(), "cancelled": "yes: the text is a beginning"} if self.cancelled else self._facts()
        return facts_html(f"Run on {self.model.name}", {**facts, "text": self.text})

    def _facts(self) -> dict[str, Any]:
        steps, speed = len(self.steps), self.tokens_per_second
        measured = f"{self.seconds:.3g} s" + (
            f" ({speed:,.1f} tokens/s after the first, measured)" if speed > 0 else ""
        )
        return {
            "recipe": " + ".join(each["spec"] for each in self.recipe["techniques"]) or "the model alone",
            "prompt": f"{len(self.prompt):,} tokens",
            "output": f"{len(self.tokens):,} tokens in {steps:,} step{'s' * (steps != 1)}",
            "time": measured,
        }

    @property
    def tokens(self) -> list[int]:
        """Tokens produced, in order."""
        return [token for step in self.steps for token in step.tokens]

    @property
    def context_tokens(self) -> int | None:
        """First tokens of the prompt that were in the cache, compressed, before the others were read; None if none."""
        past = self.recipe["options"].get("past")
        return self.recipe["options"].get("context_tokens") if past is None else past["tokens"]

    @property
    def text(self) -> str:
        """The tokens as text."""
        return self.model.decode(self.tokens)

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first over the seconds after it, measured; NaN if there is only one."""
        decoded = len(self.tokens) - 1
        return decoded / (self.seconds - self.time_to_first_token) if decoded > 0 else float("nan")

    @cached_property
    def trace(self) -> xr.DataTree:
        """The run as a trace of kind ``generate``: groups ``tokens``, ``text``, ``drafts``, ``steps``, ``layers``."""
        groups = {
            "tokens": trace.tokens(self.prompt),
            "text": text_dataset(self.steps),
            "drafts": drafts_dataset(self.steps),
            "steps": steps_dataset(self.steps),
            "layers": layers_dataset(self.steps, self.model.layers),
        }
        return trace.build(
            groups,
            model=self.model,
            kind="generate",
            recipe=self.recipe,
            used={*self.prompt, *self.tokens, *drafted(groups["drafts"])},
            seed=self.recipe["seed"],
            seconds=self.seconds,
            partial=int(self.cancelled),
            context_tokens=self.context_tokens or 0,
            question=question_view(self.context_tokens),
            **({"time_to_first_token": self.time_to_first_token} if self.steps else {}),
        )


def run(
    model: Model, prompt: str | Sequence[int] | Tensor, techniques: Sequence[Any] = (), **options: Any
) -> RunResult:
    """Generate with a recipe from beginning to end.

    Parameters
    ----------
    model : Model
    prompt : str or token ids
    techniques : sequence of Technique
    **options
        Of :func:`workbench.generate`, ``past`` included: the result's prompt is then the whole text before the output.

    Raises
    ------
    WorkbenchError
        As :func:`workbench.generate` does.
    """
    past = options.get("past")
    ids = whole_text(model, prompt, past)
    new = ids if past is None else ids[len(past.tokens) :]
    steps: list[Step] = []
    first = float("nan")
    start = clock()
    for step in generate(model, new, techniques, **options):
        if not steps:
            first = clock() - start
        steps.append(step)
    seconds = clock() - start
    cancel = options.get("cancel")
    cancelled = cancel is not None and cancel.is_set()
    return RunResult(model, ids, recipe(model, ids, techniques, options), steps, seconds, first, cancelled)


def recipe(model: Model, prompt: Sequence[int], techniques: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
    """All that decides a run's output, with its SHA-256 as ``hash``; of the prompt only its own SHA-256, and of what
    names stand for (the model's weights, draft models, trained parts, corpora) theirs as ``content``."""
    content = {
        "model": model.name,
        "revision": model.revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "arithmetic": model.arithmetic,
        "techniques": [
            {"spec": spell(each), "settings": {f.name: str(getattr(each, f.name)) for f in dataclasses.fields(each)}}
            for each in techniques
        ],
        "prompt_sha256": hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest(),
        "seed": options.get("seed", 0),
        "content": contents(model, techniques),
        "options": {key: value for key, value in sorted(options.items()) if key not in _DECIDES_NOTHING},
    }
    if options.get("past") is not None:
        content["options"]["past"] = options["past"].describe()
    return {**content, "hash": sha256(content)}


def sha256(content: Any) -> str:
    """SHA-256 of anything JSON can write, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
