"""A perfect drafter is always right, any drafter is exact, and the drafter's cache follows what was accepted."""

import pytest
import torch

from workbench.engine import Chance, Decoder, Run, Sampler, generate
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel

PROMPT = list(range(3, 23))


def test_a_perfect_drafter_is_always_accepted():
    steps = list(
        generate(tiny("llama"), PROMPT, [DraftModel(model="/1.0", draft=4)], max_new_tokens=31, stop_tokens=())
    )
    assert {(step.drafted, step.accepted) for step in steps[1:]} == {(4, 4)}


def test_drafting_is_counted():
    model = tiny("llama")
    plain = list(generate(model, PROMPT, max_new_tokens=8, stop_tokens=()))
    drafted = list(generate(model, PROMPT, [DraftModel(model="/2", draft=3)], max_new_tokens=8, stop_tokens=()))
    assert drafted[1].flops > plain[1].flops * 2 and drafted[1].draft_seconds > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_are_those_of_the_drafter_on_the_accepted_text(temperature):
    """Whatever was accepted before, a draft equals one made by a drafter that reads the text afresh."""
    model = tiny("qwen2")
    run = Run(model, tuple(PROMPT), 40, Sampler(temperature, chance=Chance(5)), 5)
    drafter = DraftModel(model="/2", draft=4).start(run)
    text = list(PROMPT)
    for accepted in (0, 2, 4, 1, 3):
        draft = drafter.propose(text, 10)
        fresh = Decoder(model.shallow(2))
        logits = fresh.forward(text)[0]
        for place, token in enumerate(draft.tokens):
            if temperature:
                torch.testing.assert_close(
                    draft.probabilities[place], run.sampler.distribution(logits), atol=1e-5, rtol=1e-4
                )
            else:
                assert token == int(logits.argmax())
            logits = fresh.forward([token])[0]
        text += [*draft.tokens[:accepted], 40 + accepted]


def test_several_paths_are_chains_drawn_from_the_drafter_side_by_side():
    """Every node's distribution is the drafter's after its own chain, and of the root's children one and the same."""
    model = tiny("qwen2")
    run = Run(model, tuple(PROMPT), 40, Sampler(1.0, chance=Chance(5)), 5)
    drafter = DraftModel(model="/2", draft=3, paths=3).start(run)
    text = list(PROMPT)
    for accepted in (0, 2, 1):
        draft = drafter.propose(text, 10)
        assert draft.parents == [-1, -1, -1, 0, 1, 2, 3, 4, 5]
        for node in range(9):
            logits = Decoder(model.shallow(2)).forward(text + draft.path_to(draft.parent(node)))[0]
            expected = run.sampler.distribution(logits)
            torch.testing.assert_close(draft.probabilities[node], expected, atol=1e-5, rtol=1e-3)
            assert draft.confidence[node] == pytest.approx(float(expected[draft.tokens[node]]), abs=1e-4)
        text += [*draft.path_to([1, 4, 7][accepted])[:accepted], 40 + accepted]
    assert drafter.propose(text, 1).parents == [-1, -1, -1]


def test_several_paths_are_one_chain_when_greedy():
    model = tiny("qwen2")
    run = Run(model, tuple(PROMPT), 40, Sampler(), 5)
    one, three = (DraftModel(model="/2", draft=3, paths=paths).start(run).propose(PROMPT, 10) for paths in (1, 3))
    assert three.tokens == one.tokens and len(three.tokens) == 3 and three.parents is None


def test_sampled_output_keeps_the_distribution_of_one_token():
    """Frequencies of the second token over seeds, drafted and plain, agree within what chance allows."""
    model = tiny("llama")

    def second(techniques, seed):
        steps = generate(
            model, PROMPT, techniques, max_new_tokens=2, temperature=0.5, top_k=3, seed=seed, stop_tokens=()
        )
        return [token for step in steps for token in step.tokens][1]

    counts = [torch.zeros(96), torch.zeros(96)]
    for which, techniques in enumerate(([], [DraftModel(model="/2", draft=1)])):
        for seed in range(150):
            counts[which][second(techniques, 1000 * which + seed)] += 1
    assert float((counts[0] - counts[1]).abs().sum()) / 300 < 0.25


@pytest.mark.parametrize("cut", ["/1", "/99", "/half"])
def test_impossible_cuts_are_refused(cut):
    with pytest.raises(SettingError):
        generate(tiny("llama"), PROMPT, [DraftModel(model=cut)])


@pytest.mark.bundled
def test_half_the_layers_stay_exact_on_real_text_and_are_seldom_right(bundled):
    prompt = bundled.chat("Name three rivers in Europe.")
    plain = [t for step in generate(bundled, prompt, max_new_tokens=24) for t in step.tokens]
    steps = list(generate(bundled, prompt, [DraftModel(model="/0.8")], max_new_tokens=24))
    assert [t for step in steps for t in step.tokens] == plain
    assert sum(step.drafted for step in steps) > 0
