"""The split's start: who is shared, who goes together, what routers foretell; and what a recipe refuses."""

import dataclasses

import pytest
import torch
from helpers import random_tokens

from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.expert_split import divisible
from workbench.training import RECIPES, DataSettings, train
from workbench.training._co_firing import co_firing, dealt
from workbench.training._split_start import added, foretelling, shares, split_start
from workbench.training.writing import write_texts

TOKENS = torch.tensor([random_tokens(48, seed) for seed in range(4)])


def test_neurons_that_fire_together_are_put_together():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(400, 4, generator=generator)
    owner = torch.randperm(24, generator=generator) % 4
    strength = hidden[:, owner] * (1 + torch.rand(24, generator=generator)) + 0.05 * torch.rand(400, 24)
    groups = co_firing(strength, 4, generator)
    assert groups.shape == (4, 6) and sorted(groups.flatten().tolist()) == list(range(24))
    assert all(len(set(owner[group].tolist())) == 1 and group.tolist() == sorted(group.tolist()) for group in groups)


def test_the_closest_pairs_are_dealt_first_and_no_group_has_too_many():
    distance = torch.rand(12, 3, generator=torch.Generator().manual_seed(4))
    want, room = {}, [4, 4, 4]
    for _, neuron, group in sorted((float(distance[n, g]), n, g) for n in range(12) for g in range(3)):
        if neuron not in want and room[group]:
            want[neuron] = group
            room[group] -= 1
    assert dealt(distance, 4).tolist() == [want[neuron] for neuron in range(12)]


def test_the_start_shares_the_strongest_and_its_routers_foretell_the_experts():
    """Strength by hand: the length of what a neuron adds, its activation times its column."""
    model = tiny("llama")
    found = split_start(model, TOKENS, 1, 4, 20)
    assert found["always"].shape == (3, 20) and found["grouped"].shape == (3, 4, 7)
    read = {}

    class Reading:
        def __init__(self, block):
            self.block = block

        def neurons(self, x):
            read[self.block.index] = x

    from workbench.training._forward import residual

    with torch.no_grad():
        residual(model.anatomy, TOKENS, choose=Reading)
        for layer in range(1, 4):
            block = model.anatomy.blocks[layer]
            normed = block.mlp_norm(read[layer])
            gate, up = block.up(normed).chunk(2, -1)
            inner = torch.nn.functional.silu(gate) * up
            strength = torch.stack(
                [(inner[:, neuron, None] * block.down.weight[:, neuron]).norm(dim=-1) for neuron in range(48)], 1
            )
            torch.testing.assert_close(added(block, normed), strength, rtol=1e-4, atol=1e-5)
            always, grouped = found["always"][layer - 1].long(), found["grouped"][layer - 1].long()
            energy = strength.square().mean(0)
            assert energy[always].min() >= energy[grouped.flatten()].max()
            target = shares(strength, grouped)
            error = (normed @ foretelling(normed, target).t() - target).square().mean()
            assert error < 0.8 * (target - target.mean(0)).square().mean(), "better than always saying the mean"


def test_a_longer_training_brings_the_split_closer_to_the_dense_model(tmp_path):
    model = tiny("llama")
    prompts = [random_tokens(8, seed) for seed in range(40)]
    data = write_texts(model, prompts, prompts, DataSettings(new_tokens=40, length=48, sampled=1, continued=0))
    example = dataclasses.asdict(RECIPES["expert_split"].example())
    settings = {**example, "steps": 50, "batch": 8, "length": 48, "shared": 12, "rank": 7, "places": 200}
    card = train("expert_split", model, tmp_path, data, evaluations=1, **{**settings, "learning_rate": 6e-3})
    assert card["result"]["held_out_loss"] < 0.85 * card["curve"]["held_out_loss"][0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((4, 4, 2, 20, 1), "at most 3 can stay dense, not 4"),
        ((1, 4, 5, 20, 1), "of 4 experts a token can run 1 … 4, not 5"),
        ((1, 6, 2, 18, 1), "must be a power of two, not 6"),
        ((1, 4, 2, 21, 1), "cannot be dealt evenly to 4 experts"),
        ((1, 4, 2, 48, 1), "cannot be dealt evenly to 4 experts"),
        ((1, 4, 2, 20, 2), "have no multiple of 8 together"),
    ],
)
def test_what_cannot_be_dealt_is_refused(given, said):
    with pytest.raises(SettingError, match=said):
        divisible(tiny("llama"), *given)


def test_only_a_llama_is_split():
    with pytest.raises(SettingError, match="only a Llama without biases"):
        divisible(tiny("gpt2"), 1, 4, 2, 20, 1)
