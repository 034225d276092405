"""Who leaves where against the gates, replayed by hand, what checks cost, and what joint exits are worth."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from techniques.trained_parts import needs_artefact

from workbench import artifacts
from workbench.engine import Decoder, teacher_force
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits.joint import NAME, load_joint
from workbench.parts.exits.joint import features as numbers_of
from workbench.techniques import ConfidenceExit, JointExit, PromptLookup

PROMPT = random_tokens(20)


@pytest.mark.parametrize(("family", "threshold"), [("llama", 0.4), ("llama", 0.5), ("gpt2", 0.4)])
def test_a_token_leaves_at_the_first_gate_that_is_open(family, threshold):
    """Without a fill, replayed by hand: the stream, its map, the logits of the frequent tokens, the gate."""
    model = tiny(family, layers=6)
    technique = JointExit(weights="untrained", threshold=threshold, fill="hole")
    steps = run(model, PROMPT, [technique], new=24)
    lens, decoder, text, exits = load_joint(model, "untrained"), Decoder(model, 24), list(PROMPT), []
    assert lens.layers == (1, 2, 3, 4) and lens.tokens == 32
    decoder.prefill(PROMPT)
    for index, step in enumerate(steps):
        if index:
            with torch.inference_mode(), decoder.open(text[-1:]) as opened:
                for layer in range(6):
                    opened.run(until=layer + 1)
                    stream = opened.x[0]
                    if layer in lens.layers:
                        moved = lens.stream(stream, layer)
                        weight, offset = lens._gates[layer]
                        read = numbers_of(model.anatomy.unembed(moved)[:, :32])
                        if float((read @ weight + offset).sigmoid()) > threshold:
                            stream = moved
                            opened.exit()
                            break
                logits = model.anatomy.unembed(stream)
                opened.finish()
            assert step.layers == tuple(range(layer + 1))
            assert int(logits.argmax()) == step.tokens[0]
            exits.append(layer)
        text += step.tokens
    assert len(set(exits)) >= 2, "the thresholds of this test are to tell layers apart"


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
        run_of(tiny("llama"), JointExit())


def run_of(model, technique):
    from workbench.engine import generate

    return generate(model, PROMPT, [technique])


@needs_artefact(NAME)
@pytest.mark.bundled(seconds=14)
def test_trained_gates_of_the_bundled_model_know_better_than_a_threshold_who_may_leave(bundled):
    """As many tokens as leave by the gates leave by a threshold over the tuned lens at the same layers, and more of
    those that the gates let go are right."""
    lens = load_joint(bundled)
    prompt = bundled.encode(bundled.chat("Explain in a few sentences why the sky is blue."))
    said = tokens_of(run(bundled, prompt, new=48))

    def agreement(technique):
        rows = torch.cat(list(teacher_force(bundled, prompt, said, [technique])))
        return float((rows.argmax(-1) == torch.tensor(said)).float().mean())

    careful, bold = (agreement(JointExit(threshold=threshold)) for threshold in (0.9, 0.1))
    assert careful >= bold and careful > 0.9
    steps = run(bundled, prompt, [JointExit()], new=48)[1:]
    assert sum(len(step.layers) for step in steps) < 30 * len(steps)
    assert {len(step.layers) - 1 for step in steps} <= {*lens.layers, 29}
    always = {"threshold": 0.0, "first": 0.6, "every": 30}
    assert agreement(JointExit(threshold=0.0)) >= agreement(ConfidenceExit(**always)) - 0.05
    assert artifacts.card(artifacts.folder() / f"{NAME}.safetensors")["settings"]["every"] == 3
