"""What every technique promises, over the registry, its examples and tiny models.

A technique that is registered is tested here without a line of its own, and the time of all this grows as the number of
techniques, not as that of pairs or of families:

- Those that enter blocks or caches meet every family (:data:`contract_cases.ENTERING`), and so do three drafters that
  stand for what any drafter asks of a model; the others meet the five kinds of blocks, soft caps and sinks.
- A free run and a teacher-forced one are compared on five kinds of blocks, but on one where teacher forcing leaves the
  technique out: there only the baseline runs twice, and that the technique's text is the baseline's is shown on all.
- An error in the middle is thrown at five kinds of blocks, at two where the technique only drafts, accepts or stops: it
  has nothing in the blocks that could be left there, and a second model is cut from either in the same way.
- Two techniques together are :mod:`test_contract_pairs`.
"""

import functools
import itertools

import pytest
import torch
from contract_cases import (
    ENTERING,
    EXAMPLES,
    KINDS,
    NEW,
    PROMPT,
    UNFORCED,
    alone,
    baseline,
    example,
    families,
    forced,
    tiny,
)
from helpers import applicable, checksum, facts, hooks, random_tokens, run, tokens_of

from workbench.engine import SLOTS, generate, teacher_force
from workbench.models import Block
from workbench.registry import TECHNIQUES

CONTINUATION = random_tokens(NEW, seed=7)


def met(names, chosen=families):
    """(name, family) for every family that a technique meets."""
    return [(name, family) for name in names for family in chosen(name)]


def met_by_example(chosen, wanted=lambda name: True):
    """(name, place, family) for every example."""
    return [(name, place, family) for name, place in EXAMPLES if wanted(name) for family in chosen(name)]


every_example = pytest.mark.parametrize(("name", "place"), EXAMPLES)
on_kinds = pytest.mark.parametrize(("name", "place", "family"), met_by_example(lambda name: KINDS))


def logits(model, continuation, techniques=(), seed=0):
    with applicable():
        return torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, continuation, techniques, seed)])


@functools.cache
def plain_logits(family):
    return logits(tiny(family), CONTINUATION)


def test_every_slot_is_known_to_enter_the_model_or_not():
    """A new slot is sorted in ``contract_cases``: its techniques meet every family or only the kinds."""
    assert ENTERING | UNFORCED | {"logits", "switch"} == set(SLOTS)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_it_says_what_it_is(name):
    kind = TECHNIQUES[name]
    assert kind.slots and set(kind.slots) <= set(SLOTS)
    assert isinstance(kind.exact, bool) and isinstance(kind.stepwise, bool)
    assert isinstance(kind.neutral(), kind)
    assert kind.examples() and all(isinstance(each, kind) for each in kind.examples())
    assert kind.neutral() not in kind.examples(), "a neutral example shows nothing"
    assert set(kind.excludes) <= set(TECHNIQUES)


@pytest.mark.parametrize(("name", "family"), met(TECHNIQUES))
def test_the_neutral_setting_is_the_baseline(name, family):
    model, neutral = tiny(family), TECHNIQUES[name].neutral()
    found = logits(model, CONTINUATION, [neutral])
    torch.testing.assert_close(found, plain_logits(family), rtol=1e-4, atol=1e-4)
    assert tokens_of(run(model, PROMPT, [neutral], NEW)) == tokens_of(baseline(family))


@pytest.mark.parametrize(("name", "place", "family"), met_by_example(families, lambda name: TECHNIQUES[name].exact))
def test_exact_means_the_same_tokens(name, place, family):
    assert tokens_of(alone(name, place, family)) == tokens_of(baseline(family))


@on_kinds
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


@pytest.mark.parametrize(("name", "place", "family"), met_by_example(lambda name: KINDS if forced(name) else KINDS[:1]))
def test_a_free_run_and_a_teacher_forced_one_are_the_same_run(name, place, family):
    """Quality is measured teacher-forced: a technique that acts between tokens must say so with ``stepwise``."""
    model, technique = tiny(family), example(name, place)
    if not technique.exact and "accept" in technique.slots:
        pytest.skip("it accepts what the model would not say, and teacher forcing leaves acceptance out")
    said = tokens_of(alone(name, place, family))
    assert logits(model, said, [technique]).argmax(-1).tolist() == said


@pytest.mark.parametrize(("name", "place", "family"), met_by_example(lambda name: KINDS if forced(name) else KINDS[:2]))
def test_an_error_in_the_middle_of_a_forward_leaves_the_model_as_it_was(name, place, family, monkeypatch, plain_steps):
    model, technique = tiny(family), example(name, place)
    before, expected = (checksum(model), hooks(model)), list(map(facts, baseline(family)))
    calls, leave = itertools.count(), Block.leave

    def failing(*arguments, **keywords):
        if next(calls) == 2 * model.layers + 1:
            raise RuntimeError("the power went out")
        return leave(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Block, "leave", failing)
        with pytest.raises(RuntimeError, match="the power went out"):
            run(model, PROMPT, [technique], NEW)
    # transformers itself leaves hooks on a model that was once asked for its hidden states.
    assert (checksum(model), hooks(model)) == before
    assert list(map(facts, run(model, PROMPT, new=NEW))) == expected


@every_example
def test_a_run_that_is_closed_early_leaves_the_model_as_it_was(name, place):
    model, technique = tiny("llama"), example(name, place)
    before = checksum(model)
    with applicable():
        stream = generate(model, PROMPT, [technique], max_new_tokens=NEW, stop_tokens=())
    next(stream), next(stream)
    stream.close()
    assert checksum(model) == before
    assert list(map(facts, run(model, PROMPT, new=NEW))) == list(map(facts, baseline("llama")))


@every_example
def test_a_technique_can_run_again(name, place):
    """State lives in the policy of one run, not in the technique."""
    model, technique = tiny("llama"), example(name, place)
    first = list(map(facts, alone(name, place, "llama")))
    run(model, random_tokens(30, seed=9), [technique], NEW)
    assert list(map(facts, run(model, PROMPT, [technique], NEW))) == first
    assert technique == example(name, place)


@pytest.mark.parametrize(
    ("name", "place", "family"), met_by_example(lambda name: KINDS, lambda name: "evict" in TECHNIQUES[name].slots)
)
def test_a_smaller_cache_is_smaller_in_memory(name, place, family):
    steps, full = alone(name, place, family), baseline(family)
    for step, reference in zip(steps, full):
        assert step.cache_bytes < reference.cache_bytes
    # What is said to be held is what the buffers hold: two tensors, entries and what is reserved for those to come.
    block = tiny(family).anatomy.blocks[0]
    entry = 2 * block.kv_heads * block.head_dim * 4
    assert sum(steps[-1].keys_kept) * entry <= steps[-1].cache_bytes


# Not Gemma: its tiny windows hold no more than is read anyway.
@pytest.mark.parametrize(
    ("name", "place", "family"),
    met_by_example(
        lambda name: [family for family in KINDS if family != "gemma3_text"],
        lambda name: "attention" in TECHNIQUES[name].slots,
    ),
)
def test_an_attention_technique_reads_fewer_keys_at_some_step(name, place, family):
    steps, full = alone(name, place, family), baseline(family)
    fewer = [sum(step.keys_read) < sum(reference.keys_read) for step, reference in zip(steps, full)]
    assert any(fewer), "it read as many keys as the baseline at every step"
