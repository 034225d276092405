"""What every drafter has from its base: nothing drafted at its neutral setting, a second model that is long enough."""

import pytest
from helpers import random_tokens
from scaled import scaled

from workbench.engine import Draft, Run, Sampler
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.techniques.draft import _context_drafter, _model_drafter, overlapped_draft
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._passages import retrieved_context

DRAFTERS = [name for name, kind in TECHNIQUES.items() if issubclass(kind, DraftTechnique)]
WITH_A_MODEL = ("candidate_length", "draft_model", "overlapped_draft", "retrieval_context_draft", "superposed_drafts")


def run(new=8, prompt=24):
    return Run(tiny("llama"), tuple(random_tokens(prompt)), new, Sampler(), 0)


def test_whatever_drafts_and_does_nothing_else_has_the_base():
    assert [name for name, kind in TECHNIQUES.items() if kind.slots == ("draft",)] == DRAFTERS


@pytest.mark.parametrize("name", DRAFTERS)
def test_the_neutral_setting_drafts_nothing_and_loads_nothing(name):
    kind = TECHNIQUES[name]
    neutral = kind.neutral()
    assert getattr(neutral, kind.amount) == 0 and neutral == kind(**{kind.amount: 0})
    missing = {key: "nowhere/at/all" for key in ("model", "weights") if hasattr(neutral, key)}
    policy = kind(**{kind.amount: 0, **missing}).start(run())
    assert type(policy) is Drafter
    assert policy.propose([1, 2, 3], 5) == Draft() and policy.verified(None) is None


@pytest.mark.parametrize("name", DRAFTERS)
def test_any_other_setting_is_a_policy_of_its_own(name):
    for technique in TECHNIQUES[name].examples():
        try:
            policy = technique.start(run())
        except SettingError as error:
            pytest.skip(f"does not apply: {error}")
        assert isinstance(policy, Drafter) and type(policy) is not Drafter


@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_a_model_with_too_few_positions_is_refused_in_one_voice(name, monkeypatch):
    small = scaled("linear")
    for module in (_model_drafter, _context_drafter, overlapped_draft):
        monkeypatch.setattr(module, "drafter_model", lambda *_: small)
    weights = {"weights": "untrained"} if name == "candidate_length" else {}
    context = {"budget": 16, "chunk": 4, "query": 4} if name == "retrieval_context_draft" else {}
    technique = TECHNIQUES[name](model="small", **weights, **context)
    read = f"{len(retrieved_context(run().prompt, 4, 16, 4))} retrieved" if context else "24 prompt"
    most = 64 - int(read.split()[0]) + 1
    with pytest.raises(SettingError, match=f"64 positions, too few for {read} tokens and {most + 1} new ones"):
        technique.start(run(most + 1))
    assert technique.start(run(most)) is not None
