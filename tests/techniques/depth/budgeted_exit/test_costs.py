"""What an exit costs against what a step that leaves there counts, and what the layers take to hold."""

import pytest
import torch
from helpers import random_tokens, run

from workbench.models.removed import lower_blocks
from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens
from workbench.techniques import ConfidenceExit
from workbench.techniques.depth.budgeted_exit.costs import Costs, held

PROMPT = random_tokens(20)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox", "mixtral"])
@pytest.mark.parametrize(("vocabulary", "fill"), [(10, "copy"), (10, "hole"), (0, "copy")])
def test_a_token_that_leaves_costs_what_its_step_counts(family, vocabulary, fill):
    model = tiny(family)
    full = run(model, PROMPT, new=3)[2].flops
    # The second token after the prompt is the last of 22.
    costs, lens = Costs(model, torch.tensor([22])), load_lens(model, "untrained")
    assert costs.full == full
    for first, layer, checks in ((0.25, 0, [0]), (0.5, 1, [1])):
        technique = ConfidenceExit(
            lens="untrained", threshold=0.0, first=first, every=8, vocabulary=vocabulary, fill=fill
        )
        step = run(model, PROMPT, [technique], new=3)[2]
        assert step.layers == tuple(range(layer + 1))
        cost = costs.exit(layer, model.layers - 1, checks, lens, vocabulary, copies=fill == "copy")
        read = sum(step.keys_read) / len(step.keys_read)
        if read == 22 or model.anatomy.blocks[0].window is not None:  # no holes below the exit
            assert cost * full == pytest.approx(step.flops)
    assert costs.exit(3, 3, (), None) == pytest.approx(1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_memory_is_the_bytes_of_what_is_left(family):
    model = tiny(family)
    weights = {name: each for name, each in model.hf.named_parameters() if "position" not in name and "wpe" not in name}
    names = [f".{layer}." for layer in range(4)]
    sizes = {name: each.numel() * each.element_size() for name, each in weights.items()}
    for layers in (1, 3, 4):
        gone = [name for name in sizes if any(mark in name for mark in names[layers:])]
        gone = [name for name in gone if name.split(".")[2].isdigit() and int(name.split(".")[2]) >= layers]
        want = 1 - sum(sizes[name] for name in gone) / sum(sizes.values())
        assert held(model.anatomy, layers) == pytest.approx(want)
    lower = lower_blocks(model.anatomy, 2)
    assert lower is lower_blocks(model.anatomy, 2) and lower.layers == 4
    assert [block.removed for block in lower.blocks] == [False, False, True, True]
