"""Rows that were postponed are pending in the state of a run, and the run that goes on takes them in."""

import pytest
import torch
from engine.given import Given
from engine.scripted import Scripted
from helpers import tokens_of
from toys.four_bit import FourBit

from workbench.engine import Decoder, Draft, generate
from workbench.models.tiny import tiny

PROMPT, NEW, CUT = [5, 17, 60, 4, 33, 8], 16, 8


class Exits:
    """A token whose number three does not divide leaves after two layers, and is pending until one goes deep."""

    def opened(self, opened):
        self._pass, self.joined = opened, getattr(self, "joined", 0)
        opened.postpone()

    def next_layer(self, layer, x):
        opened, last = self._pass, self._pass.decoder.model.layers - 1
        if layer == 1 and not opened.prefill:
            deep = [row for row in opened.rows if opened.tokens[row] % 3 == 0]
            if not deep:
                return None
            opened.keep(deep)
            self.joined += len(opened.join_pending())
        return layer + 1 if layer < last else None


def exits():
    return Given(lambda run: Exits(), "depth", stepwise=True)


def right_and_wrong(truth):
    """A drafter of trees: the right token, if it exits or the last one does not, and a wrong one that exits."""

    def propose(text, limit):
        right = truth[len(text) - len(PROMPT)]
        wrong = 7 if right == 8 else 8
        return Draft([right, wrong], [-1, -1]) if right % 3 or text[-1] % 3 == 0 else Draft([wrong])

    return Scripted(propose)


@pytest.fixture(scope="module")
def truth():
    return {family: tokens_of(said(tiny(family), PROMPT, [exits()], NEW)) for family in ("llama", "mistral")}


def said(model, prompt, techniques, new, past=None):
    return generate(model, prompt, techniques, max_new_tokens=new, stop_tokens=(), past=past)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("drafts", [False, True])
def test_a_run_that_was_cut_says_what_it_would_have_said(family, drafts, truth):
    model, whole = tiny(family), truth[family]
    pending, joined, accepted = 0, 0, 0
    for cut in range(1, NEW):
        techniques = [exits(), *([right_and_wrong(whole)] if drafts else [])]
        first = said(model, PROMPT, techniques, cut)
        steps = list(first)
        accepted += sum(step.accepted for step in steps)
        assert tokens_of(steps) == whole[:cut]
        state = first.state
        shelf = state.caches[state.model].shelf
        pending += len(shelf)
        before = shelf.rows()
        for _ in range(2):
            second = said(model, [], techniques, NEW - cut, state)
            assert tokens_of(second) == whole[cut:]
        joined += techniques[0].policies[-1].joined
        assert shelf.rows() == before, "the run that goes on has a copy"
    assert pending > NEW / 2 and joined and bool(accepted) == drafts


def test_the_caches_of_a_cut_run_are_those_of_a_whole_one(truth):
    model = tiny("llama")
    whole = said(model, PROMPT, [exits()], NEW)
    first = said(model, PROMPT, [exits()], CUT)
    tokens_of(whole), tokens_of(first)
    assert len(first.state.caches[first.state.model].shelf)
    second = said(model, [], [exits()], NEW - CUT, first.state)
    tokens_of(second)
    one, two = (each.state.caches[each.state.model] for each in (whole, second))
    assert one.shelf.rows() == two.shelf.rows() and one.keys_kept() == two.keys_kept()
    for layer, other in zip(one.layers, two.layers):
        assert torch.equal(layer.positions.sort().values, other.positions.sort().values)
    for row in one.shelf.rows():
        torch.testing.assert_close(one.shelf.look([row]), two.shelf.look([row]), rtol=1e-4, atol=1e-4)


def test_a_state_says_what_is_pending_and_other_stores_take_it_over():
    model, states = tiny("llama"), []
    for technique in (exits(), Given(lambda run: Drops(), "depth")):
        stream = said(model, PROMPT, [technique], 8)
        tokens = tokens_of(stream)
        states.append(stream.state)
    pending, dropped = states
    assert len(pending.caches[pending.model].shelf) and not dropped.caches[dropped.model].shelf
    assert pending.describe()["sha256"] != dropped.describe()["sha256"]
    four_bit = said(model, [], [exits(), FourBit()], 4, pending)
    assert len(tokens_of(four_bit)) == 4 and len(tokens) == 8


class Drops(Exits):
    """The same, but none is pending."""

    def opened(self, opened):
        self._pass, self.joined = opened, 0


def test_a_cache_goes_back_to_what_was_pending():
    decoder = Decoder(tiny("llama"), policies={"depth": Exits()})
    decoder.prefill(PROMPT)
    decoder.forward([7])
    before = decoder.cache.snapshot()
    decoder.forward([8])
    assert decoder.shelf.rows() == [6, 7]
    decoder.cache.restore(before)
    assert decoder.shelf.rows() == [6] and decoder.cache.copy(4).shelf.rows() == [6]
    decoder.forward([9])
    assert not decoder.shelf and decoder.cache.keys_kept() == (8,) * 4
