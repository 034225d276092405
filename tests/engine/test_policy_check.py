"""A policy without what its slot asks for is refused before anything runs, and told what is asked."""

import inspect

import pytest
from engine.given import Given

from workbench.engine import SLOTS, Run, Sampler, generate
from workbench.engine.policy_check import check_policy
from workbench.engine.slots import PROTOCOLS, DraftPolicy
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES


class Nothing:
    pass


class TooFew:
    models = ()

    def propose(self, tokens):
        raise AssertionError("nothing runs")

    def verified(self, verification):
        pass

    def choose_model(self, entropies):
        return 0

    def choose_experts(self, block, logits):
        return logits

    def accept(self, draft, logits, sampler, more):
        return [], 0

    def stop(self, generated, *, how):
        return False


class NoPlace:
    def choose_experts(self, block, x, logits):
        return logits

    def fetch_expert(self, expert):
        return expert


class Inherited(DraftPolicy):
    """Only one of the two is its own: what it has of the protocol does nothing."""

    def propose(self, tokens, limit):
        raise AssertionError("nothing runs")


class OwnOpened:
    def next_layer(self, layer, x):
        return None

    def opened(self):
        raise AssertionError("nothing runs")


class Loose:
    """Other names, defaults and star arguments are all right."""

    def propose(self, text, most=3, *rest):
        return None

    def verified(self, *arguments):
        return None


@pytest.mark.parametrize("slot", SLOTS)
def test_every_slot_asks_for_something(slot):
    with pytest.raises(SettingError, match=f"^given: the slot '{slot}' asks its policy, Nothing, for .* it has n"):
        generate(tiny("llama"), [1, 2, 3], [Given(lambda run: Nothing(), slot)])


@pytest.mark.parametrize(
    ("policy", "slot", "words"),
    [
        (TooFew, "draft", r"for propose\(tokens, limit\), and its own is propose\(tokens\): too many"),
        (TooFew, "switch", r"for choose_model\(entropies, verification\), and its own is choose_model\(entropies\)"),
        (TooFew, "experts", r"for choose_experts\(block, x, logits\), and its own is choose_experts\(block, logits\)"),
        (TooFew, "accept", r"for accept\(draft, logits, sampler\), and its own is .*: missing .* 'more'"),
        (TooFew, "stop", r"for stop\(generated\), and its own is .*: missing .* 'how'"),
        (Inherited, "draft", r"its policy, Inherited, for verified\(verification\), and it has no such method"),
        (OwnOpened, "depth", r"for opened\(opened_pass\), and its own is opened\(\)"),
        (NoPlace, "experts", r"for fetch_expert\(block, expert\), and its own is fetch_expert\(expert\)"),
        (lambda: None, "depth", r"its policy, NoneType, for next_layer\(layer, x\), and it has no such method"),
    ],
)
def test_other_arguments_than_the_slot_gives(policy, slot, words):
    with pytest.raises(SettingError, match=words):
        generate(tiny("llama"), [1, 2, 3], [Given(lambda run: policy(), slot)])


def test_a_switch_names_its_models():
    class NoModels:
        def choose_model(self, entropies, verification):
            return 0

    with pytest.raises(SettingError, match="for an attribute 'models', and it has none"):
        generate(tiny("llama"), [1, 2, 3], [Given(lambda run: NoModels(), "switch")])


def test_a_class_is_looked_at_once_and_an_object_that_differs_from_it_again(monkeypatch):
    looked, signature = [], inspect.signature
    monkeypatch.setattr("workbench.engine.policy_check._FITTING", set())
    monkeypatch.setattr(inspect, "signature", lambda method: looked.append(method.__name__) or signature(method))
    technique = Given(lambda run: Loose(), "draft")
    check_policy(technique, Loose())
    assert "propose" in looked and "verified" in looked
    looked.clear()
    check_policy(technique, Loose())
    assert looked == []
    different = Nothing()
    different.propose, different.verified = Loose().propose, Loose().verified
    check_policy(technique, different)
    with pytest.raises(SettingError, match="no such method"):
        check_policy(technique, Nothing())


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_of_the_registry_passes_at_every_example(name):
    for technique in (TECHNIQUES[name].neutral(), *TECHNIQUES[name].examples()):
        try:
            policy = technique.start(Run(tiny("llama"), (1, 2, 3, 4), 8, Sampler(), 0))
        except SettingError as error:
            pytest.skip(f"does not apply: {error}")
        check_policy(technique, policy)


def test_every_slot_has_a_protocol():
    assert list(PROTOCOLS) == list(SLOTS)
