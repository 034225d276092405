"""What every technique promises, over the registry, its examples and a tiny model of every family.

A technique that is registered is tested here without a line of its own.
"""

import functools
import itertools

import pytest
import torch
from helpers import applicable, checksum, facts, hooks, random_tokens, run, tokens_of

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import SLOTS, generate, teacher_force
from workbench.errors import IncompatibleTechniques
from workbench.models import FAMILIES, Block
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES

NEW = 24
# Long enough that every example has something to evict, to skip and to look up: the second half repeats the first.
PROMPT = random_tokens(24) * 2
EXAMPLES = [(name, place) for name, kind in TECHNIQUES.items() for place in range(len(kind.examples()))]
EXACT = [(name, place) for name, place in EXAMPLES if TECHNIQUES[name].exact]
# One family of each kind of block: plain, sliding window and two rotary tables, learned positions, parallel, experts.
KINDS = ("llama", "gemma3_text", "gpt2", "gpt_neox", "mixtral")
# These kinds, soft caps and learned sinks meet every technique; the other families one of each way into a model:
# chains, trees, rows beside a verification, keys scored, chosen and moved. The time must not grow with both tables.
EVERY_TECHNIQUE = (*KINDS, "gemma2", "gpt_oss")
EVERY_FAMILY = ("prompt_lookup", "token_recycling", "hidden_transfer", "snap_kv", "token_select", "streaming_llm")


def meeting(cases):
    """Names, or (name, place), with the families that they meet."""
    named = [(case, case if isinstance(case, str) else case[0]) for case in cases]
    return [
        (case, family)
        for family in FAMILIES
        for case, name in named
        if family in EVERY_TECHNIQUE or name in EVERY_FAMILY
    ]


def shared_slot(one, other):
    """The first slot that both claim and that holds one, or None."""
    taken = TECHNIQUES[one].slots
    return next((slot for slot in TECHNIQUES[other].slots if slot in taken and SLOTS[slot] == "one"), None)


def excluded(one, other):
    return one in TECHNIQUES[other].excludes or other in TECHNIQUES[one].excludes


PAIRS = list(itertools.combinations_with_replacement(TECHNIQUES, 2))
CLASHING = [pair for pair in PAIRS if shared_slot(*pair) or excluded(*pair)]
TOGETHER = [pair for pair in PAIRS if pair[0] != pair[1] and pair not in CLASHING]

examples = pytest.mark.parametrize(("name", "place"), EXAMPLES, ids=lambda value: str(value))
kinds = pytest.mark.parametrize("family", KINDS)


def example(name, place=0):
    return TECHNIQUES[name].examples()[place]


@functools.cache
def baseline(family, new=NEW):
    return list(generate(tiny(family), PROMPT, max_new_tokens=new, stop_tokens=()))


def logits(model, continuation, techniques=(), seed=0):
    with applicable():
        return torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, continuation, techniques, seed)])


@pytest.mark.parametrize("name", TECHNIQUES)
def test_it_says_what_it_is(name):
    kind = TECHNIQUES[name]
    assert kind.slots and set(kind.slots) <= set(SLOTS)
    assert isinstance(kind.exact, bool) and isinstance(kind.stepwise, bool)
    assert isinstance(kind.neutral(), kind)
    assert kind.examples() and all(isinstance(each, kind) for each in kind.examples())
    assert kind.neutral() not in kind.examples(), "a neutral example shows nothing"
    assert set(kind.excludes) <= set(TECHNIQUES)


@pytest.mark.parametrize(("name", "family"), meeting(TECHNIQUES))
def test_the_neutral_setting_is_the_baseline(name, family):
    model = tiny(family)
    continuation = random_tokens(NEW, seed=7)
    neutral = TECHNIQUES[name].neutral()
    torch.testing.assert_close(
        logits(model, continuation, [neutral]), logits(model, continuation), rtol=1e-4, atol=1e-4
    )
    assert tokens_of(run(model, PROMPT, [neutral], NEW)) == tokens_of(baseline(family))


@pytest.mark.parametrize(("case", "family"), meeting(EXACT), ids=str)
def test_exact_means_the_same_tokens(case, family):
    name, place = case
    steps = run(tiny(family), PROMPT, [example(name, place)], NEW)
    assert tokens_of(steps) == tokens_of(baseline(family))


@kinds
@examples
def test_one_seed_gives_one_stream_of_facts(name, place, family):
    model, technique = tiny(family), example(name, place)
    first, second = (run(model, PROMPT, [technique], NEW, seed=3, temperature=0.8) for _ in range(2))
    assert list(map(facts, first)) == list(map(facts, second))
    assert len(tokens_of(first)) == NEW
    for step in first:
        assert len(step.keys_read) == len(step.layers) >= 1
        assert len(step.keys_kept) == model.layers or step.model != model.name
        assert step.accepted <= step.drafted and len(step.tokens) >= 1
        assert step.flops > 0 and step.bytes > 0 and step.cache_bytes > 0


@kinds
@examples
def test_a_free_run_and_a_teacher_forced_one_are_the_same_run(name, place, family):
    """Quality is measured teacher-forced: a technique that acts between tokens must say so with ``stepwise``."""
    model, technique = tiny(family), example(name, place)
    if not technique.exact and "accept" in technique.slots:
        pytest.skip("it accepts what the model would not say, and teacher forcing leaves acceptance out")
    said = tokens_of(run(model, PROMPT, [technique], NEW))
    assert logits(model, said, [technique]).argmax(-1).tolist() == said


@kinds
@examples
def test_an_error_in_the_middle_of_a_forward_leaves_the_model_as_it_was(name, place, family, monkeypatch):
    model, technique = tiny(family), example(name, place)
    before, expected = checksum(model), list(map(facts, baseline(family)))
    calls, leave = itertools.count(), Block.leave

    def failing(*arguments, **keywords):
        if next(calls) == 2 * model.layers + 1:
            raise RuntimeError("the power went out")
        return leave(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Block, "leave", failing)
        with pytest.raises(RuntimeError, match="the power went out"):
            run(model, PROMPT, [technique], NEW)
    assert checksum(model) == before
    assert hooks(model) == 0
    assert list(map(facts, run(model, PROMPT, new=NEW))) == expected


@examples
def test_a_run_that_is_closed_early_leaves_the_model_as_it_was(name, place):
    model, technique = tiny("llama"), example(name, place)
    before = checksum(model)
    with applicable():
        stream = generate(model, PROMPT, [technique], max_new_tokens=NEW, stop_tokens=())
    next(stream), next(stream)
    stream.close()
    assert checksum(model) == before
    assert list(map(facts, run(model, PROMPT, new=NEW))) == list(map(facts, baseline("llama")))


@examples
def test_a_technique_can_run_again(name, place):
    """State lives in the policy of one run, not in the technique."""
    model, technique = tiny("llama"), example(name, place)
    first = list(map(facts, run(model, PROMPT, [technique], NEW)))
    run(model, random_tokens(30, seed=9), [technique], NEW)
    assert list(map(facts, run(model, PROMPT, [technique], NEW))) == first
    assert technique == example(name, place)


@pytest.mark.parametrize(("one", "other"), CLASHING)
def test_two_for_one_slot_clash_before_anything_runs(one, other):
    with pytest.raises(IncompatibleTechniques) as caught:
        generate(tiny("llama"), PROMPT, [example(one), example(other, -1)])
    message = str(caught.value)
    assert one in message and other in message
    assert excluded(one, other) or any(repr(slot) in message for slot in TECHNIQUES[one].slots)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_two_for_different_slots_run_together(one, other, family):
    first, second, model = example(one), example(other), tiny(family)
    steps = run(model, PROMPT, [first, second], NEW)
    together = tokens_of(steps)
    assert len(together) == NEW
    if not set(first.slots) & set(second.slots):
        assert together == tokens_of(run(model, PROMPT, [second, first], NEW)), "the order of two slots must not matter"
    if first.exact and second.exact:
        assert together == tokens_of(baseline(family))
    for exact, changing in ((first, second), (second, first)):
        if exact.exact and not changing.stepwise:
            # What one makes of the model, the exact one must not change further.
            assert together == tokens_of(run(model, PROMPT, [changing], NEW))


@kinds
@pytest.mark.parametrize(("name", "place"), [case for case in EXAMPLES if "evict" in TECHNIQUES[case[0]].slots])
def test_a_smaller_cache_is_smaller_in_memory(name, place, family):
    model = tiny(family)
    steps, full = run(model, PROMPT, [example(name, place)], NEW), baseline(family)
    for step, reference in zip(steps, full):
        assert step.cache_bytes < reference.cache_bytes
    # What is said to be held is what the buffers hold: two tensors, entries and what is reserved for those to come.
    block = model.anatomy.blocks[0]
    entry = 2 * block.kv_heads * block.head_dim * 4
    assert sum(steps[-1].keys_kept) * entry <= steps[-1].cache_bytes


# Not Gemma: its tiny windows hold no more than is read anyway.
@pytest.mark.parametrize("family", [family for family in KINDS if family != "gemma3_text"])
@pytest.mark.parametrize(("name", "place"), [case for case in EXAMPLES if "attention" in TECHNIQUES[case[0]].slots])
def test_an_attention_technique_reads_fewer_keys_at_some_step(name, place, family):
    model = tiny(family)
    steps, full = run(model, PROMPT, [example(name, place)], NEW), baseline(family)
    fewer = [sum(step.keys_read) < sum(reference.keys_read) for step, reference in zip(steps, full)]
    assert any(fewer), "it read as many keys as the baseline at every step"
