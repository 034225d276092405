"""Techniques run on one model and one prompt, together and under conditions, and judged by what they promise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from workbench.engine.generate import generate
from workbench.engine.slots import SLOTS
from workbench.errors import IncompatibleTechniques, NumericalError, OutOfMemory, SettingError
from workbench.models import Model, load
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.studies.distribution import ROUNDING, distance

Verdict = tuple[str, str]
"""Status, of :data:`workbench.studies.compatibility.STATUSES`, and reason."""

NEW = 24
SAMPLED = {"vocabulary": 3, "temperature": 2.5, "top_p": 0.8}
_RUNNING = (NumericalError, OutOfMemory)


def model_of(name: str) -> Model:
    """``tiny`` or ``tiny-FAMILY`` is a random model made in memory; any other name is loaded."""
    if name == "tiny" or name.startswith("tiny-"):
        return tiny(name.removeprefix("tiny").removeprefix("-") or "llama")
    return load(name, "float32")


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
        """Status and reason of one technique under one of :data:`workbench.studies.compatibility.CONDITIONS`."""
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
        kinds, tokens = (TECHNIQUES[one], TECHNIQUES[other]), self._tokens(one, other)
        stacked = any(SLOTS[slot] == "stack" for slot in set(kinds[0].slots) & set(kinds[1].slots))
        if len(tokens) < NEW and not any("stop" in kind.slots for kind in kinds):
            return "fails", f"it made {len(tokens)} of {NEW} tokens"
        if not stacked and tokens != self._tokens(other, one):
            return "fails", "the text depends on the order of the two"
        if kinds[0].exact and kinds[1].exact:
            alike = self._same("exact together", tokens, self._greedy(), "the baseline's")
            return alike if alike[0] == "fails" else self._distributed(one, other)
        for exact, changing in (kinds, kinds[::-1]):
            # What one makes of the model, an exact one must not change further, unless it acts between tokens.
            if exact.exact and not changing.stepwise:
                return self._same("runs", tokens, self._greedy(changing.name), f"that of {changing.name} alone")
        return "runs", ""

    def _same(self, status: str, tokens: list[int], want: list[int], whose: str) -> Verdict:
        parted = next((place for place, (a, b) in enumerate(zip(tokens, want)) if a != b), min(len(tokens), len(want)))
        return (status, "") if tokens == want else ("fails", f"the text is not {whose} from token {parted} on")

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
        tokens = self._tokens(name, stop_tokens=(text[place],))
        return self._same(self._whole(name), tokens, text[: place + 1], "the text up to the stop token")

    def _cancellation(self, name: str) -> Verdict:
        cancel, steps = threading.Event(), []
        options = {"max_new_tokens": NEW, "stop_tokens": (), "cancel": cancel}
        for step in generate(self.model, self.prompt, [example(name)], **options):
            steps.append(step)
            if len(steps) == 2:
                cancel.set()
        if len(steps) > 2:
            return "fails", f"{len(steps) - 2} more steps ran after it was told to end"
        tokens = [token for step in steps for token in step.tokens]
        if self._tokens() != self._greedy():
            return "fails", "the baseline differs after it"
        return self._same(self._whole(name), tokens, self._greedy(name)[: len(tokens)], "a beginning of the whole text")


def example(name: str) -> Any:
    """A technique as the matrix runs it: its first example."""
    return TECHNIQUES[name].examples()[0]
