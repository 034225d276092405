"""Which techniques go together: every pair, and every technique with sampling, stop tokens and cancellation."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from workbench import trace
from workbench.engine.generate import generate
from workbench.engine.slots import SLOTS
from workbench.errors import IncompatibleTechniques, NumericalError, OutOfMemory, SettingError, TraceError
from workbench.models import Model, load
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import spell
from workbench.studies.distribution import ROUNDING, distance

STATUSES = {
    "exact together": "all are exact: greedy, the text is the baseline's, token for token; sampled, every text has the "
    "probability that plain sampling gives it, by enumeration",
    "runs": "the run is whole, repeatable and what its parts promise; one of the two may change the text",
    "excluded": "refused before anything runs: one slot holds one technique, or one of them excludes the other",
    "does not apply": "one of them does not fit this model or this condition, and says why",
    "fails": "an error, or a text that breaks a promise",
}
"""Status -> what it means; a number in a matrix is a place here."""

CONDITIONS = {
    "alone": "greedy, by itself",
    "sampling": "temperature 0.8: one seed gives one text, and an exact one keeps plain sampling's distribution",
    "stop tokens": "the text ends with the first stop token, and is the same up to there",
    "cancellation": "the text ends after the step in which it was told to, and the next run is untouched",
}
"""What every technique is also run under."""

Progress = Callable[[int, int, str], None]
Verdict = tuple[str, str]
NEW = 24
SAMPLED = {"vocabulary": 3, "temperature": 2.5, "top_p": 0.8}
_RUNNING = (NumericalError, OutOfMemory)


def model_of(name: str) -> Model:
    """``tiny`` or ``tiny-FAMILY`` is a random model made in memory; any other name is loaded."""
    if name == "tiny" or name.startswith("tiny-"):
        return tiny(name.removeprefix("tiny").removeprefix("-") or "llama")
    return load(name, "float32")


def compatibility(
    model: Model | str = "tiny", names: Sequence[str] | None = None, progress: Progress | None = None
) -> xr.DataTree:
    """Run every pair of techniques, and every technique under all conditions, with its first example's settings.

    Parameters
    ----------
    model : Model or str
        A model, or a name for :func:`model_of`.
    names : sequence of str, optional
        Of techniques; all that are registered if left out.
    progress : callable, optional
        Told how many runs are done, of how many, and which is next.

    Returns
    -------
    xarray.DataTree
        Of kind ``compatibility``: the group of that name has ``status`` (technique, other), symmetric and -1 on its
        diagonal, and ``condition_status`` (technique, condition), both places in :data:`STATUSES`. The root's
        ``techniques``, ``statuses``, ``conditions`` and ``reasons`` are JSON.

    Raises
    ------
    SettingError
        If a name is not registered.
    """
    import workbench.techniques  # noqa: F401  fills the registry

    names = [TECHNIQUES[name].name for name in (TECHNIQUES if names is None else names)]
    trial = Trial(model_of(model) if isinstance(model, str) else model)
    pairs = list(itertools.combinations(names, 2))
    total, done = len(names) * len(CONDITIONS) + len(pairs), itertools.count()

    def tell(what: str) -> None:
        if progress is not None:
            progress(next(done), total, what)

    conditions, found = {}, {}
    for name, condition in itertools.product(names, CONDITIONS):
        tell(f"{name}, {condition}")
        conditions[name, condition] = trial.condition(name, condition)
    for one, other in pairs:
        tell(f"{one} with {other}")
        found[one, other] = trial.pair(one, other)
    tell("done")
    return matrix(_about(trial.model), [_described(name) for name in names], conditions, found)


class Trial:
    """Runs of one model over one prompt, each judged.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        drawn = torch.randint(3, min(model.anatomy.vocabulary, 96), (24,), generator=torch.Generator().manual_seed(1))
        self.prompt = drawn.tolist() * 2  # the second half repeats the first, so that there is something to look up
        self._alone: dict[tuple[str, ...], list[int]] = {}

    def pair(self, one: str, other: str) -> Verdict:
        """Status and reason of two techniques in one recipe."""
        return self._judged(lambda: self._together(one, other))

    def condition(self, name: str, condition: str) -> Verdict:
        """Status and reason of one technique under a condition of :data:`CONDITIONS`."""
        attempts = {
            "alone": self._by_itself,
            "sampling": self._sampling,
            "stop tokens": self._stop_tokens,
            "cancellation": self._cancellation,
        }
        return self._judged(lambda: attempts[condition](name))

    def _judged(self, attempt: Callable[[], Verdict]) -> Verdict:
        try:
            return attempt()
        except IncompatibleTechniques as error:
            return "excluded", str(error)
        except SettingError as error:
            return "does not apply", str(error)
        except Exception as error:  # the matrix shows it; the others go on
            plain = isinstance(error, _RUNNING)
            return "fails", str(error) if plain else f"{type(error).__name__}: {error}"

    def _tokens(self, *names: str, **options: Any) -> list[int]:
        options = {"max_new_tokens": NEW, "stop_tokens": (), **options}
        techniques = [example(name) for name in names]
        return [token for step in generate(self.model, self.prompt, techniques, **options) for token in step.tokens]

    def _greedy(self, *names: str) -> list[int]:
        if names not in self._alone:
            self._alone[names] = self._tokens(*names)
        return self._alone[names]

    def _together(self, one: str, other: str) -> Verdict:
        kinds, said = (TECHNIQUES[one], TECHNIQUES[other]), self._tokens(one, other)
        stacked = any(SLOTS[slot] == "stack" for slot in set(kinds[0].slots) & set(kinds[1].slots))
        if len(said) < NEW and not any("stop" in kind.slots for kind in kinds):
            return "fails", f"it made {len(said)} of {NEW} tokens"
        if not stacked and said != self._tokens(other, one):
            return "fails", "the text depends on the order of the two"
        if kinds[0].exact and kinds[1].exact:
            alike = self._same("exact together", said, self._greedy(), "the baseline's")
            return alike if alike[0] == "fails" else self._distributed(one, other)
        for exact, changing in (kinds, kinds[::-1]):
            # What one makes of the model, an exact one must not change further, unless it acts between tokens.
            if exact.exact and not changing.stepwise:
                return self._same("runs", said, self._greedy(changing.name), f"that of {changing.name} alone")
        return "runs", ""

    def _same(self, status: str, said: list[int], want: list[int], whose: str) -> Verdict:
        parted = next((place for place, (a, b) in enumerate(zip(said, want)) if a != b), min(len(said), len(want)))
        return (status, "") if said == want else ("fails", f"the text is not {whose} from token {parted} on")

    def _whole(self, name: str) -> str:
        return "exact together" if TECHNIQUES[name].exact else "runs"

    def _by_itself(self, name: str) -> Verdict:
        if TECHNIQUES[name].exact:
            return self._same("exact together", self._greedy(name), self._greedy(), "the baseline's")
        return "runs", ""

    def _sampling(self, name: str) -> Verdict:
        first, second = (self._tokens(name, temperature=0.8, seed=3) for _ in range(2))
        repeated = self._same("runs", first, second, "the same for the same seed")
        return repeated if repeated[0] == "fails" or not TECHNIQUES[name].exact else self._distributed(name)

    @staticmethod
    def _distributed(*names: str) -> Verdict:
        """By every outcome of a model of few tokens, whatever the trial's own model."""
        apart = distance([TECHNIQUES[name].smallest() for name in names], **SAMPLED).variation
        if apart < ROUNDING:
            return "exact together", ""
        return "fails", f"sampled, the distribution of the text is off by a total variation of {apart:.3g}"

    def _stop_tokens(self, name: str) -> Verdict:
        text = self._greedy(name)
        place = max(text.index(token) for token in text[:-1])  # as late as a first occurrence can be
        said = self._tokens(name, stop_tokens=(text[place],))
        return self._same(self._whole(name), said, text[: place + 1], "the text up to the stop token")

    def _cancellation(self, name: str) -> Verdict:
        cancel, steps = threading.Event(), []
        options = {"max_new_tokens": NEW, "stop_tokens": (), "cancel": cancel}
        for step in generate(self.model, self.prompt, [example(name)], **options):
            steps.append(step)
            if len(steps) == 2:
                cancel.set()
        if len(steps) > 2:
            return "fails", f"{len(steps) - 2} more steps ran after it was told to end"
        said = [token for step in steps for token in step.tokens]
        if self._tokens() != self._greedy():
            return "fails", "the baseline differs after it"
        return self._same(self._whole(name), said, self._greedy(name)[: len(said)], "a beginning of the whole text")


def example(name: str) -> Any:
    """A technique as the matrix runs it: its first example."""
    return TECHNIQUES[name].examples()[0]


def matrix(
    about: dict[str, Any],
    techniques: Sequence[dict[str, Any]],
    conditions: dict[tuple[str, str], Verdict],
    pairs: dict[tuple[str, str], Verdict],
) -> xr.DataTree:
    """The trace of what was found.

    Parameters
    ----------
    about : dict
        ``model``, ``revision``, ``dtype``, ``device`` and ``versions``.
    techniques : sequence of dict
        ``name``, ``slots``, ``exact`` and ``example``, in the order of the matrix.
    conditions : dict
        (technique, condition) -> status and reason.
    pairs : dict
        (technique, technique) -> status and reason, each pair once.

    Raises
    ------
    TraceError
        If a pair or a condition is missing, or a status is none of :data:`STATUSES`.
    """
    names, places = [each["name"] for each in techniques], list(STATUSES)
    status = np.full((len(names), len(names)), -1, dtype=np.int8)
    under = np.full((len(names), len(CONDITIONS)), -1, dtype=np.int8)
    try:
        for (row, one), (column, other) in itertools.combinations(enumerate(names), 2):
            found = pairs[one, other] if (one, other) in pairs else pairs[other, one]
            status[row, column] = status[column, row] = places.index(found[0])
        for (row, name), (column, condition) in itertools.product(enumerate(names), enumerate(CONDITIONS)):
            under[row, column] = places.index(conditions[name, condition][0])
    except (KeyError, ValueError) as error:
        raise TraceError(f"the matrix is not whole: {error}") from None
    data = {
        "status": trace.variable("technique other", status, "status", "whether two techniques go together"),
        "condition_status": trace.variable("technique condition", under, "status", "whether it runs under a condition"),
    }
    sizes = zip(("technique", "other", "condition"), (*status.shape, len(CONDITIONS)))
    coords = {name: np.arange(size) for name, size in sizes}
    attrs = {
        "schema": trace.SCHEMA,
        "kind": "compatibility",
        "seed": 0,
        "vocabulary": "{}",
        **{key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()},
        "recipe": json.dumps([each["example"] for each in techniques]),
        "techniques": json.dumps(list(techniques)),
        "statuses": json.dumps(STATUSES),
        "conditions": json.dumps(CONDITIONS),
        "reasons": json.dumps({" + ".join(key): said for key, (_, said) in {**conditions, **pairs}.items() if said}),
    }
    groups = {"/": xr.Dataset(attrs=attrs), "compatibility": xr.Dataset(data, coords=coords)}
    return trace.check(xr.DataTree.from_dict(groups))


def _about(model: Model) -> dict[str, Any]:
    dtype = str(model.dtype).removeprefix("torch.")
    about = {"model": model.name, "revision": model.revision, "dtype": dtype, "device": str(model.device)}
    return {**about, "versions": trace.versions()}


def _described(name: str) -> dict[str, Any]:
    kind = TECHNIQUES[name]
    return {"name": name, "slots": list(kind.slots), "exact": kind.exact, "example": spell(example(name))}
