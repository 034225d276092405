"""Sampling with every exact technique, alone and with what goes with it, has plain sampling's distribution.

Shown by walking through every outcome of a model of three or four tokens. What is registered is covered by itself, and
the cases grow as the number of techniques: every drafter alone, with the first of those that shorten drafts and with
the first of those that accept them; each of these others with the first drafter. ``make test-all`` adds other settings,
both at once, and a drafter that ``WORKBENCH_ROTATION`` draws; ``workbench compatibility`` walks through every pair.
"""

import functools
import itertools
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine.scripted import Scripted
from helpers import applicable

import workbench.techniques  # noqa: F401  fills the registry
from workbench import artifacts
from workbench.engine import Decoder, Draft, Sampler
from workbench.engine.loop import Loop
from workbench.engine.recipe import Recipe
from workbench.errors import IncompatibleTechniques
from workbench.parts.acceptance import NAME as ACCEPTANCE_HEAD
from workbench.parts.acceptance import AcceptanceHead
from workbench.registry import TECHNIQUES
from workbench.studies.distribution import distance, model_of, prompt_of
from workbench.techniques import CandidateLength, DynamicTree, Goodput, SuffixDraft, WithoutReplacementTree
from workbench.techniques.draft._draft_heads import DraftHeadsTechnique
from workbench.techniques.draft._lookahead import ORDERS, LookaheadTechnique

SETTINGS = (
    {"temperature": 1.5, "top_k": 2},
    {"temperature": 2.5, "top_p": 0.8},
    {"temperature": 1.0},
    {"temperature": 0.6},
)
PUBLIC = [name for name, kind in TECHNIQUES.items() if kind.exact and kind.__module__.startswith("workbench.")]
DRAFTERS = [name for name in PUBLIC if "draft" in TECHNIQUES[name].slots]
LENGTHS = [(name, place) for name in PUBLIC for place in range(len(TECHNIQUES[name].examples()))
           if "draft_length" in TECHNIQUES[name].slots]  # fmt: skip
RULES = [(name, 0) for name in PUBLIC if TECHNIQUES[name].slots == ("accept",)]
FIXED = [*LENGTHS[:1], *RULES[:1]]


def goes(name, partners):
    """Whether a recipe takes a drafter and its partners."""
    try:
        Recipe([TECHNIQUES[name].smallest(), *(TECHNIQUES[other].examples()[place] for other, place in partners)])
    except IncompatibleTechniques:
        return False
    return True


def cases():
    """(drafter, partners): every drafter alone and with each fixed partner, every partner with the first drafter."""
    for name in DRAFTERS:
        yield name, ()
        yield from ((name, (each,)) for each in FIXED if goes(name, [each]))
    yield from ((next(name for name in DRAFTERS if goes(name, [each])), (each,)) for each in (*LENGTHS, *RULES))


def more_cases():
    """Every drafter with all fixed partners at once, every partner with a drafter drawn for it."""
    yield from ((name, tuple(FIXED)) for name in DRAFTERS if goes(name, FIXED))
    for each in (*LENGTHS, *RULES):
        drawn = random.Random(f"{os.environ['WORKBENCH_ROTATION']} {each}")
        yield drawn.choice([name for name in DRAFTERS if goes(name, [each])]), (each,)


CASES = list(dict.fromkeys(cases()))
ALL_CASES = list(dict.fromkeys([*CASES, *more_cases()]))


@functools.cache
def drafter(name, vocabulary):
    """The technique at its smallest, a part that must be trained taken at random and sure of itself."""
    technique, model = TECHNIQUES[name].smallest(), model_of(vocabulary)
    part, kept = None, {}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if isinstance(technique, CandidateLength):
            name, part = ACCEPTANCE_HEAD, AcceptanceHead(model.anatomy.width, 1)
        elif isinstance(technique, DraftHeadsTechnique):
            part = technique.kind(model.anatomy.width, 2, torch.arange(vocabulary), 2)
            kept = {"vocabulary": part.vocabulary, "acceptance": torch.tensor([[0.9, 0.6]] * 2)}
        elif isinstance(technique, LookaheadTechnique):
            part = technique.kind.untrained(model, ORDERS)
            kept = {"acceptance": torch.tensor([[0.9, 0.6]] * part.orders)}
        if part is None:
            return technique
        # Zeros where training would start say nothing of any token.
        tensors = {
            key: torch.randn_like(value) if value.is_floating_point() else value
            for key, value in part.state_dict().items()
        }
    place = Path(tempfile.mkdtemp())
    artifacts.save(name, {**tensors, **kept}, {"model": {"name": model.name, "revision": model.revision}}, place)
    return replace(technique, weights=str(place / f"{name}.safetensors"))


def is_kept(name, partners, vocabulary, settings):
    others = [TECHNIQUES[other].examples()[place] for other, place in partners]
    with applicable():
        found = distance([drafter(name, vocabulary), *others], vocabulary, **settings)
    assert found.variation < 1e-6
    # What a length policy does not let through shows nothing, and need not.
    free = not any(other in dict(LENGTHS) for other, _ in partners)
    assert found.levels > 0 or not free, "nothing was drafted, so that nothing is shown: mend smallest()"


@pytest.mark.parametrize(("name", "partners"), CASES, ids=str)
def test_the_distribution_is_plain_samplings(name, partners):
    is_kept(name, partners, 3, SETTINGS[0 if partners else DRAFTERS.index(name) % 2])


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("name", "partners"), ALL_CASES, ids=str)
def test_the_distribution_is_plain_samplings_in_every_setting(name, partners, settings):
    is_kept(name, partners, 4 if "top_k" in settings else 3, settings)


def test_the_cases_are_of_every_technique_and_grow_as_their_number():
    assert {name for name, partners in CASES if not partners} == set(DRAFTERS)
    for each in FIXED:
        assert {name for name, partners in CASES if partners == (each,)} == {n for n in DRAFTERS if goes(n, [each])}
    assert {each for _, partners in CASES for each in partners} == {*LENGTHS, *RULES}
    assert all(goes(*case) for case in ALL_CASES)
    assert len(ALL_CASES) <= 4 * len(DRAFTERS) + 2 * len([*LENGTHS, *RULES])


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in DRAFTERS])
def test_alone_it_is_plain_sampling(name):
    for place in range(len(TECHNIQUES[name].examples())):
        assert distance([TECHNIQUES[name].examples()[place]], 3, news=(3,), temperature=1.0).variation < 1e-6


@pytest.mark.parametrize(
    "auxiliary",
    [
        "draft_model:model=/2,draft=2",
        "overlapped_draft:model=/2,draft=1",
        "trigram_draft:nodes=3",
    ],
)
@pytest.mark.parametrize("partners", [(), (Goodput(cost="modelled"),)])
def test_a_drafter_beside_another_keeps_it_too(auxiliary, partners):
    with applicable():
        found = distance([SuffixDraft(auxiliary=auxiliary, alone=2), *partners], 3, **SETTINGS[0])
    assert found.variation < 1e-6 and found.levels > 0


# Pruning by the shape of the finished draft, as it was once done.


class Ending(Scripted):
    """A chain that ends where a certain token was drawn."""

    def __init__(self):
        super().__init__(None)

    def start(self, run):
        self.run = run
        return self

    def propose(self, tokens, limit):
        distribution = torch.full((self.run.model.anatomy.vocabulary,), 1.0 / self.run.model.anatomy.vocabulary)
        drafted = [self.run.sampler.chance.draw(distribution)]
        while len(drafted) < limit and drafted[-1]:
            drafted.append(self.run.sampler.chance.draw(distribution))
        return Draft(drafted, None, distribution.expand(len(drafted), -1))


TREE = WithoutReplacementTree(model="/2", depth=2, branching="2-1", search="branching")
BENT = [
    (DynamicTree.smallest(), {"temperature": 2.5, "top_p": 0.8}, None),
    (TREE, {"temperature": 1.5, "top_p": 0.8}, (1.0, 1.5, 1.55, 2.2, 3.0)),
    (Ending(), {"temperature": 1.0}, (1.0, 1.66, 1.72, 2.3, 2.9)),
]


@pytest.mark.parametrize(("technique", "settings", "cost"), BENT)
def test_cutting_a_drawn_draft_by_its_shape_would_be_seen(technique, settings, cost, monkeypatch):
    recipe = [technique, Goodput(cost="modelled")]
    assert distance(recipe, 3, cost, (4,), **settings).variation < 1e-6
    monkeypatch.setattr(Loop, "_may_prune", staticmethod(lambda draft: bool(draft.tokens)))
    assert distance(recipe, 3, cost, (4,), **settings).variation > 0.01


def test_the_distributions_have_something_to_lose():
    """Zeros in them where they were cut, and more than one token everywhere."""
    for vocabulary, settings in itertools.product((3, 4), SETTINGS):
        text = prompt_of(vocabulary)
        distribution = Sampler(**settings).distribution(Decoder(model_of(vocabulary)).forward(text)[0])
        assert (distribution > 0).sum() > 1 and (len(settings) == 1 or (distribution == 0).any())
