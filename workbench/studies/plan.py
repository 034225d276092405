"""A study before it runs: every setting, prompt and recipe checked, so that what can fail early does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.cost.hardware import NAMES, Hardware
from workbench.engine import Chance, Run, Sampler
from workbench.engine.arguments import whole
from workbench.engine.recipe import Recipe
from workbench.errors import PromptError, SettingError
from workbench.models import Model
from workbench.models.stop_text import stop_texts
from workbench.settings import parse, several
from workbench.studies.cases import Case
from workbench.studies.contents import contents
from workbench.studies.run import recipe as recipe_of
from workbench.studies.run import sha256

BASELINE = "baseline"


@dataclass
class Plan:
    """A study that has been checked and can run.

    Attributes
    ----------
    recipes : dict of str to list of Technique
        The baseline first.
    options : dict
        Of :func:`workbench.generate`, the same for every run.
    """

    model: Model
    cases: list[Case]
    recipes: dict[str, list[Any]]
    options: dict[str, Any]
    repeats: int
    quality: bool
    hardware: list[Hardware] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.options["seed"]

    def options_of(self, case: Case) -> dict[str, Any]:
        """The options of the runs on one prompt."""
        return {**self.options, "context_tokens": case.context_tokens}

    def hash(self, name: str, case: Case) -> str:
        """Name of a cell: everything that decides it, after a part that only the names in it decide."""
        recipe = recipe_of(self.model, case.tokens, self.recipes[name], self.options_of(case))
        named = {key: value for key, value in recipe.items() if key not in ("content", "hash")}
        where = [self.repeats, str(self.model.device)]
        return f"{sha256([named, *where])[:16]}-{sha256([recipe['hash'], *where])}"

    def content(self, name: str) -> dict[str, Any]:
        """What the names in a recipe stand for now."""
        return contents(self.model, self.recipes[name])

    def order(self, names: Sequence[str], place: int, repeat: int) -> list[str]:
        """Whose turn it is in one round: the same circle, started one further on with every prompt and repeat, so that
        no recipe always comes first into warm or cold caches."""
        start = (place + repeat) % len(names)
        return [*names[start:], *names[:start]]


def named_recipes(recipes: Mapping[str, Sequence[Any] | str]) -> dict[str, list[Any]]:
    """Recipes by name with the empty baseline first; specifications are read.

    Raises
    ------
    SettingError
        If a specification cannot be read, something is no technique, or another recipe is named ``baseline``.
    """
    from workbench import techniques  # fills the registry that specifications are read with
    from workbench.registry import TECHNIQUES

    named: dict[str, list[Any]] = {BASELINE: []}
    if not isinstance(recipes, Mapping):
        raise SettingError(f"recipes are given by name, not as {recipes!r:.80}: write {{'my run': [technique, …]}}")
    for name, recipe in recipes.items():
        if isinstance(recipe, str):
            built = parse(recipe, TECHNIQUES)
        else:
            built = several(recipe, "slots", "technique", "wb.techniques.PromptLookup()")
        for each in built:
            if not isinstance(each, techniques.Technique):
                raise SettingError(f"{name!r} holds {each!r}, which is no technique")
        if name == BASELINE and built:
            raise SettingError("the recipe named 'baseline' must be empty: give this one another name")
        named[str(name)] = built
    return named


def validate(plan: Plan, hardware: Sequence[str | Hardware] | None) -> None:
    """Refuse everything that can be known to be wrong before the first forward.

    Raises
    ------
    PromptError, SettingError, IncompatibleTechniques
    """
    whole("repeats", plan.repeats, 1)
    most = whole("max_new_tokens", plan.options["max_new_tokens"], 1, error=PromptError)
    if plan.options["prefill_chunk"] is not None:
        whole("prefill_chunk", plan.options["prefill_chunk"], 1)
    for each in hardware or ():
        if not isinstance(each, Hardware) and each not in NAMES:
            raise SettingError(f"there is no hardware named {each!r}; known: {', '.join(NAMES)}")
    positions = plan.model.anatomy.positions
    for case in plan.cases:
        if len(case.tokens) + most - 1 > positions:
            raise PromptError(
                f"prompt {case.id}: {len(case.tokens):,} tokens and {most:,} new ones exceed the {positions:,} "
                f"positions of {plan.model.name}: shorten it or ask for fewer"
            )
    least = whole("min_new_tokens", plan.options["min_new_tokens"], least=-(2**63), error=PromptError)
    if not 0 <= least <= most:
        raise PromptError(f"min_new_tokens must lie in 0 … max_new_tokens ({most}), not {least}")
    stop_texts(plan.model, plan.options["stop_text"], 0)
    sampling = (plan.options[name] for name in ("temperature", "top_p", "top_k"))
    sampler = Sampler(*sampling, Chance(plan.seed))
    longest = max(plan.cases, key=lambda case: len(case.tokens))
    start = Run(plan.model, tuple(longest.tokens), most, sampler, plan.seed)
    for techniques in plan.recipes.values():
        recipe = Recipe(techniques)
        try:
            for technique in techniques:
                for slot in technique.slots:
                    recipe.policies(slot, start)
        finally:
            recipe.close()
