"""Rows that leave early, against every token by itself with everything written out: what later tokens find of them."""

import pytest
import torch
from helpers import random_tokens
from toys.recurrent import with_recurrent_layers

from workbench.engine import Chance, Decoder, Run, Sampler
from workbench.engine.answers import Answers
from workbench.engine.rows import PassError
from workbench.errors import SettingError
from workbench.models.removed import without
from workbench.models.tiny import tiny
from workbench.techniques import DynamicExitLayer
from workbench.techniques.depth._exit import ExitPolicy

FAMILIES = ["llama", "gemma3_text", "gpt2", "mixtral"]
PROMPT = random_tokens(21)
TOKENS = random_tokens(7, seed=3)
EXITS = [1, None, 0, 2, 1, None, 0]
"""The layer after which each token leaves, in four layers."""


class Planned(ExitPolicy):
    """The token at each place of the text leaves where it was planned to; what it says is twice its stream."""

    def __init__(self, model, fill, exits=EXITS):
        run = Run(model, tuple(PROMPT), 40, Sampler(chance=Chance(0)), 0)
        super().__init__(run, range(3), fill)
        self._exits = exits

    def leaving(self, layer, opened, rows):
        found = [row for row in rows if self._exits[opened.start + opened.relation.depth(row) - len(PROMPT)] == layer]
        return found, 2 * opened.streams(found) if found else opened.x[0, :0], None


def decoder_of(model, fill, exits=EXITS):
    decoder = Decoder(model, 32, {"depth": Planned(model, fill, exits)})
    decoder.prefill(PROMPT, prompt=True)
    return decoder


def slow(model, fill, exits=EXITS):
    """Logits [tokens, vocabulary] of TOKENS one by one, and by layer the (position, key, value) held at the end."""
    plain = Decoder(model)
    plain.prefill(PROMPT)
    anatomy = model.anatomy
    held = [
        [(place, layer.keys[0, :, [place]], layer.values[0, :, [place]]) for place in range(len(PROMPT))]
        for layer in plain.cache.layers
    ]
    waiting, said = [], []  # of a batch: (position, layer to run next, stream)

    def step(index, position, x):
        """Run a block for one token, and hold its entry."""
        block, ropes = anatomy.blocks[index], anatomy.rope(torch.tensor([position]))
        query, key, value = block.enter(x[None, None], ropes.get(block.rope_kind))
        held[index].append((position, key[0], value[0]))
        seen = [
            each
            for each in held[index]
            if each[0] <= position and (block.window is None or position - each[0] < block.window)
        ]
        keys, values = (torch.cat([each[part] for each in seen], 1) for part in (1, 2))
        groups = block.heads // block.kv_heads
        weights = block.scoring.weights(query[0] @ keys.repeat_interleave(groups, 0).transpose(1, 2))
        return block.leave(x[None, None], (weights @ values.repeat_interleave(groups, 0))[None])[0, 0]

    with torch.inference_mode():
        for row, token in enumerate(TOKENS):
            position, leaves = len(PROMPT) + row, exits[row]
            x = anatomy.embed(torch.tensor([[token]]), torch.tensor([position]))[0, 0]
            for index in range(4):
                if fill == "batch":
                    for place, (earlier, reached, stream) in enumerate(waiting):
                        if reached == index:
                            waiting[place] = earlier, index + 1, step(index, earlier, stream)
                x = step(index, position, x)
                if leaves == index:
                    break
            said.append(x if leaves is None else 2 * x)
            if leaves is not None and fill == "copy":
                for block in anatomy.blocks[leaves + 1 :]:
                    ropes = anatomy.rope(torch.tensor([position]))
                    _, key, value = block.enter(x[None, None], ropes.get(block.rope_kind))
                    held[block.index].append((position, key[0], value[0]))
            if leaves is not None and fill == "batch":
                waiting.append((position, leaves + 1, x))
        return anatomy.unembed(torch.stack(said)), held


def assert_holds(decoder, held):
    for layer, expected in zip(decoder.cache.layers, held, strict=True):
        order = layer.positions[0].argsort()
        expected = sorted(expected, key=lambda each: each[0])
        assert layer.positions[0, order].tolist() == [each[0] for each in expected]
        for entries, part in ((layer.keys, 1), (layer.values, 2)):
            torch.testing.assert_close(
                entries[0, :, order], torch.cat([each[part] for each in expected], 1), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_by_one_later_tokens_see_what_the_fill_says(family, fill):
    model = tiny(family)
    decoder = decoder_of(model, fill)
    expected, held = slow(model, fill)
    found = torch.cat([decoder.forward([token]) for token in TOKENS])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert_holds(decoder, held)
    assert len(decoder.shelf) == (fill == "batch")  # the last token waits


@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_together_in_a_pass_they_say_the_same(family, fill):
    """As verified drafts do; a row of a batch may go deeper than alone, with the entries that it would get later."""
    model = tiny(family)
    decoder = decoder_of(model, fill)
    expected, held = slow(model, fill)
    found = decoder.forward(TOKENS, logits="all")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert_holds(decoder, held)
    assert decoder.hidden.shape == (len(TOKENS), model.anatomy.width)


@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rejected_tokens_leave_nothing_behind(family, fill):
    """Of a draft the first three stay; what comes then is as if no more had been drafted."""
    model = tiny(family)
    decoder = decoder_of(model, fill)
    decoder.forward([*TOKENS[:3], *random_tokens(4, seed=9)], logits="all")
    decoder.commit(7, [0, 1, 2])
    expected, held = slow(model, fill)
    found = torch.cat([decoder.forward([token]) for token in TOKENS[3:]])
    torch.testing.assert_close(found, expected[3:], rtol=1e-4, atol=1e-4)
    assert_holds(decoder, held)


@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
def test_a_closed_pass_takes_exits_and_fills_back(fill):
    model = tiny("llama")
    decoder = decoder_of(model, fill)
    first = decoder.forward(TOKENS[:1])
    lengths = [layer.length for layer in decoder.cache.layers]
    with decoder.open(TOKENS[1:]) as opened:
        opened.run(until=3)
    assert [layer.length for layer in decoder.cache.layers] == lengths
    expected, _ = slow(model, fill)
    torch.testing.assert_close(first, expected[:1], rtol=1e-4, atol=1e-4)
    found = decoder.forward(TOKENS[1:], logits="all")
    torch.testing.assert_close(found, expected[1:], rtol=1e-4, atol=1e-4)


def test_a_batch_is_the_whole_model_for_tokens_that_go_to_the_end():
    """Whoever reaches the end sees what it would have seen had nobody left."""
    model = tiny("llama")
    decoder, plain = decoder_of(model, "batch"), Decoder(model)
    plain.prefill(PROMPT)
    for token, leaves in zip(TOKENS, EXITS):
        found, expected = decoder.forward([token]), plain.forward([token])
        if leaves is None:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_next_turn_fills_what_still_waits():
    model = tiny("llama")
    decoder, plain = decoder_of(model, "batch", [1, 0, 1, None]), Decoder(model)
    plain.prefill(PROMPT)
    for token in TOKENS[:3]:
        decoder.forward([token])
    decoder.prefill(TOKENS[3:], context=0)  # the next prompt, a question after what is held
    plain.forward(TOKENS, logits="none")
    assert not len(decoder.shelf)
    for ours, theirs in zip(decoder.cache.layers, plain.cache.layers):
        order = ours.positions[0].argsort()
        torch.testing.assert_close(ours.keys[:, :, order], theirs.keys, rtol=1e-4, atol=1e-4)


def test_the_prompt_runs_through_all_layers():
    decoder = decoder_of(tiny("llama"), "copy")
    assert decoder.layers_run == [0, 1, 2, 3]


def test_work_is_counted_where_it_is_done():
    """Of a copy the projections are the policy's; layers above an exit are nobody's."""
    model = tiny("llama")
    for fill in ("hole", "copy"):
        decoder = decoder_of(model, fill, [1])
        decoder.reset_counts()
        decoder.forward([5])
        assert decoder.layers_run == [0, 1]
        width = model.anatomy.width
        block = model.anatomy.blocks[2]
        weight, entry = block.query_key_value.weight.numel(), 2 * block.kv_heads * block.head_dim
        spent = decoder.ledger.of("policy")
        assert spent.flops == (2 * 2 * weight if fill == "copy" else 0)
        assert spent.bytes == (2 * 4 * (weight + entry) if fill == "copy" else 0)
        plain = Decoder(model.shallow(2), 8)
        plain.prefill(PROMPT)
        plain.reset_counts()
        plain.forward([5])
        assert decoder.ledger.of("model").flops == plain.ledger.of("model").flops > 2 * width * model.anatomy.vocabulary


def test_stretches_between_checks_run_in_one_call_where_they_can(monkeypatch):
    model = tiny("llama", layers=8)
    decoder = Decoder(model, 32, {"depth": Planned(model, "hole", [None, 2])})
    decoder.depth._asked, decoder.depth.checked, decoder.depth._last = [2, 5, 7], {2, 5}, 7
    if decoder.fused is None:
        pytest.skip("nothing is compiled here")
    calls, run = [], decoder.fused.run
    monkeypatch.setattr(decoder.fused, "run", lambda first, x, layers, *more: (
        calls.append((first, len(layers))), run(first, x, layers, *more)
    )[1])  # fmt: skip
    decoder.prefill(PROMPT, prompt=True)
    plain = Decoder(model, 32, {"depth": decoder.depth})
    plain.fused = None
    assert calls == [(0, 3), (3, 3), (6, 2)]
    assert torch.equal(decoder.forward([5]), plain_forward(plain, [5]))
    assert torch.equal(decoder.forward([6]), plain.forward([6])) and decoder.layers_run[-3:] == [0, 1, 2]


def plain_forward(decoder, tokens):
    decoder.prefill(PROMPT, prompt=True)
    return decoder.forward(tokens)


def test_logits_that_are_known_are_not_computed_again():
    model = tiny("llama")
    decoder, known = Decoder(model), torch.full((2, model.anatomy.vocabulary), 3.0)
    with decoder.open(PROMPT[:3]) as opened:
        opened.run(until=2)
        opened.answers.give([0, 2], 2 * opened.streams([0, 2]), known)
        spent = decoder.ledger.of("model").flops
        opened.exit()
        found, stream = opened.finish("all"), opened.x[0]
    assert torch.equal(found[[0, 2]], known) and decoder.ledger.of("model").flops - spent == model.anatomy.head.flops(1)
    with torch.inference_mode():
        assert torch.equal(found[1:2], model.anatomy.unembed(stream[1:2]))
    assert torch.equal(decoder.hidden, stream * torch.tensor([2.0, 1.0, 2.0])[:, None])


def test_a_pruned_pass_keeps_the_answers_of_what_stays():
    model = tiny("llama")
    decoder = Decoder(model)
    with decoder.open(PROMPT[:4], parents=[-1, 0, 0, 2]) as opened:
        opened.run(until=2)
        opened.answers.give([1, 2], opened.streams([3, 3]))
        expected = opened.streams([3])
        opened.prune([0, 2, 3])
        opened.exit()
        opened.finish("all")
    assert torch.equal(decoder.hidden[1:2], expected) and not torch.equal(decoder.hidden[:1], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_pass_keeps_earlier_tokens_that_run_with_it(family):
    model, exits = tiny(family), [1, *[None] * 6]
    decoder = decoder_of(model, "batch", exits)
    expected, held = slow(model, "batch", exits)
    found = [decoder.forward(TOKENS[:1])]
    with decoder.open(TOKENS[1:2]) as opened:
        opened.run(3)
        opened.more([*TOKENS[2:4], 5])
        assert list(opened.rows) == [-1, 0, 1, 2, 3]
        opened.prune([0, 1, 2])
        found.append(opened.finish("all"))
    torch.testing.assert_close(torch.cat(found), expected[:4], rtol=1e-4, atol=1e-4)
    assert_holds(decoder, [[each for each in layer if each[0] < len(PROMPT) + 4] for layer in held])


@pytest.mark.parametrize("fill", ["hole", "copy"])
def test_added_tokens_may_leave_before_the_others_or_go_on_without_them(fill):
    model, exits = tiny("llama"), [None, 0, 1, *[None] * 4]
    decoder, (expected, held) = decoder_of(model, fill, exits), slow(model, fill, exits)
    with decoder.open(TOKENS[:1]) as opened:
        opened.run(3)
        opened.more(TOKENS[1:2])
        assert (opened.layer, list(opened.rows), opened.shelf.rows(), opened.shelf.layer(1)) == (3, [0], [1], 1)
        found = [opened.finish("all")]
    with decoder.open(TOKENS[2:3]) as opened:
        opened.run()
        assert opened.stopped == 2
        opened.more(TOKENS[3:4])
        assert (opened.stopped, list(opened.rows), opened.shelf.rows()) == (None, [1], [0])
        found.append(opened.finish("all"))
    torch.testing.assert_close(torch.cat(found), expected[:4], rtol=1e-4, atol=1e-4)
    assert_holds(decoder, [[each for each in layer if each[0] < len(PROMPT) + 4] for layer in held])


def test_a_drafter_s_looks_pass_over_earlier_tokens_that_join_and_rows_that_have_left():
    model = tiny("llama")
    decoder = decoder_of(model, "batch", [1, None, 1, *[None] * 4])
    decoder.forward(TOKENS[:1])
    drafter = DynamicExitLayer(stride=1, lens="logit").start(
        Run(model, tuple(PROMPT), 40, Sampler(chance=Chance(0)), 0)
    )
    with decoder.open(TOKENS[1:2]) as opened:
        for look in drafter._looks():
            opened.run(look.layer)
            look.see(opened)
        assert list(opened.rows) == [-1, 0]
        opened.more(TOKENS[2:3], looks=drafter._looks())
    assert [[len(x) for x in drafter._streams[layer]] for layer in (1, 2, 3)] == [[1, 1], [1], [1]]
    assert torch.equal(drafter._streams[3][0], opened.streams([0]))


def test_answers_that_are_none_are_refused():
    with pytest.raises(PassError, match="2 rows answer"):
        Answers().give([0, 1], torch.zeros(1, 4))


def test_a_layer_with_a_state_cannot_be_filled():
    model = with_recurrent_layers(tiny("llama"))
    for fill in ("copy", "batch"):
        with pytest.raises(SettingError, match="set fill=hole"):
            Planned(model, fill)
    Planned(model, "hole")


@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
def test_blocks_less_a_sublayer_remember_nothing_and_need_no_fill(fill):
    """A model without the attention of layer 1 and without layer 2, together and one by one."""
    full = tiny("llama")
    blocks = full.anatomy.blocks
    gone = {1: without(blocks[1], attention=True), 2: without(blocks[2], attention=True, mlp=True)}
    model = full.variant(replace=gone)
    together, alone = (decoder_of(model, fill, [0, None, 1, 0, 2, None, 0]) for _ in range(2))
    found = together.forward(TOKENS, logits="all")
    expected = torch.cat([alone.forward([token]) for token in TOKENS])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    held = {"hole": 23, "copy": 28, "batch": 27}[fill]  # the last one waits
    assert alone.cache.keys_kept() == (28, 0, 0, held)
