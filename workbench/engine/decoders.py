"""The decoders of a run: which model takes the next step, with which cache, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from workbench.engine.decoder import Decoder
from workbench.engine.draft import Verification
from workbench.engine.options import Options
from workbench.engine.recipe import Recipe, check_place
from workbench.engine.rotation import outgrown
from workbench.engine.run import Run
from workbench.engine.session import State, key_of

_SLOTS = ("context", "depth", "mlp", "experts", "prefill_attention", "attention", "evict", "store")


class Decoders:
    """One decoder for each model of a run, made when its turn comes; iterated over, those that there are.

    Parameters
    ----------
    run : Run
    recipe : Recipe
    options : Options
    past : State, optional
        What the caches begin with.

    Attributes
    ----------
    switch : SwitchPolicy or None
    models : tuple of Model
        The models in play; the switch's if there is one.
    """

    def __init__(self, run: Run, recipe: Recipe, options: Options, past: State | None = None) -> None:
        self._run, self._recipe, self._options, self._past = run, recipe, options, past
        self.switch = recipe.policy("switch", run)
        self.models = (run.model,) if self.switch is None else tuple(self.switch.models)
        # A technique that does not fit the model says so now, not at the first token.
        for slot in ("weights", *_SLOTS):
            recipe.policies(slot, run)
        self._place = 0
        self._made: dict[int, Decoder] = {}

    def __iter__(self) -> Iterator[Decoder]:
        return iter(self._made.values())

    def next(
        self, text: Sequence[int], entropies: Sequence[float] = (), verification: Verification | None = None
    ) -> Decoder:
        """The decoder that takes the next step after ``text``, whose last tokens came from distributions of these
        entropies [nats] in a step that ended so."""
        if self.switch is not None:
            chosen = self.switch.choose_model(entropies, verification)
            self._place = self._place if chosen is None else check_place(chosen, self.models, self._recipe)
        place = self._place
        if place not in self._made:
            run = replace(self._run, model=self.models[place])
            # A question has its room beside the context, or beside what an earlier run left.
            first = self._options.context_tokens if self._past is None else self._past.cached
            reserve = self._reserve + (len(run.prompt) - first if first else 0)
            self._made[place] = self._new(run, reserve)
            if self._past is not None:
                cache = self._past.copy_for(run.model, reserve, self._recipe.policy("store", run))
                self._made[place].cache = cache or self._made[place].cache
        if outgrown(self._made[place], len(text)):
            # All is read anew, and policies see the text as it is now: they begin with what was the prompt.
            left = len(self._run.prompt) + self._run.max_new_tokens - len(text)
            run = replace(self._run, model=self.models[place], prompt=tuple(text), max_new_tokens=left)
            self._recipe.start_anew(_SLOTS, run)
            self._made[place] = self._new(run, self._reserve)
        return self._made[place]

    def forget_half_read(self) -> None:
        """A cache with a part of the prompt is none to go on from: policies act on a prompt that was read whole."""
        length = len(self._run.prompt)
        self._made = {place: each for place, each in self._made.items() if each.cache.length >= length}

    def state(self, output: Sequence[int]) -> State:
        """What another run can go on from, once this one is over and has said ``output``."""
        run, before = self._run, self._past or State((), {}, key_of(self._run.model), ())
        held = before.caches | {key_of(each.model): each.cache for each in self}
        for each in self:
            each.close_open()  # for a draft that nobody asks for any more
        turn = tuple(map(repr, self._recipe.techniques))
        return State((*run.prompt, *output), held, before.model, (*before.recipes, turn), run.embeddings)

    @property
    def _reserve(self) -> int:
        return self._run.max_new_tokens + self._recipe.slack

    def _new(self, run: Run, reserve: int) -> Decoder:
        policies = {slot: self._recipe.policy(slot, run) for slot in _SLOTS}
        decoder = Decoder(run.model, reserve, policies, compiled=self._options.compiled, ledger=run.ledger)
        decoder.embeddings = run.embeddings
        return decoder
