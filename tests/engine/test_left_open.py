"""Passes that fail, are left open or are closed late leave nothing behind; what cannot be meant is refused."""

import weakref

import pytest
import torch
from engine.scripted import Scripted
from engine.test_passes import FAMILIES, PROMPT, assert_same_entries, entries, read
from helpers import run, tokens_of
from toys.recurrent import with_recurrent_layers

from workbench.engine import Decoder, Draft, Look, Lookahead, generate
from workbench.engine.rows import PassError
from workbench.engine.shelf import Shelf
from workbench.errors import SettingError, WorkbenchError
from workbench.models import Block
from workbench.models.tiny import tiny
from workbench.techniques import Technique


class Own(Technique):
    """A technique whose policy a test gives."""

    exact = False
    paper = "none"
    name = "own"

    def __init__(self, slot, policy):
        self.slots, self._policy = (slot,), policy

    def start(self, run):
        return self._policy

    @classmethod
    def neutral(cls):
        raise NotImplementedError


@pytest.mark.parametrize("model", [*FAMILIES, "recurrent"])
def test_an_error_in_a_block_takes_the_entries_of_its_pass_back(model, monkeypatch, plain_steps):
    model = with_recurrent_layers(tiny("llama")) if model == "recurrent" else tiny(model)
    decoder, plain = read(model), read(model)
    add, calls = Block.add, []

    def fails(block, *given):
        calls.append(block)
        if len(calls) == 3:
            raise ZeroDivisionError
        return add(block, *given)

    monkeypatch.setattr(Block, "add", fails)
    with pytest.raises(ZeroDivisionError):
        decoder.forward([5, 6])
    monkeypatch.undo()
    assert [layer.length for layer in decoder.cache.layers] == [layer.length for layer in plain.cache.layers]
    assert torch.equal(decoder.forward([5, 6], logits="all"), plain.forward([5, 6], logits="all"))


def test_an_error_of_a_look_or_of_a_depth_policy_does_not_lock_the_decoder():
    model = tiny("llama")
    decoder = read(model)
    before = entries(decoder)
    with pytest.raises(ZeroDivisionError):
        decoder.complete(decoder.open([5]), looks=[Look(2, lambda opened: 1 / 0)])
    assert_same_entries(entries(decoder), before)
    decoder.forward([5])


class OpensEarly:
    """Opens the pass of the next draft as soon as the last one is verified."""

    def __init__(self):
        self.opened = None

    def propose(self, tokens, limit):
        opened, self.opened = self.opened, None
        token = int(opened.unembed([0], who="draft").argmax())
        opened.more([token])
        return Draft([token], paused=opened)

    def verified(self, verification):
        self.opened = verification.decoder.open([verification.tokens[-1]])
        self.opened.run(until=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_that_a_drafter_opened_early_may_be_asked_for_no_more(family):
    """At the last token nobody asks for a draft; and the state has none of its entries."""
    model = tiny(family)
    plain = tokens_of(run(model, PROMPT, new=20))
    for new in range(1, 10):
        generation = generate(model, PROMPT, [Own("draft", OpensEarly())], max_new_tokens=new, stop_tokens=())
        assert tokens_of(generation) == plain[:new]
        cache = next(iter(generation.state.caches.values()))
        assert set(cache.keys_kept()) == {len(PROMPT) + new - 1} == {cache.length}
        more = generate(model, [], max_new_tokens=10, stop_tokens=(), past=generation.state)
        assert tokens_of(more) == plain[new : new + 10]
    closed = generate(model, PROMPT, [Own("draft", OpensEarly())], max_new_tokens=20, stop_tokens=())
    next(closed)
    closed.close()
    assert set(next(iter(closed.state.caches.values())).keys_kept()) == {len(PROMPT)}


def test_a_paused_pass_with_other_parents_than_its_draft_is_closed():
    model = tiny("llama")
    decoders, seen = [], []

    def propose(text, limit):
        if not decoders or limit < 2:
            return Draft()
        opened = decoders[-1].open([text[-1], 4, 9])  # a chain, where the draft has siblings
        opened.run(until=1)
        return Draft([4, 9], [-1, -1], paused=opened)

    def verified(verification):
        decoders.append(verification.decoder)
        if verification.draft.tokens:
            seen.append(verification.logits)

    drafter, other = Scripted(propose), Scripted(lambda text, limit: Draft([4, 9], [-1, -1]) if limit > 1 else Draft())
    drafter.verified = verified
    run(model, PROMPT, [drafter], new=6)
    run(model, PROMPT, [other], new=6)
    expected = [each.logits for each in other.verifications if each.draft.tokens]
    for one, two in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_a_closed_pass_gives_pending_rows_back():
    decoder = read(tiny("llama"))
    opened = decoder.open([7])
    opened.run(until=2)
    opened.postpone()
    opened.exit()
    opened.finish()
    opened = decoder.open([8])
    opened.run(until=2)
    assert opened.join_pending() == [-1]
    opened.close()
    assert decoder.shelf.rows() == [21] and decoder.shelf.layer(21) == 2


def test_rows_on_a_shelf_hold_no_others_alive():
    shelf, stream = Shelf(), torch.zeros(500, 4)
    shelf.put(range(500), stream, 1)
    shelf.take(range(499))
    assert shelf._rows[499][1].untyped_storage().nbytes() == 16


def test_a_pass_that_is_over_is_let_go():
    decoder = read(tiny("llama"))
    opened = decoder.open([5])
    opened.finish()
    held = weakref.ref(opened)
    del opened
    assert held() is None


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_depth_policy_names_a_layer_that_there_is(layer):
    class Wrong:
        def next_layer(self, after, x):
            return after + 1 if after < 1 else layer

    decoder = read(tiny("llama"))
    decoder.depth = Wrong()
    with pytest.raises(PassError, match=r"Wrong of the slot 'depth' chose layer .* take 0 … 3"):
        decoder.forward([5])
    decoder.depth = None
    assert decoder.forward([5]).isfinite().all() and decoder.cache.layers[0].length == len(PROMPT) + 1


def test_rows_and_their_streams_are_as_many():
    decoder = read(tiny("llama"))
    for tokens, parents in (([5, 6], [-1]), ([5], [-1, 0]), ([], None)):
        with pytest.raises(PassError, match="token"):
            decoder.open(tokens, parents)
    opened = decoder.open([5, 6])
    opened.run(until=1)
    wide = opened.x.shape[2]
    for x in (torch.zeros(2, wide), torch.zeros(1, wide + 1), torch.zeros(1, 1, wide)):
        with pytest.raises(PassError, match="residual stream of 1 rows"):
            opened.fill([2], rows=[0], x=x)
        with pytest.raises(PassError, match="residual stream of 1 rows"):
            opened.join(x, parents=[1])
    opened.fill([2], rows=opened.shelf.rows())  # none is none
    opened.fill([2], x=torch.zeros(0, wide), positions=[])
    assert decoder.cache.layers[2].length == len(PROMPT)


class Chooses:
    def __init__(self, run, place):
        self.models, self._run, self._place = (run.model,), run, place

    def choose_model(self, entropies, verification):
        self._run.ledger.count("router", flops=1000, bytes=10)
        return self._place


class Switch(Own):
    def __init__(self, place):
        super().__init__("switch", place)

    def start(self, run):
        return Chooses(run, self._policy)


def test_what_a_switch_spends_on_its_choice_is_counted():
    model = tiny("llama")
    plain, steps = run(model, PROMPT, new=5), run(model, PROMPT, [Switch(0)], new=5)
    assert [step.policy_flops for step in steps] == [1000] * 5
    assert [step.flops - 1000 for step in steps] == [step.flops for step in plain]


@pytest.mark.parametrize("place", [-1, 1])
def test_a_switch_names_a_model_that_there_is(place):
    with pytest.raises(SettingError, match=r"own: choose_model gave .* or None to stay"):
        list(generate(tiny("llama"), PROMPT, [Switch(place)], max_new_tokens=3))


def test_a_run_that_is_closed_before_its_first_step_lets_its_policies_go():
    closed = []
    drafter = Scripted(lambda text, limit: Draft())
    drafter.close = lambda: closed.append(1)
    generation = generate(tiny("llama"), PROMPT, [drafter])
    generation.close()
    assert closed == [1]


@pytest.mark.parametrize(("kept", "logits"), [([0, 1], "last"), ([0, 2], "all")])
def test_rows_that_were_dropped_for_good_have_no_logits(kept, logits):
    """Those of another row would be taken for theirs."""
    decoder = read(tiny("llama"))
    opened = decoder.open([5, 6, 7])
    opened.run(until=1)
    opened.keep(kept, shelve=False)
    with opened, pytest.raises(PassError, match="dropped for good"):
        opened.finish(logits)
    assert decoder.cache.length == decoder.cache.layers[0].length == len(PROMPT)
    opened = decoder.open([5, 6, 7])
    opened.run(until=1)
    opened.keep([2], shelve=False)
    assert opened.finish("last").shape[0] == 1


def test_a_context_policy_keeps_the_last_token():
    class Forgets:
        def select(self, layer, x, positions):
            return torch.arange(x.shape[1] - 1) if layer == 1 else None

    with pytest.raises(PassError, match="dropped for good"):
        Decoder(tiny("llama"), policies={"context": Forgets()}).prefill(PROMPT)


@pytest.mark.parametrize("chosen", [[3, 3], [-1], [48], [0.5], [[1, 2]]])
def test_neurons_are_named_once_each(chosen):
    class Neurons:
        def neurons(self, block, x):
            return torch.tensor(chosen)

    with pytest.raises(SettingError, match=r"Neurons of the slot 'mlp' chose neurons with .* among 0 … 47"):
        Decoder(tiny("llama"), policies={"mlp": Neurons()}).prefill(PROMPT)


def rows_ahead(roots, orders):
    return Lookahead(roots, orders, lambda x, orders: x)


@pytest.mark.parametrize(
    "draft",
    [
        Draft([4, 5, 6, 7]),
        Draft([4, 5, 6, 7], [-1, 0, 1, 2]),
        Draft([4, 5, 6, 7, 8, 9], [-1, -1, 0, 2, 3, 0]),
        Draft([4, 5, 6], ahead=rows_ahead([3], [1])),
        Draft([4, 5], [-1, -1], ahead=rows_ahead([2, 2, 2], [1, 2, 3])),
        Draft(ahead=rows_ahead([0, 0, 0, 0], [1, 2, 3, 4])),
    ],
)
def test_a_draft_that_goes_further_than_its_limit_is_refused(draft):
    """Four tokens depth, where after the prompt's token three more are wanted beside the model's own."""
    drafter = Scripted(lambda text, limit: draft if limit == 3 else Draft())
    stream = generate(tiny("llama"), PROMPT, [drafter], max_new_tokens=5, stop_tokens=())
    next(stream)
    with pytest.raises(WorkbenchError, match=r"scripted: the slot 'draft' gave a draft of 4 .* limit was 3"):
        next(stream)


def test_a_draft_as_deep_as_its_limit_may_have_more_nodes():
    draft = Draft([4, 5, 6, 7, 8, 9], [-1, -1, 0, 2, 0, 1], ahead=rows_ahead([0, 0, 5], [1, 2, 1]))
    drafter = Scripted(lambda text, limit: draft if limit == 3 else Draft())
    plain, drafted = (tokens_of(run(tiny("llama"), PROMPT, each, new=5)) for each in ([], [drafter]))
    assert draft.reach() == 3 and drafted == plain
    assert drafter.verifications[1].draft is draft


def test_a_length_beyond_its_limit_is_refused():
    class Long:
        def limit(self, text, limit):
            return limit + 1

        def prune(self, draft):
            return draft

        def measured(self, verification, draft_seconds, verify_seconds):
            pass

    techniques = [Scripted(lambda text, limit: Draft()), Own("draft_length", Long())]
    with pytest.raises(WorkbenchError, match=r"own: the slot 'draft_length' gave a length of 4 .* limit was 3"):
        list(generate(tiny("llama"), PROMPT, techniques, max_new_tokens=5, stop_tokens=()))
