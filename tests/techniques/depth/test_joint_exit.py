"""Who leaves where against the gates, replayed by hand, what checks cost, and what joint exits are worth."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from techniques.replayed import leaves_as
from techniques.trained_parts import needs_artefact

from workbench.engine import generate, teacher_force
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits.joint import NAME, load_joint
from workbench.parts.exits.joint import features as numbers_of
from workbench.techniques import JointExit, PromptLookup

PROMPT = random_tokens(20)


@pytest.mark.parametrize(("family", "threshold"), [("llama", 0.4), ("llama", 0.5), ("gpt2", 0.4)])
def test_a_token_leaves_at_the_first_gate_that_is_open(family, threshold):
    """Without a fill, replayed by hand: the stream, its map, the logits of the frequent tokens, the gate."""
    model = tiny(family, layers=6)
    technique = JointExit(weights="untrained", threshold=threshold, fill="hole")
    steps = run(model, PROMPT, [technique], new=24)
    lens = load_joint(model, "untrained")
    assert lens.layers == (1, 2, 3, 4) and lens.tokens == 32

    def look(token, layer, x):
        if layer not in lens.layers:
            return x, False
        moved = lens.stream(x, layer)
        weight, offset = lens._gates[layer]
        read = numbers_of(model.anatomy.unembed(moved)[:, :32])
        leaves = float((read @ weight + offset).sigmoid()) > threshold
        return (moved if leaves else x), leaves

    leaves_as(look, model, PROMPT, steps)


def test_what_gates_cost_is_counted():
    """Each check is a map, the frequent rows of the head, and nine operations a logit with the gate's own."""
    model = tiny("llama", layers=6)
    width, full = model.anatomy.width, 2 * model.anatomy.width * model.anatomy.vocabulary
    check = 2 * 2 * 4 * width + 2 * width * 32 + 9 * 32 + 8
    step, plain = (run(model, PROMPT, each, new=3)[2] for each in ([JointExit.neutral()], []))
    assert step.policy_flops == 4 * check and step.flops - step.policy_flops == plain.flops
    leaves = JointExit(weights="untrained", threshold=0.0, fill="hole")
    step = run(model, PROMPT, [leaves], new=3)[2]
    block = model.anatomy.blocks[0]
    attention = sum(4 * keys * block.heads * block.head_dim for keys in step.keys_read)
    assert step.layers == (0, 1) and step.policy_flops == check
    assert step.flops - step.policy_flops == 2 * block.flops(1) + attention + full


@pytest.mark.parametrize("place", range(3))
def test_drafts_are_verified_as_tokens_that_come_alone(place):
    model, prompt, technique = tiny("llama", layers=6), random_tokens(7) * 3, JointExit.examples()[place]
    alone, drafted = (run(model, prompt, [technique, *more], new=32) for more in ([], [PromptLookup()]))
    assert tokens_of(alone) == tokens_of(drafted)
    assert any(len(step.layers) < model.layers for step in alone[1:])
    assert sum(step.drafted for step in drafted) > 0


def test_a_model_without_joint_exits_is_told_before_anything_runs():
    with pytest.raises(SettingError, match="workbench train joint_exit"):
        generate(tiny("llama"), PROMPT, [JointExit()])


@needs_artefact(NAME)
@pytest.mark.bundled(seconds=14)
def test_trained_gates_of_the_bundled_model_know_who_may_leave(bundled):
    """Some tokens leave, and nearly all say what the whole model says; if all left at the first exit, few would."""
    prompt = bundled.encode(bundled.chat("Explain in a few sentences why the sky is blue."))
    said = tokens_of(run(bundled, prompt, new=40))

    def agreement(threshold):
        rows = torch.cat(list(teacher_force(bundled, prompt, said, [JointExit(threshold=threshold)])))
        return float((rows.argmax(-1) == torch.tensor(said)).float().mean())

    assert agreement(0.5) > max(0.85, agreement(0.0) + 0.3)
    steps = run(bundled, prompt, [JointExit()], new=40)[1:]
    assert sum(len(step.layers) for step in steps) < 29 * len(steps)
    assert {len(step.layers) - 1 for step in steps} <= {*load_joint(bundled).layers, 29}
