"""A pass that is paused, thinned, joined, filled or handed over computes what a closed forward does, and only once."""

import pytest
import torch
from engine.scripted import Scripted
from helpers import random_tokens, run, tokens_of

from workbench.engine import Decoder, Draft, Look
from workbench.engine.rows import PassError
from workbench.models import Block
from workbench.models.tiny import tiny
from workbench.techniques import Goodput, PromptLookup, Technique

FAMILIES = ["llama", "gemma3_text", "mixtral", "gpt2", "gpt_oss"]
PROMPT = random_tokens(21)
DRAFT = random_tokens(6, seed=3)
TREE = [-1, 0, 0, 2, 1, 3]


def read(model, **options):
    decoder = Decoder(model, 32, **options)
    decoder.prefill(PROMPT)
    return decoder


def entries(decoder):
    """Everything the layers hold."""
    return [
        (layer.keys.clone(), layer.values.clone(), layer.positions.clone()) if layer.length else None
        for layer in decoder.cache.layers
    ]


def assert_same_entries(one, other):
    for ours, theirs in zip(one, other, strict=True):
        assert (ours is None) == (theirs is None)
        for mine, its in zip(ours or (), theirs or (), strict=True):
            assert torch.equal(mine, its)


def counts(decoder):
    return decoder.layers_run, decoder.keys_read, decoder.flops, decoder.bytes, decoder.experts_run, decoder.forwards


@pytest.mark.parametrize("parents", [None, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pause_at_every_layer_changes_nothing_bit_for_bit(family, parents):
    model = tiny(family)
    closed = read(model)
    expected = closed.forward(DRAFT, parents, "all")
    for stops in ([layer] for layer in range(model.layers + 1)), [range(model.layers)]:
        for stop in stops:
            paused = read(model)
            opened = paused.open(DRAFT, parents)
            for layer in stop:
                opened.run(until=layer)
                assert opened.layer == (layer if layer < model.layers else None)
                assert opened.unembed(who="looking").shape == expected.shape
            paused.ledger._spent.pop("looking")
            assert torch.equal(opened.finish("all"), expected)
            assert torch.equal(paused.hidden, closed.hidden)
            assert counts(paused) == counts(closed)
            assert_same_entries(entries(paused), entries(closed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_chunks_may_pause_too(family):
    model = tiny(family)
    whole, parts = Decoder(model), Decoder(model)
    whole.prefill(PROMPT, chunk=8, logits="all")
    for start in (0, 8, 16):
        opened = parts.open(PROMPT[start : start + 8], prefill=True, last_chunk=start == 16, length=21, prompt=True)
        opened.run(until=1)
        opened.run(until=3)
        opened.finish("none")
    assert_same_entries(entries(whole), entries(parts))
    assert torch.equal(whole.hidden[16:], parts.hidden)


def test_a_pause_keeps_what_a_compiled_step_has_begun(monkeypatch):
    """The fused step gives the next block's queries with the residual stream; they wait with it."""
    model = tiny("llama")
    plain, fused = read(model), read(model)

    class Steps:
        used = 0

        def usable(self, index, upcoming):
            return upcoming is not None

        def leave_and_enter(self, index, upcoming, x, attended, ropes):
            self.used += 1
            after = model.anatomy.blocks[index].leave(x, attended)
            block = model.anatomy.blocks[upcoming]
            return after, block.enter(after, ropes.get(block.rope_kind))

    fused.compiled_steps = steps = Steps()
    opened = fused.open([5])
    for layer in range(model.layers):
        opened.run(until=layer)
    assert torch.equal(opened.finish(), plain.forward([5])) and steps.used == model.layers - 1


def test_a_closed_pass_leaves_the_cache_as_it_was():
    for family in FAMILIES:
        decoder = read(tiny(family))
        before, length = entries(decoder), decoder.cache.length
        with decoder.open(DRAFT, TREE) as opened:
            opened.run(until=2)
            opened.fill([3])
        assert_same_entries(entries(decoder), before)
        assert decoder.cache.length == length
        decoder.forward(DRAFT)
    empty = Decoder(tiny("llama"))
    empty.open(PROMPT).close()
    assert empty.cache.length == empty.cache.read_as == 0 == empty.cache.layers[0].length


def test_only_one_pass_is_open():
    decoder = read(tiny("llama"))
    opened = decoder.open([5])
    with pytest.raises(PassError, match="finish or close it"):
        decoder.forward([6])
    opened.finish()
    with pytest.raises(PassError, match="over"):
        opened.run()
    with pytest.raises(PassError, match="run to its end"):
        opened.keep([0])
    with pytest.raises(PassError, match="postpone"):
        opened.fill([1])
    decoder.forward([6])


def test_an_error_in_a_pass_does_not_lock_its_decoder(monkeypatch, plain_steps):
    decoder = read(tiny("llama"))
    monkeypatch.setattr(Block, "leave", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decoder.forward([5])
    monkeypatch.undo()
    assert decoder.forward([5]).isfinite().all()


def test_every_site_can_be_tapped():
    model, heard = tiny("mixtral"), {}
    opened = read(model).open(DRAFT)
    opened.run(until=1)
    for site in ("query_key_value", "attention_output", "mlp_output", "router_logits", "residual"):
        opened.tap(site, lambda layer, value, site=site: heard.setdefault(site, []).append((layer, value)))
    opened.run(until=2)
    assert {site: [layer for layer, _ in each] for site, each in heard.items()} == {site: [1] for site in heard}
    assert len(heard) == 5 and torch.equal(heard["residual"][0][1], opened.x)
    opened.finish()
    assert [layer for layer, _ in heard["mlp_output"]] == list(range(1, model.layers))


def slow_rows(model, runs, tokens=DRAFT):
    """The residual stream of a chain in which row r runs only the layers ``runs[r]``, and the keys of every layer, row
    by row with everything written out; a row sees those at or before it that have an entry."""
    decoder = read(model)
    held = [(layer.keys[0], layer.values[0]) for layer in decoder.cache.layers]
    anatomy, start = model.anatomy, len(PROMPT)
    own = [[] for _ in held]
    streams = []
    with torch.inference_mode():
        for row, token in enumerate(tokens):
            position = torch.tensor([start + row])
            x = anatomy.embed(torch.tensor([[token]]), position)
            ropes = anatomy.rope(position)
            for index in runs[row]:
                block = anatomy.blocks[index]
                query, key, value = block.enter(x, ropes.get(block.rope_kind))
                own[index].append((start + row, key[0], value[0]))
                entries = [(place, held[index][0][:, [place]], held[index][1][:, [place]]) for place in range(start)]
                seen = [
                    each
                    for each in entries + own[index]
                    if block.window is None or start + row - each[0] < block.window
                ]
                keys, values = (torch.cat([each[part] for each in seen], 1) for part in (1, 2))
                groups = block.heads // block.kv_heads
                keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
                weights = block.scoring.weights(query[0] @ keys.transpose(1, 2))
                x = block.leave(x, (weights @ values)[None])
            streams.append(x[0, 0])
    return torch.stack(streams), [[place for place, _, _ in each] for each in own]


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_and_revived_rows_against_a_slow_restatement(family):
    model = tiny(family)
    last = model.layers - 1
    decoder = read(model)
    opened = decoder.open(DRAFT)
    opened.run(until=1)
    opened.keep([0, 2, 5])
    assert opened.shelf.rows() == [1, 3, 4] and opened.shelf.layer(3) == 1
    opened.run(until=last)
    opened.revive([3, 4])
    assert list(opened.rows) == [0, 2, 3, 4, 5]
    logits = opened.finish("all")
    whole, middle = range(model.layers), [0, last]
    expected, stands = slow_rows(model, [whole, [0], whole, middle, middle, whole])
    torch.testing.assert_close(decoder.hidden, expected, rtol=1e-4, atol=1e-4)
    assert logits.shape == (6, model.anatomy.vocabulary)
    for layer, positions in zip(decoder.cache.layers, stands):
        assert layer.positions[0, 21:].tolist() == positions
    # A later token sees what is there, by position.
    later = decoder.forward([7])
    expected, _ = slow_rows(model, [whole, [0], whole, middle, middle, whole, whole], [*DRAFT, 7])
    torch.testing.assert_close(later, model.anatomy.unembed(expected[-1:]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fill_is_what_entering_the_block_gives(family):
    model = tiny(family)
    decoder = read(model)
    opened = decoder.open(DRAFT[:3])
    opened.run(until=2)
    stream = opened.x.clone()
    opened.exit()
    opened.fill(range(2, model.layers))
    spent = decoder.ledger.of("policy")
    block = model.anatomy.blocks[2]
    weight = block.query_key_value.weight
    assert spent.flops == (model.layers - 2) * 2 * 3 * weight.numel()
    assert spent.bytes == (model.layers - 2) * 4 * (weight.numel() + 2 * 3 * block.kv_heads * block.head_dim)
    with torch.inference_mode():
        expected = model.anatomy.unembed(stream[0])
    assert torch.equal(opened.finish("all"), expected)
    ropes = model.anatomy.rope(torch.arange(21, 24))
    for block, layer in list(zip(model.anatomy.blocks, decoder.cache.layers))[2:]:
        with torch.inference_mode():
            _, key, value = block.enter(stream, ropes.get(block.rope_kind))
        assert torch.equal(layer.keys[:, :, 21:], key) and torch.equal(layer.values[:, :, 21:], value)
        assert layer.contiguous and layer.length == 24


def test_rows_of_the_shelf_are_filled_and_taken_back_with_their_tokens():
    model = tiny("llama")
    decoder = read(model)
    opened = decoder.open(DRAFT[:4])
    opened.run(until=2)
    opened.keep([0, 1])
    opened.fill([2, 3], rows=[2, 3])
    opened.finish("all")
    assert decoder.cache.keys_kept() == (25,) * 4
    assert [layer.positions[0, 21:].tolist() for layer in decoder.cache.layers[2:]] == [[23, 24, 21, 22]] * 2
    decoder.commit(4, [0, 1, 2])
    assert decoder.cache.keys_kept() == (24,) * 4 and decoder.cache.length == 24
    assert sorted(decoder.cache.layers[2].positions[0, 21:].tolist()) == [21, 22, 23]


class Exit:
    """Every token but each third leaves after two layers, and is pending until one goes deep."""

    def __init__(self, joins):
        self._joins, self.deep = joins, 0

    def opened(self, opened):
        self._pass = opened

    def next_layer(self, layer, x):
        last = self._pass.decoder.model.layers - 1
        if layer == 1 and not self._pass.prefill:
            token = self._pass.tokens[-1]
            if token % 3:
                self._pass.postpone()
                return None
            if self._joins:
                self.deep += len(self._pass.join_pending())
            else:
                shelf = self._pass.decoder.shelf
                rows = shelf.rows()
                if rows:
                    self._pass.fill(range(2, last + 1), x=shelf.take(rows), positions=rows)
        return layer + 1 if layer < last else None


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_pending_rows_of_exits_run_in_a_batch_with_a_later_token(family):
    """After the batch every layer holds what it would if all tokens had gone deep (Bae et al., FREE, 2023)."""
    model = tiny(family)
    policy = Exit(joins=True)
    decoder = read(model, policies={"depth": policy})
    for token in (7, 8, 10):
        decoder.forward([token])
        assert decoder.layers_run[-2:] == [0, 1]
    assert decoder.shelf.rows() == [21, 22, 23] and decoder.cache.keys_kept()[2:] == (21,) * (model.layers - 2)
    found = decoder.forward([9])
    assert policy.deep == 3 and not len(decoder.shelf)
    plain = read(model)
    expected = plain.forward([7, 8, 10, 9])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for layer, other in zip(decoder.cache.layers, plain.cache.layers):
        assert layer.contiguous
        torch.testing.assert_close(layer.keys, other.keys, rtol=1e-4, atol=1e-4)
    assert decoder.hidden.shape == (1, model.anatomy.width)


def test_pending_rows_with_holes_between_them_see_the_text_by_position():
    """A token that went deep alone has an entry that the pending one before it must not see."""
    model = tiny("llama")
    decoder = read(model)
    opened = decoder.open([7])
    opened.run(until=2)
    opened.postpone()
    opened.exit()
    opened.finish()
    decoder.forward([8])
    assert [layer.length for layer in decoder.cache.layers] == [23, 23, 22, 22]
    opened = decoder.open([9])
    opened.run(until=2)
    assert opened.join_pending() == [-2]
    opened.finish()
    # Row 21 saw the text up to itself: the same as if it had gone on at once.
    plain = read(model)
    plain.forward([7])
    layer = decoder.cache.layers[3]
    place = layer.positions[0].tolist().index(21)
    torch.testing.assert_close(layer.keys[:, :, place], plain.cache.layers[3].keys[:, :, 21], rtol=1e-4, atol=1e-4)


def test_an_exit_is_filled_later_and_rejected_tokens_leave_the_shelf():
    model = tiny("llama")
    decoder = read(model, policies={"depth": Exit(joins=False)})
    decoder.forward([7])
    decoder.forward([5, 6, 8, 10], logits="all")
    assert decoder.shelf.rows() == [21, 22, 23, 24, 25]
    decoder.commit(4, [0, 1])
    assert decoder.shelf.rows() == [21, 22, 23]
    decoder.cache.crop_to(23)
    decoder.forward([9])
    assert not len(decoder.shelf)
    assert decoder.cache.keys_kept() == (24,) * 4
    assert all(sorted(layer.positions[0].tolist()) == list(range(24)) for layer in decoder.cache.layers)


class Twice:
    """Layer 1 runs twice in a row."""

    def __init__(self):
        self._again = False

    def next_layer(self, layer, x):
        self._again = layer == 1 and not self._again
        return 1 if self._again else layer + 1 if layer < 3 else None


class Repeat(Technique):
    slots = ("depth",)
    exact = False
    paper = "none"
    name = "repeat"

    def start(self, run):
        return Twice()

    @classmethod
    def neutral(cls):
        return cls()


def small_tree(text, limit):
    return Draft([text[-1], text[0], text[1], 5, text[2]], [-1, -1, 0, 1, 2]) if limit > 2 else Draft()


TREES = Scripted(small_tree)


@pytest.mark.parametrize("drafter", [PromptLookup(), TREES], ids=["chain", "tree"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_repeated_layer_goes_with_drafts(family, drafter):
    """Each drafted token sees the entries that it would see if it came alone, of both visits."""
    model, prompt = tiny(family), random_tokens(7) * 3
    alone, drafted = run(model, prompt, [Repeat()]), run(model, prompt, [Repeat(), drafter])
    assert tokens_of(alone) == tokens_of(drafted)
    assert sum(step.drafted for step in drafted) > 0
    length = len(prompt) + len(tokens_of(drafted)) - 1
    assert drafted[-1].keys_kept == alone[-1].keys_kept == tuple(length * (1 + (layer == 1)) for layer in range(4))


def test_an_earlier_row_sees_no_entry_of_a_later_row_of_any_visit():
    model = tiny("llama")
    decoder, alone = (read(model, policies={"depth": Twice()}) for _ in range(2))
    together = decoder.forward(DRAFT, TREE, "all")
    for node, way in ((0, [0]), (1, [0, 1]), (5, [0, 2, 3, 5])):
        length = alone.cache.length
        for place in way:
            row = alone.forward([DRAFT[place]])
        torch.testing.assert_close(together[node], row[0], rtol=1e-4, atol=1e-4)
        for layer in alone.cache.layers:
            layer.crop(len(way) * (1 + (layer is alone.cache.layers[1])))
        alone.cache.length = length
    decoder.commit(6, [0, 2, 3])
    assert decoder.cache.keys_kept() == (24, 48, 24, 24)
    assert sorted(decoder.cache.layers[1].positions[0, 42:].tolist()) == [21, 21, 22, 22, 23, 23]


class LowerLayers(Technique):
    """Drafts with the model's own first two layers and hands the pass over."""

    slots = ("draft",)
    exact = True
    paper = "none"
    name = "lower_layers"

    def __init__(self, length=3, at_once=False):
        self.length, self.at_once = length, at_once

    def start(self, run):
        self._decoder = None
        return self

    @classmethod
    def neutral(cls):
        return cls(0)

    def propose(self, tokens, limit):
        if self._decoder is None or self._decoder.cache.length != len(tokens) - 1:
            return Draft()
        opened, chain = self._decoder.open([tokens[-1]]), []
        opened.run(until=2)
        for _ in range(min(self.length, limit)):
            chain.append(int(opened.unembed([len(chain)], who="draft").argmax()))
            opened.more(chain[-1:])
        return Draft(chain, paused=opened)

    def verified(self, verification):
        self._decoder = verification.decoder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("others", [[], [Goodput()]], ids=["alone", "pruned"])
def test_a_drafter_that_hands_over_its_pass_is_exact_and_no_layer_runs_twice(family, others, monkeypatch, plain_steps):
    model, rows = tiny(family), []
    plain = run(model, PROMPT, new=20)
    leave = Block.leave
    monkeypatch.setattr(
        Block, "leave", lambda block, x, *given: rows.append((block.index, x.shape[1])) or leave(block, x, *given)
    )
    steps = run(model, PROMPT, [LowerLayers(), *others], new=20)
    assert tokens_of(steps) == tokens_of(plain)
    assert sum(step.drafted for step in steps) > 0
    if not others:
        verified = sum(1 + step.drafted for step in steps[1:]) + len(PROMPT)
        for layer in range(model.layers):
            assert sum(count for index, count in rows if index == layer) == verified
    assert all(step.keys_kept == (len(PROMPT) + place,) * model.layers for place, step in _ends(steps))
    # One unembedding for every drafted token, beside the model's own.
    heads = [step.flops - step.policy_flops for step in steps if step.drafted]
    assert min(heads) > 0 and all(step.policy_flops == 0 for step in steps)


def _ends(steps):
    done = 0
    for step in steps:
        done += len(step.tokens)
        yield done - 1, step


def test_a_pass_of_another_draft_is_closed_and_the_draft_verified_anew():
    model = tiny("llama")
    decoders = []

    def propose(text, limit):
        if not decoders or limit < 1:
            return Draft()
        opened = decoders[-1].open([text[-1]])
        opened.run(until=1)
        return Draft([4], paused=opened)  # not what the pass has read

    drafter = Scripted(propose)
    drafter.verified = lambda verification: decoders.append(verification.decoder)
    assert tokens_of(run(model, PROMPT, [drafter])) == tokens_of(run(model, PROMPT))


def test_a_paused_pass_is_pruned_with_its_draft():
    for family in FAMILIES:
        model = tiny(family)
        decoder, other = read(model), read(model)
        opened = decoder.open(DRAFT, TREE)
        opened.run(until=2)
        draft = Draft(DRAFT[1:], [parent - 1 for parent in TREE[1:]], paused=opened)
        pruned = draft.pruned([1, 2])
        assert pruned.paused.tokens == [DRAFT[place] for place in (0, 2, 3)]
        found = opened.finish("all")
        expected = other.forward([DRAFT[place] for place in (0, 2, 3)], [-1, 0, 1], "all")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert decoder.cache.keys_kept() == other.cache.keys_kept()


def test_a_look_sees_the_pass_before_its_layer_also_when_nothing_is_drafted():
    model, seen = tiny("llama"), []
    look = Look(2, lambda opened: seen.append((opened.layer, opened.streams(range(opened.count)))))
    steps = run(model, PROMPT, [Scripted(lambda text, limit: Draft(looks=(look,)))], new=4)
    assert tokens_of(steps) == tokens_of(run(model, PROMPT, new=4))
    # The last step may draft nothing, and is not asked.
    assert [layer for layer, _ in seen] == [2, 2]
    told = {}
    decoder = read(model, watch=lambda site, layer, value: told.update({(site, layer): value}))
    decoder.forward(list(steps[0].tokens))
    assert torch.equal(seen[0][1], told["residual", 1][0])


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("stands", [1, 3, None])
def test_tokens_that_are_added_are_seen_on_their_way(family, stands):
    model, seen = tiny(family), []
    decoder, told = read(model), {}
    opened = decoder.open(DRAFT[:2])
    opened.run(stands)
    looks = [
        Look(layer, lambda opened: seen.append((opened.layer, list(opened.rows), opened.x[0]))) for layer in (1, 2)
    ]
    opened.more(DRAFT[2:4], looks=looks)
    assert opened.layer == stands and list(opened.rows) == [0, 1, 2, 3]
    other = read(model, watch=lambda site, layer, value: told.update({(site, layer): value}))
    expected = other.forward(DRAFT[:4], logits="all")
    torch.testing.assert_close(opened.finish("all"), expected, rtol=1e-4, atol=1e-4)
    # No further than where the pass stands.
    at = [min(layer, stands or layer) for layer in (1, 2)]
    assert [(layer, rows) for layer, rows, _ in seen] == [(layer, [2, 3]) for layer in at]
    for layer, _, x in seen:
        torch.testing.assert_close(x, told["residual", layer - 1][0, 2:4], rtol=1e-4, atol=1e-4)


def test_rows_join_and_tokens_are_added_only_where_they_can():
    opened = read(tiny("llama")).open(DRAFT)
    width = opened.x.shape[2]
    with pytest.raises(PassError, match="either"):
        opened.join(torch.zeros(1, width))
    with pytest.raises(PassError, match="increasing positions"):
        opened.join(torch.zeros(1, width), positions=[21])
    with pytest.raises(PassError, match="exit"):
        opened.keep([])
    with pytest.raises(PassError, match="on the shelf"):
        opened.revive([3])
    opened.join(torch.zeros(1, width), parents=[5])
    with pytest.raises(PassError, match="before rows join"):
        opened.more([3])
    assert opened.finish("all").shape[0] == 6 and opened.decoder.ahead.shape[0] == 1
