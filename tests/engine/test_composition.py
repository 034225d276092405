"""Techniques made of others: started, checked, counted and closed with their owner."""

from typing import Annotated

import pytest
import torch
from engine.given import Given
from helpers import facts, random_tokens, tokens_of

from workbench.engine import Chance, Draft, Run, Sampler, composition, generate
from workbench.engine.composition import part_of, parts_of
from workbench.engine.recipe import Recipe
from workbench.errors import IncompatibleTechniques, SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import outside, parse, settings, spell
from workbench.techniques import OverlappedDraft, PromptLookup, SnapKV, SuffixDraft, Technique, TokenRecycling
from workbench.techniques.draft import overlapped_draft

PROMPT = random_tokens(12) * 2
REFERENCE = outside("technique", "a drafter")


@settings
class Either(Technique):
    """Asks the second drafter where the first has nothing to say."""

    first: Annotated[str, REFERENCE] = "prompt_lookup"
    second: Annotated[str, REFERENCE] = "overlapped_draft:model=/2"
    fails: bool = False

    slots = ("draft",)
    exact = True
    paper = "none"
    name = "either"

    def start(self, run):
        policy = _Either([run.start_part(self, setting) for setting in ("first", "second")])
        if self.fails:
            raise SettingError("either: it does not fit this model")
        return policy

    @classmethod
    def neutral(cls):
        return cls("", "")


class _Either:
    def __init__(self, parts):
        self._parts = [part for part in parts if part is not None]

    def propose(self, tokens, limit):
        drafts = (part.propose(tokens, limit) for part in self._parts)
        return next((draft for draft in drafts if draft.tokens), Draft())

    def verified(self, verification):
        for part in self._parts:
            part.verified(verification)


def steps_of(techniques, new=16, **options):
    return generate(tiny("llama"), PROMPT, techniques, max_new_tokens=new, stop_tokens=(), **options)


@pytest.fixture
def closed(monkeypatch):
    """Policies of ``overlapped_draft`` that were closed."""
    policies, close = [], overlapped_draft._Overlapped.close
    monkeypatch.setattr(overlapped_draft._Overlapped, "close", lambda self: policies.append(self) or close(self))
    return policies


@pytest.mark.parametrize(
    "spec", ["draft_model:model=/2,draft=3", "token_recycling:nodes=9", "hydra_heads:weights=untrained,cost=modelled"]
)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_a_part_drafts_costs_what_it_costs_alone(spec, temperature):
    (part,) = parse(spec, TECHNIQUES)
    alone = list(steps_of([part], temperature=temperature, seed=2))
    within = list(steps_of([SuffixDraft(draft=0, auxiliary=spell(part))], temperature=temperature, seed=2))
    assert list(map(facts, within)) == list(map(facts, alone))
    assert any(step.drafted for step in within)


def test_parts_are_asked_in_turn_and_change_no_token(closed):
    plain, drafted = list(steps_of([])), list(steps_of([Either()]))
    assert [token for step in drafted for token in step.tokens] == [token for step in plain for token in step.tokens]
    assert len(drafted) < len(plain) and len(closed) == 1


def test_parts_are_closed_however_a_run_ends(closed, monkeypatch):
    stream = steps_of([Either(first="")])
    next(stream)
    assert not closed
    stream.close()
    assert len(closed) == 1
    monkeypatch.setattr(_Either, "verified", lambda self, verification: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(steps_of([Either(first="")]))
    assert len(closed) == 2


def test_what_was_started_is_closed_where_a_technique_does_not_start(closed):
    with pytest.raises(SettingError, match="does not fit"):
        steps_of([Either(fails=True)])
    assert len(closed) == 1
    with pytest.raises(SettingError, match="no such method"):
        steps_of([OverlappedDraft(model="/2"), Given(lambda run: None, "depth")])
    assert len(closed) == 2


def test_one_that_cannot_be_closed_keeps_no_other_open(closed):
    class Stuck:
        def stop(self, generated):
            return False

        def close(self):
            raise RuntimeError("stuck")

    with pytest.raises(RuntimeError, match="stuck"):
        list(steps_of([Given(lambda run: Stuck(), "stop"), Either(), Given(lambda run: Stuck(), "logits")][:2]))
    assert len(closed) == 1


@pytest.mark.parametrize("spec", ["snap_kv", "dynamic_tree", "suffix_draft", "prompt_lookup+token_recycling"])
def test_what_does_not_fit_is_refused_before_anything_starts(spec):
    with pytest.raises(SettingError, match=r"suffix_draft: auxiliary='.*' must name one other technique"):
        Recipe([SuffixDraft(auxiliary=spec)])
    run = Run(tiny("llama"), (1, 2, 3), 8, Sampler(chance=Chance(0)), 0)
    with pytest.raises(SettingError, match="must name one other technique"):
        SuffixDraft(auxiliary=spec).start(run)
    assert run.parts == []


def test_a_technique_is_no_part_of_itself_at_any_depth():
    nested = Either(second="suffix_draft:auxiliary=token_recycling")
    assert [type(part) for part in parts_of(nested)] == [PromptLookup, SuffixDraft, TokenRecycling]
    assert part_of(nested, "second", ("token_recycling",)) == SuffixDraft(auxiliary="token_recycling")
    with pytest.raises(SettingError, match="must name one other technique"):
        list(parts_of(nested, ("token_recycling",)))
    started = Run(tiny("llama"), (1, 2, 3), 8, Sampler(), 0, within=("token_recycling",))
    with pytest.raises(SettingError, match="must name one other technique"):
        nested.start(started)


def test_what_a_part_excludes_and_how_it_acts_is_the_recipes_matter(monkeypatch):
    owner = SuffixDraft(auxiliary="token_recycling")
    assert not Recipe([owner, SnapKV()]).stepwise
    monkeypatch.setattr(TokenRecycling, "stepwise", True)
    assert Recipe([owner]).stepwise and not Recipe([SuffixDraft()]).stepwise
    monkeypatch.setattr(TokenRecycling, "excludes", ("snap_kv",))
    with pytest.raises(IncompatibleTechniques, match="token_recycling does not go together with snap_kv"):
        Recipe([owner, SnapKV()])


def test_a_part_serves_its_own_run():
    """Each run starts the parts anew: what one learned the next does not know."""
    first, second = (list(map(facts, steps_of([Either()]))) for _ in range(2))
    assert first == second
    assert torch.equal(torch.tensor(first[0]["tokens"]), torch.tensor(second[0]["tokens"]))


def test_what_a_setting_names_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(composition, "parse", lambda spec, registry: read.append(spec) or parse(spec, registry))
    nested = Either(second="suffix_draft:auxiliary=token_recycling")
    assert tokens_of(steps_of([nested])) == tokens_of(steps_of([]))
    assert read == ["prompt_lookup", "suffix_draft:auxiliary=token_recycling", "token_recycling"]
