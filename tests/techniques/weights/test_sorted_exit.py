"""The sub-model that a budget pays for runs alone, its layers are the only ones computed, and the model is put back."""

import dataclasses

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench import artifacts
from workbench.engine import teacher_force
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits.sorted import NAME, load_sorted
from workbench.parts.exits.submodels import sorted_view
from workbench.techniques import ConfidenceExit, LayerDrop, SelfSpeculative, SortedExit
from workbench.techniques.weights import sorted_exit

PROMPT = random_tokens(12) * 2
WHOLE = SortedExit(budget=1, weights="untrained")


def changed(model, width=1.0, strength=1.0):
    """The model with the untrained change, as one of its own."""
    other = dataclasses.replace(model)
    other.anatomy = sorted_view(model.anatomy, load_sorted(model, "untrained"), width, strength)
    return other


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_it_equals_a_model_of_the_changed_first_layers(family, strength):
    model = tiny(family)
    before, cut = model.anatomy, changed(model, strength=strength).variant([0, 1, 2])
    steps = run(model, PROMPT, [SortedExit(budget=0.75, strength=strength, weights="untrained")])
    expected = run(cut, PROMPT)
    assert tokens_of(steps) == tokens_of(expected) and model.anatomy is before
    for step, other in zip(steps, expected, strict=True):
        assert (step.flops, step.bytes, step.cache_bytes) == (other.flops, other.bytes, other.cache_bytes)
        assert step.layers == other.layers == (0, 1, 2) and not step.keys_kept[3]


@pytest.mark.parametrize(
    ("budget", "of", "chosen"),
    [(1, "layers", (4, 1.0)), (0.99, "layers", (3, 1.0)), (0.75, "layers", (3, 1.0)), (0.5, "layers", (2, 1.0))],
)
def test_the_deepest_within_a_share_of_the_layers(budget, of, chosen):
    found = SortedExit(budget=budget, of=of, weights="untrained").chosen(tiny("llama"))
    assert (found.depth, found.width) == chosen and found.layers <= budget


def test_of_those_within_the_operations_the_one_that_agreed_most(monkeypatch):
    model = tiny("llama")
    part = load_sorted(model, "untrained")
    part.acceptance.copy_(torch.tensor([[0.3, 0.6, 0.9], [0.2, 0.5, 0.55]]))  # widths 1 and 0.5 of depths 2, 3, 4
    monkeypatch.setattr(sorted_exit, "load_sorted", lambda *_: part)

    def chosen(budget):
        found = SortedExit(budget=budget, of="flops").chosen(model)
        assert found.flops <= budget
        return found.depth, found.width

    assert chosen(1) == (4, 1.0)
    # The narrow one of four layers costs more than three whole layers, and agrees less.
    assert chosen(0.9) == (3, 1.0)
    assert chosen(0.72) == (3, 0.5)
    with pytest.raises(SettingError, match=r"budget=0.3 pays for no sub-model of tiny-llama: the smallest takes 0.5"):
        chosen(0.3)


def test_a_narrow_sub_model_reads_and_multiplies_less():
    model = tiny("llama")
    steps = run(model, PROMPT, [SortedExit(budget=0.9, of="flops", weights="untrained")])
    expected = run(changed(model, width=0.5), PROMPT)
    plain = run(model, PROMPT)
    assert tokens_of(steps) == tokens_of(expected)
    assert all(one.flops < two.flops and one.bytes < two.bytes for one, two in zip(steps, plain))
    assert all(one.layers == two.layers for one, two in zip(steps, plain))


def test_sub_models_draft_for_the_changed_model_and_its_tokens_leave_early():
    """What is shared is shared: the lower layers that draft are those that the changed model verifies with."""
    model = tiny("llama")
    alone = tokens_of(run(model, PROMPT, [WHOLE]))
    assert alone == tokens_of(run(changed(model), PROMPT)) != tokens_of(run(model, PROMPT))
    drafted = run(model, PROMPT, [WHOLE, SelfSpeculative(exit_layer=3, threshold=0, lens="logit")])
    assert tokens_of(drafted) == alone and any(step.accepted for step in drafted)
    exits = ConfidenceExit(lens="logit", threshold=0.02, first=0.5, every=1)
    left = run(model, PROMPT, [WHOLE, exits])
    assert tokens_of(left) == tokens_of(run(changed(model), PROMPT, [exits]))
    assert min(len(step.layers) for step in left) < 4


@pytest.mark.parametrize("unit", ["block", "attention", "mlp"])
def test_it_goes_with_layers_removed_before_or_after(unit):
    model = tiny("llama", layers=6)
    drop = LayerDrop(count=3, unit=unit, texts=2)
    gone = {each.layer for each in drop.removed(model)}
    assert gone & {3, 4, 5}, "some of those that change"
    orders = [[drop, WHOLE], [WHOLE, drop]]
    found = [tokens_of(run(model, PROMPT, order)) for order in orders]
    assert found[0] == found[1] != tokens_of(run(model, PROMPT, [WHOLE]))


def test_a_view_is_made_once_and_an_old_file_is_not_mistaken_for_a_new_one(tmp_path):
    model, seen = tiny("llama"), []

    class Spy(SortedExit):
        def start(self, run):
            policy = super().start(run)
            view = policy._view
            policy._view = lambda *given: seen.append(view(*given)) or seen[-1]
            return policy

    def write(scale):
        state = load_sorted(model, "untrained").state_dict()
        state = {key: scale * value if key.endswith("/out") else value for key, value in state.items()}
        artifacts.save(NAME, state, {"model": {"name": model.name, "revision": model.revision}}, tmp_path)

    path, texts = str(tmp_path / f"{NAME}.safetensors"), []
    for scale in (1.0, 1.0, 9.0):
        write(scale) if scale != 1.0 or not texts else None
        texts.append(tokens_of(run(model, PROMPT, [Spy(budget=0.75, weights=path)])))
    assert seen[0] is seen[1] is not seen[2] and texts[0] == texts[1] != texts[2]


@pytest.mark.bundled(seconds=8)
def test_trained_sub_models_of_the_bundled_model_say_what_it_says(bundled):
    """Beside the same first layers of the untuned model."""
    if not artifacts.place(NAME).is_file():
        pytest.skip("no sorted model has been trained for the bundled model yet: workbench train sorted_exit")
    text = bundled.encode(
        "The capital of France is Paris, and the river that runs through it is the Seine. In 1889 the Eiffel Tower "
        "was opened for the world fair, and for forty years it was the tallest."
    )

    def rows(*techniques):
        return torch.cat(list(teacher_force(bundled, text[:4], text[4:], techniques))).log_softmax(-1)

    plain = rows()

    def lost(budget, strength):
        said = rows(SortedExit(budget=budget, strength=strength))
        return float((plain.exp() * (plain - said)).sum(-1).mean())

    assert SortedExit(budget=0.8).chosen(bundled).depth == 24
    assert lost(0.8, 1.0) < 0.5 * lost(0.8, 0.0)
    assert lost(0.9, 1.0) < 0.5 * lost(0.9, 0.0)
    assert lost(1.0, 1.0) < lost(0.9, 1.0) < lost(0.8, 1.0), "sorted: more layers, nearer"
