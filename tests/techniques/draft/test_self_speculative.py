"""The exit's draft is verified from the exit on: same text, and not a product more than its tokens and their heads."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

import workbench
from workbench.engine import Decoder
from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.tiny import tiny
from workbench.parts.exits import load_accelerated, load_lens
from workbench.techniques import ConfidenceExit, DynamicExitLayer, Goodput, SelfSpeculative
from workbench.techniques.draft.self_speculative import Threshold
from workbench_kernels.arithmetic import compiled

PROMPT = random_tokens(12) * 2
DYNAMIC = DynamicExitLayer(stride=1, draft=5, count_head=False, confident=False, lens="logit")
ALL = {"threshold": 0.0, "draft": 3, "lens": "logit"}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_exact_in_every_family(family):
    model = tiny(family)
    plain = tokens_of(run(model, PROMPT, new=16))
    steps = run(model, PROMPT, [SelfSpeculative(exit_layer=0.7, **ALL)], new=16)
    assert tokens_of(steps) == plain
    assert sum(step.drafted for step in steps) > 0


@pytest.mark.parametrize("lens", ["logit", "untrained"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox"])
def test_nothing_is_computed_twice(family, lens):
    """FLOPs are those of the tokens one by one and of the exit's heads; bytes those of the layers above read once."""
    model, exit_layer = tiny(family), 2
    head, blocks = load_lens(model, lens).head(exit_layer - 1), model.anatomy.blocks
    steps = run(model, PROMPT, [SelfSpeculative(exit_layer=exit_layer, **{**ALL, "lens": lens})], new=14)
    text, slow = [*PROMPT, *steps[0].tokens], Decoder(model)
    slow.prefill(PROMPT)
    assert any(step.drafted for step in steps)
    # The tiny Gemma repeats itself, which its exits know.
    assert family == "gemma3_text" or any(step.accepted < step.drafted for step in steps)
    for step in steps[1:]:
        drafted = [token for token, *_ in step.nodes]
        rows, held = 1 + len(drafted), slow.cache.length
        slow.reset_counts()
        for token in [text[-1], *drafted]:
            slow.forward([token])
        assert step.flops == slow.flops + len(drafted) * head.flops(1)
        slow.cache.crop_to(held)
        moved = len(drafted) * head.bytes(1) + model.anatomy.head.bytes(rows)
        for block, layer in zip(blocks, slow.cache.layers):
            window = block.window or held + rows
            if block.index < exit_layer:
                read = [min(held + row + 1, window) for row in range(rows)]
                moved += sum(block.bytes(1) + (each + 1) * layer.entry_bytes for each in read)
            else:
                read = min(held + 1, window) if rows == 1 else held + rows
                moved += block.bytes(rows) + (read + rows) * layer.entry_bytes
        assert step.bytes == moved
        below, above = [[*range(exit_layer)], [*range(exit_layer, model.layers)]]
        assert list(step.layers) == below * rows + above
        slow.forward([text[-1], *step.tokens[:-1]])
        text += step.tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_same_bit_for_bit_where_the_kernels_promise_it(dtype):
    if not compiled(dtype):
        pytest.skip(f"nothing is compiled for {dtype} here")
    for family in ("llama", "gemma3_text", "gpt2"):
        model = tiny(family, seed=4, dtype=dtype)
        plain = run(model, PROMPT, new=20, logits=True)
        steps = run(model, PROMPT, [SelfSpeculative(exit_layer=0.5, **ALL)], new=20, logits=True)
        assert tokens_of(steps) == tokens_of(plain)
        assert torch.equal(*(torch.cat([step.logits for step in each]) for each in (steps, plain)))


def test_a_pruned_draft_and_a_short_one_are_exact():
    model = tiny("llama")
    plain = tokens_of(run(model, PROMPT))
    assert tokens_of(run(model, PROMPT, [SelfSpeculative(draft=6, threshold=0, lens="logit"), Goodput()])) == plain
    chances = [
        chance
        for step in run(model, PROMPT, [SelfSpeculative(draft=6, threshold=0, lens="logit")])
        for *_, chance in step.nodes
    ]
    middle = sorted(chances)[len(chances) // 2]
    for keep_last in (False, True):
        steps = run(model, PROMPT, [SelfSpeculative(draft=6, threshold=middle, keep_last=keep_last, lens="logit")])
        assert tokens_of(steps) == plain
        # A token that is not sure ends its draft, and only the length ends a draft of sure ones.
        for step in steps[1:]:
            chances = [chance for *_, chance in step.nodes]
            assert all(chance >= middle for chance in (chances[:-1] if keep_last else chances))
        lengths = {step.drafted for step in steps[1:-1]}
        assert min(lengths) == int(keep_last) < max(lengths)


@pytest.mark.parametrize("drafter", [SelfSpeculative(exit_layer=4, **ALL), DYNAMIC], ids=lambda each: each.name)
@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
def test_tokens_that_leave_early_leave_what_they_leave_without_drafts(fill, drafter):
    model, layers, drafted = tiny("llama", layers=6), set(), 0
    exits = ConfidenceExit(lens="untrained", measure="margin", threshold=0.05, first=0, every=1, fill=fill)
    for seed in range(6):
        prompt = random_tokens(4, seed)
        plain, steps = run(model, prompt, [exits]), run(model, prompt, [exits, drafter])
        assert tokens_of(steps) == tokens_of(plain)
        layers |= {len(step.layers) for step in plain}
        drafted += sum(step.drafted for step in steps)
    assert len(layers) > 2 and drafted


def test_an_exit_that_is_not_sure_costs_its_head_alone():
    model = tiny("llama")
    head = load_lens(model, "logit").head(1)
    steps, plain = run(model, PROMPT, [SelfSpeculative(threshold=1.0, lens="logit")]), run(model, PROMPT)
    for step, other in zip(steps[1:-1], plain[1:-1], strict=True):
        assert step.layers == other.layers and not step.drafted
        assert (step.flops - other.flops, step.bytes - other.bytes) == (head.flops(1), head.bytes(1))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_an_accelerated_exit_drafts_what_its_stream_says_and_is_exact(family):
    """Replayed by hand: the stream of each token is followed through the layers that draft, and counted."""
    model = tiny(family)
    technique = SelfSpeculative(exit_layer=3, lens="untrained", accelerated=True, draft=3, threshold=0, vocabulary=0)
    steps, plain = run(model, PROMPT, [technique]), run(model, PROMPT)
    assert tokens_of(steps) == tokens_of(plain)
    lens, text = load_accelerated(model, "untrained"), list(PROMPT)
    for step in steps:
        if step.drafted:
            drafted, slow = [token for token, *_ in step.nodes], Decoder(model)
            slow.prefill(text[:-1])
            with torch.inference_mode(), slow.open([text[-1], *drafted]) as opened:
                lead = None
                for layer in range(3):
                    opened.run(until=layer + 1)
                    lead = lens.advance(opened.x[0], layer, lead)
                said = model.anatomy.unembed(opened.x[0] + lead).argmax(-1)
            assert said[:-1].tolist() == drafted
            accelerators = sum(lens.seeing(layer, 1)[0] for layer in range(3))
            head = 2 * model.anatomy.width * model.anatomy.vocabulary
            slow.reset_counts()
            for token in [text[-1], *drafted]:
                slow.forward([token])
            assert step.flops - slow.flops == len(drafted) * (accelerators + head)
        text += step.tokens
    assert sum(step.drafted for step in steps) > 3


def test_the_threshold_follows_the_paper_s_rule():
    threshold, value, accepted = Threshold(0.5, 0.8), 0.5, 0.0
    for drafted, kept in ((4, 4), (2, 2), (4, 4), (3, 0), (4, 3)):
        threshold.learn(drafted, kept, most=4)
        accepted = 0.5 * accepted + 0.5 * kept / drafted
        step = 0.01 if accepted < 0.8 else 0.0 if drafted == 4 else -0.01
        value = 0.9 * value + 0.1 * (value + step)
        assert threshold.value == pytest.approx(value)
    fixed = Threshold(0.5, 0.0)
    fixed.learn(4, 0, most=4)
    assert fixed.value == 0.5 and fixed.ends(0.49) and not fixed.ends(0.5)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_only_frequent_tokens_are_drafted_where_that_is_asked(temperature):
    model = tiny("llama")
    few = SelfSpeculative(exit_layer=0.5, vocabulary=20, **ALL)
    steps = run(model, PROMPT, [few], temperature=temperature)
    drafted = [token for step in steps for token, *_ in step.nodes]
    assert drafted and max(drafted) < 20
    if not temperature:
        whole = run(model, PROMPT, [SelfSpeculative(exit_layer=0.5, **ALL)])
        assert tokens_of(steps) == tokens_of(whole)
        spared = 2 * (model.anatomy.vocabulary - 20) * model.anatomy.width
        assert whole[1].flops - steps[1].flops == whole[1].drafted * spared


def test_an_exit_that_leaves_nothing_to_verify_is_refused():
    for exit_layer in (4, 0.9, 30):
        with pytest.raises(SettingError, match="take 1 … 3"):
            workbench.generate(tiny("llama"), PROMPT, [SelfSpeculative(exit_layer=exit_layer)])


def test_a_broken_number_of_layers_is_refused():
    with pytest.raises(SettingError, match=r"exit_layer=1.7 is no number of layers: take 1 … 3, or a share below 1"):
        workbench.generate(tiny("llama"), PROMPT, [SelfSpeculative(exit_layer=1.7)])


@pytest.mark.bundled
def test_a_later_exit_of_real_weights_is_right_more_often(bundled):
    """And the drafts of its middle are seldom right: the model was not trained to leave early."""
    prompt = bundled.encode("def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return")
    plain, shares = tokens_of(run(bundled, prompt, new=12)), []
    for exit_layer in (15, 28):
        steps = run(bundled, prompt, [SelfSpeculative(exit_layer=exit_layer, **ALL)], new=12)
        assert tokens_of(steps) == plain
        shares.append(sum(step.accepted for step in steps) / sum(step.drafted for step in steps))
    assert shares[0] < 0.3 < shares[1]


@pytest.mark.bundled
def test_real_weights_in_bfloat16_are_the_same_bit_for_bit(bundled):
    if not compiled(torch.bfloat16):
        pytest.skip("nothing is compiled for bfloat16 here")
    model = workbench.load("smollm2-135m", dtype="bfloat16", device="cpu")
    prompt = model.encode("1, 2, 3, 4, 5, 6, 7, 8, 9,")
    plain = run(model, prompt, new=16, logits=True)
    steps = run(model, prompt, [SelfSpeculative(exit_layer=27, vocabulary=8192, **ALL)], new=16, logits=True)
    assert tokens_of(steps) == tokens_of(plain) and sum(step.accepted for step in steps) > 0
    assert torch.equal(*(torch.cat([step.logits for step in each]) for each in (steps, plain)))
