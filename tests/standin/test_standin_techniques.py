"""Every technique on the stand-in: the same text as on the host, and as many waits as its row says."""

import functools

import pytest
from contract_cases import EXAMPLES, example
from helpers import applicable
from tokenizers_in_memory import of_words

from workbench import generate, teacher_force
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.standin import standin
from workbench.studies.compatibility_trial import NEW, Trial
from workbench.studies.synchronisations import Waits, recipe, stored, walk

FEW = 8  # tokens
REMAKE = "run: workbench synchronisations --out data/workbench_data/synchronisations"


def techniques_of(name, place):
    return recipe(name) if place == 0 else [example(name, place), *recipe(name)[1:]]


@functools.cache
def trial(family):
    return Trial(tiny(family))


def text(family, techniques, **options):
    options = {"max_new_tokens": NEW, "stop_tokens": (), **options}
    steps = generate(trial(family).model, trial(family).prompt, techniques, **options)
    return [token for step in steps for token in step.tokens]


@pytest.mark.parametrize(("name", "place"), EXAMPLES)
def test_the_text_is_the_host_s_and_the_waits_are_those_of_its_row(name, place):
    techniques = techniques_of(name, place)
    if place == 0 and stored()[name].reason:
        with pytest.raises(SettingError) as refused:
            text("llama", techniques)
        assert stored()[name].reason == str(refused.value), REMAKE
        pytest.skip(f"does not apply: {refused.value}")
    with applicable():
        expected = text("llama", techniques)
    found, waits = walk(tiny("llama"), techniques, trial("llama").prompt)
    assert found == expected
    assert waits.waits / waits.steps >= 1
    if place == 0:
        assert waits == stored()[name], REMAKE


@pytest.mark.parametrize("name", TECHNIQUES)
def test_it_samples_and_is_teacher_forced_there(name):
    """With experts and with a sliding window; what is drawn may differ, as a draft's length hangs on the device."""
    for family, options in (("mixtral", {"temperature": 0.8}), ("gemma3_text", {"context_tokens": 20})):
        options = {**options, "max_new_tokens": FEW, "stop_tokens": ()}
        techniques, prompt = techniques_of(name, 0), trial(family).prompt
        with applicable():
            expected = text(family, techniques, **options)
        with standin():
            model = tiny(family).variant(device="cuda")
            steps = list(generate(model, prompt, techniques, **options, logprobs=2))
            rows = list(teacher_force(model, prompt, expected[:3], techniques))
            assert sum(map(len, rows)) == 3 and all(row.device.type == "cuda" for row in rows)
        found = [token for step in steps for token in step.tokens]
        assert len(found) == FEW and ("temperature" in options or found == expected)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox"])
def test_a_plain_step_waits_once(family):
    found, waits = walk(tiny(family), [], trial(family).prompt)
    assert found == text(family, [])
    assert waits == Waits("", NEW - 1, waits=NEW - 1, uploads=0)


def test_a_step_with_experts_waits_once_more_for_each_sparse_layer():
    _, waits = walk(tiny("mixtral"), [], trial("mixtral").prompt)
    assert waits.waits == (1 + tiny("mixtral").layers) * waits.steps


def test_words_are_drafted_across_vocabularies(monkeypatch):
    import dataclasses

    from workbench.techniques.draft import cross_vocabulary_draft

    drafter = dataclasses.replace(tiny("qwen2"), tokenizer=of_words(90))
    monkeypatch.setattr(cross_vocabulary_draft, "_loaded", lambda name, dtype, device: drafter.variant(device=device))
    main = dataclasses.replace(tiny("llama"), tokenizer=of_words(70))
    prompt = main.tokenizer("The river runs", add_special_tokens=False)["input_ids"]
    technique = TECHNIQUES["cross_vocabulary_draft"](draft=4)
    expected = [token for step in generate(main, prompt, max_new_tokens=NEW, stop_tokens=()) for token in step.tokens]
    found, waits = walk(main, [technique], prompt)
    assert found == expected and waits.waits > waits.steps


def test_a_drafter_may_stay_on_the_host():
    """The two devices of overlapped drafting are never mixed."""
    technique = TECHNIQUES["overlapped_draft"](model="/2", draft=3, device="cpu", exit_layer=0.5)
    expected = text("llama", [technique])
    assert walk(tiny("llama"), [technique], trial("llama").prompt)[0] == expected == text("llama", [])
