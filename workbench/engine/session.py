"""The steps of a run, and the state from which another run goes on without prefilling anew."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.engine.state import KeyValueCache, state_maker
from workbench.engine.step import Step
from workbench.errors import PromptError, WorkbenchError
from workbench.models import Model
from workbench.models.fingerprint import of_model, of_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.engine.loop import Loop
    from workbench.engine.slots import StorePolicy

ModelKey = tuple[str, str, str, str]


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """A text and what a model remembers of it, evicted keys gone and postponed rows pending.

    It may be gone on from any number of times: every run takes a copy of the caches.

    Attributes
    ----------
    tokens : tuple of int
        Prompt and output, all turns. The last of them has not been through the model yet.
    caches : dict
        (name, revision, dtype, device) of a model -> its :class:`workbench.engine.KeyValueCache`.
    model : tuple of str
        Key of the main model.
    recipes : tuple of tuple of str
        For every turn its techniques, as they describe themselves.
    embeddings : Tensor [rows, width] or None
        Rows of the prompts that have no token; see :mod:`workbench.models.segments`.
    """

    tokens: tuple[int, ...]
    caches: dict[ModelKey, KeyValueCache]
    model: ModelKey
    recipes: tuple[tuple[str, ...], ...]
    embeddings: Tensor | None = None

    def __repr__(self) -> str:
        return f"<State of {self.model[0]}: {len(self.tokens):,} tokens, {self.bytes:,} bytes of caches>"

    @property
    def cached(self) -> int:
        """Tokens that the main model need not read again."""
        return self.caches[self.model].length if self.model in self.caches else 0

    @property
    def bytes(self) -> int:
        """Bytes allocated for keys and values, over all models."""
        return sum(cache.bytes for cache in self.caches.values())

    def check(self, model: Model) -> None:
        """Refuse a model that did not make this state.

        Raises
        ------
        PromptError
        """
        own = key_of(model)
        if own != self.model:
            name = " ".join(part for part in self.model if part)
            raise PromptError(f"this state is of {name} and cannot go on with {' '.join(part for part in own if part)}")

    def check_switch(self, model: Model, tokens: int, new: int) -> None:
        """Refuse to go on from a cache with gaps where it would have to be computed anew, which would fill them.

        Raises
        ------
        PromptError
        """
        cache, switch = self.caches.get(self.model), model.anatomy.switch
        if switch is None or cache is None or cache.complete or cache.read_as > switch:
            return
        room = switch - tokens + 1
        if new > room:
            fewer = f"ask for at most {room:,} new tokens, or " if room > 0 else ""
            raise PromptError(
                f"this state has lost entries of its cache, and {model.name} computes its cache anew once a text is "
                f"longer than {switch:,} tokens: {fewer}begin without the state"
            )

    def copy_for(self, model: Model, reserve: int, store: StorePolicy | None = None) -> KeyValueCache | None:
        """A copy of a model's cache with room for ``reserve`` more tokens, in the form of the slot ``store``; None if
        it has none."""
        cache = self.caches.get(key_of(model))
        return None if cache is None else cache.copy(reserve, state_maker(model.anatomy.blocks, reserve, store))

    def describe(self) -> dict[str, Any]:
        """What a recipe says of it: the text, which entries are left, and the techniques of every turn."""
        kept = {" ".join(key): [_entries_of(layer) for layer in cache.layers] for key, cache in self.caches.items()}
        for key, cache in self.caches.items():
            if cache.shelf:
                kept[" ".join(key)].append([[row, cache.shelf.layer(row)] for row in cache.shelf.rows()])
        rows = [] if self.embeddings is None else [of_tensor(self.embeddings)]
        content = json.dumps([list(self.tokens), kept, *rows], sort_keys=True)
        return {
            "tokens": len(self.tokens),
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "recipes": [list(recipe) for recipe in self.recipes],
        }


class Generation(Iterator[Step]):
    """The steps of a run, one after the other; over, it has the state that it leaves.

    ``close`` ends it between two steps, as ``cancel`` does.
    """

    def __init__(self, loop: Loop, cancel: threading.Event | None) -> None:
        self._loop, self._steps = loop, loop.steps(cancel)
        self._over = self._failed = False

    def __next__(self) -> Step:
        try:
            return next(self._steps)
        except StopIteration:
            self._over = True
            raise
        except BaseException:
            self._over = self._failed = True
            raise

    def __repr__(self) -> str:
        loop, state = self._loop, "failed" if self._failed else "over" if self._over else "not over"
        name, prompt = loop.run.model.name, len(loop.run.prompt)
        return f"<Generation on {name}, {state}: {len(loop.output):,} tokens after {prompt:,}; {loop.recipe!r}>"

    def close(self) -> None:
        """End the run where it is."""
        self._steps.close()
        # Of a run that never began the generator had nothing to put back.
        self._loop.recipe.close()
        self._over = True

    @property
    def state(self) -> State:
        """What ``generate(..., past=state)`` goes on from; finished, cancelled and closed runs have one.

        Raises
        ------
        WorkbenchError
            While the run goes on, and after one that failed.
        """
        if self._failed:
            raise WorkbenchError("this run failed in the middle of a step: there is no state to go on from")
        if not self._over:
            raise WorkbenchError("this run has not ended: take its last step, or close() it, and then its state")
        return self._loop.state()


def key_of(model: Model) -> ModelKey:
    """What tells one model's cache from another's."""
    revision = f"{model.revision} {of_model(model)[:12]}" if model.changed else model.revision
    return model.name, revision, str(model.dtype).removeprefix("torch."), str(model.device)


def _entries_of(layer: Any) -> list[list[int]]:
    """Positions of what a layer holds, by head where heads hold different ones."""
    if not layer.length or layer.recurrent:
        return []
    positions = layer.positions
    if layer.valid is None:
        return positions.tolist()
    return [row[marks].tolist() for row, marks in zip(positions.expand_as(layer.valid), layer.valid)]
