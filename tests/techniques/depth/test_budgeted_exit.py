"""Who leaves where by the plan, replayed by hand; budgets kept; and what goes up in a model goes down in its costs."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import facts, random_tokens, run, tokens_of
from techniques.trained_parts import needs_artefact

from workbench.engine import Decoder, generate, teacher_force
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens
from workbench.parts.exits.confidence import confidence
from workbench.techniques import BudgetedExit, PromptLookup
from workbench.techniques.depth import budgeted_exit
from workbench.techniques.depth.budgeted_exit.measuring import Kept, measure

PROMPT = random_tokens(20)
SMALL = {"lens": "untrained", "first": 0.2, "every": 1, "vocabulary": 0, "texts": 2, "answer": 8}


def sure(technique, model, lens, streams, layer):
    """Confidence of the row [1, width] after a layer, by the definition."""
    logits = model.anatomy.unembed(lens.stream(streams[layer], layer)).double()
    if technique.criterion != "consistency":
        return float(confidence(technique.criterion, logits))
    if layer - 1 not in technique.checked(model.layers):
        return -math.inf
    before = model.anatomy.unembed(lens.stream(streams[layer - 1], layer - 1)).double()
    return 1 - float(torch.maximum(logits.softmax(-1) - before.softmax(-1), torch.zeros(())).sum())


@pytest.mark.parametrize("criterion", ["probability", "margin", "entropy", "consistency"])
@pytest.mark.parametrize("memory", [1.0, 0.9])
def test_a_token_leaves_at_the_first_exit_that_is_sure_enough(criterion, memory):
    """Without a fill, replayed by hand; where the memory is small the last layer is not there, nor for the prompt."""
    model = tiny("llama", layers=6)
    average = 0.8 if memory == 1 else 0.72
    technique = BudgetedExit(average=average, memory=memory, criterion=criterion, fill="hole", **SMALL)
    plan = technique.plan(model)
    assert plan.promised.average <= technique.average and plan.promised.memory <= memory
    deepest = plan.exits[-1]
    assert (deepest == 5) == (memory == 1) and len(plan.exits) > 2
    steps = run(model, PROMPT, [technique], new=24)
    lens, text, exits = load_lens(model, "untrained"), list(PROMPT), []
    decoder = Decoder(model.variant(list(range(deepest + 1))), 24)
    decoder.prefill(PROMPT)
    for index, step in enumerate(steps):
        if index:
            with torch.inference_mode(), decoder.open(text[-1:]) as opened:
                streams = {}
                for layer in range(deepest + 1):
                    opened.run(until=layer + 1)
                    streams[layer] = opened.x[0]
                    limits = dict(zip(plan.exits, plan.thresholds))
                    if layer in limits and sure(technique, model, lens, streams, layer) >= limits[layer]:
                        opened.exit()
                        break
                x = streams[layer]
                opened.finish()
            assert step.layers == tuple(range(layer + 1))
            exits.append(layer)
        else:
            x = decoder.hidden[-1:]
            layer = deepest
        stream = lens.stream(x, layer)
        assert int(model.anatomy.unembed(stream).argmax()) == step.tokens[0]
        text += step.tokens
    assert len(set(exits)) >= 2, "the budget of this test is to tell layers apart"
    assert model.anatomy.blocks[-1].has_mlp, "the layers are back"


@pytest.mark.parametrize("criterion", ["margin", "consistency"])
def test_measured_is_what_each_exit_says_of_answers(criterion):
    model = tiny("llama", layers=6)
    technique = BudgetedExit(criterion=criterion, **SMALL)
    lens, layers = load_lens(model, "untrained"), technique.checked(6)
    found = measure(model, lens, layers, criterion, 0, 2, 8)
    again = measure(model, lens, layers, criterion, 0, 2, 8)
    assert torch.equal(found.values, again.values) and found.places.tolist() == again.places.tolist()
    drawn = torch.randint(model.anatomy.vocabulary, (2, 64), generator=torch.Generator().manual_seed(0)).tolist()
    places, expected = [], []
    for prompt in drawn:
        # The last token of an answer is one that no layer is run for.
        text, streams = prompt + tokens_of(generate(model, prompt, max_new_tokens=8))[:-1], {}
        decoder = Decoder(model, watch=lambda site, layer, x, into=streams: into.update({(site, layer): x}))
        decoder.prefill(text)
        for place in range(64, len(text)):
            rows = {layer: streams["residual", layer][0, place][None] for layer in range(6)}
            places.append(place + 1)
            expected.append([sure(technique, model, lens, rows, layer) for layer in layers])
    assert found.places.tolist() == places and len(places) > 7
    torch.testing.assert_close(found.values.T, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_budgets_decide_the_deepest_exit():
    model = tiny("llama", layers=6)
    whole = BudgetedExit(average=0.8, **SMALL).plan(model)
    assert whole.exits[-1] == 5 and whole.promised.memory == 1 and whole.promised.peak > 1 >= sum(whole.shares) - 1e-9
    low = BudgetedExit(average=0.8, peak=0.9, **SMALL).plan(model)
    assert low.exits[-1] < 5 and low.promised.peak <= 0.9
    small = BudgetedExit(average=0.95, memory=0.7, **SMALL).plan(model)
    assert small.promised.memory <= 0.7 and small.thresholds == () and small.checks == ()
    steps = run(model, PROMPT, [BudgetedExit(average=0.95, memory=0.7, **SMALL)], new=8)
    plain = run(model, PROMPT, new=8)
    deep = small.exits[-1] + 1
    for step in steps:
        assert len(step.layers) == deep and step.keys_kept[deep:] == (0,) * (6 - deep)
    assert sum(s.flops for s in steps[1:]) / sum(s.flops for s in plain[1:]) == pytest.approx(
        small.promised.average, rel=0.02
    )
    limited = run(model, PROMPT, [BudgetedExit(average=0.8, peak=0.9, **SMALL)], new=24)
    most, whole_most = (max(step.flops for step in steps[1:]) for steps in (limited, run(model, PROMPT, new=24)))
    assert most <= 0.91 * whole_most


def test_the_average_is_met_on_the_calibration_text_itself():
    """Read by the whole model: every token by itself leaves where the plan says."""
    model = tiny("llama", layers=6)
    technique = BudgetedExit(average=0.8, fill="hole", **SMALL)
    plan = technique.plan(model)
    lens = load_lens(model, "untrained")
    found = measure(model, lens, list(plan.checks), "probability", 0, 2, 8)
    left = []
    for token in range(found.values.shape[1]):
        sure_at = (exit for exit, row, t in zip(plan.exits, found.values, plan.thresholds) if float(row[token]) >= t)
        left.append(next(sure_at, plan.exits[-1]))
    assert [left.count(exit) / len(left) for exit in plan.exits] == pytest.approx(plan.shares)
    assert plan.tokens == len(left) > 7


@pytest.mark.parametrize("place", range(2))
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_drafts_are_verified_as_tokens_that_come_alone(family, place):
    model, prompt = tiny(family), random_tokens(7) * 3
    technique = replace(BudgetedExit.examples()[place], average=0.7, texts=8)
    alone, drafted = (run(model, prompt, [technique, *more], new=32) for more in ([], [PromptLookup()]))
    assert tokens_of(alone) == tokens_of(drafted)
    assert any(len(step.layers) < model.layers for step in alone[1:])
    assert sum(step.drafted for step in drafted) > 0


def test_forced_tokens_see_the_cut_model():
    model = tiny("llama")
    technique = BudgetedExit(average=0.95, memory=0.9, **SMALL)
    deep = technique.plan(model).exits[-1]
    said = random_tokens(5, seed=7)
    rows = torch.cat(list(teacher_force(model, PROMPT, said, [technique])))
    cut, lens = Decoder(model.variant(list(range(deep + 1)))), load_lens(model, "untrained")
    cut.prefill(PROMPT + said[:-1])
    expected = model.anatomy.unembed(lens.stream(cut.hidden[len(PROMPT) - 1 :], deep))
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_met_is_said_before_anything_runs():
    model = tiny("llama")
    with pytest.raises(SettingError, match=r"no exit of .* meets average=0.1, .*the least are average 0\.\d\d"):
        generate(model, PROMPT, [BudgetedExit(average=0.1, **SMALL)])
    with pytest.raises(SettingError, match="none is an exit"):
        generate(model, PROMPT, [BudgetedExit(**{**SMALL, "first": 1.0})])
    with pytest.raises(SettingError, match="workbench train tuned_lens"):
        generate(model, PROMPT, [BudgetedExit()])


class _WithTokenizer:
    """Enough of a model to be known by its content and kept in the cache."""

    def __init__(self, model):
        self.hf, self.anatomy, self.changed, self.dtype = model.hf, model.anatomy, False, model.dtype
        self.tokenizer = type("Tokenizer", (), {"get_vocab": lambda self: {}})()


def test_what_was_measured_is_kept_and_a_damaged_file_is_measured_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(budgeted_exit.measuring, "cache_folder", lambda: tmp_path)
    model = tiny("llama")
    found = measure(model, load_lens(model, "logit"), [0, 1], "consistency", 0, 2, 8)
    kept = Kept(_WithTokenizer(model), [0, 1], ["wanted"])
    assert kept.read() is None
    kept.write(found)
    again = Kept(_WithTokenizer(model), [0, 1], ["wanted"]).read()
    assert torch.equal(again.values, found.values) and torch.equal(again.places, found.places)
    assert Kept(_WithTokenizer(model), [0, 1], ["other"]).read() is None
    (file,) = (tmp_path / "budgeted_exit").iterdir()
    for damaged in ('{"values": [[1.0]], "places": [3, 4]}', "[]", "{"):
        file.write_text(damaged)
        assert kept.read() is None


def test_one_setting_is_solved_once(monkeypatch):
    model, counted, real = tiny("llama").variant(name="own"), [], budgeted_exit.measure
    monkeypatch.setattr(budgeted_exit, "measure", lambda *given: counted.append(1) or real(*given))
    first = run(model, PROMPT, [BudgetedExit(average=0.8, **SMALL)], new=4)
    assert list(map(facts, first)) == list(map(facts, run(model, PROMPT, [BudgetedExit(average=0.8, **SMALL)], new=4)))
    run(model, PROMPT, [BudgetedExit(average=0.9, **SMALL)], new=4)
    assert len(counted) == 1


@needs_artefact("tuned_lens")
@pytest.mark.slow
@pytest.mark.bundled(seconds=90)
def test_budgets_of_the_bundled_model_are_met_on_other_text(bundled):
    """The paper's claim: a stricter budget is met with less computing, and costs agreement with the whole model."""
    import workbench as wb

    prompts = [bundled.chat(prompt.prompt) for prompt in wb.tasks.load_prompts("chat")[:4]]
    techniques = [BudgetedExit(average=each, texts=8) for each in (0.95, 0.85)]
    techniques += [BudgetedExit(average=0.95, memory=0.9, texts=8)]
    found = wb.budget_met(bundled, techniques, prompts, 32)["budget"]
    assert (abs(found.average_met - found.average_promised) < 0.06).all()
    assert (found.peak_met <= found.peak_promised + 0.01).all() and (found.memory_met <= found.memory_asked).all()
    assert float(found.layers[0]) > float(found.layers[1]) and float(found.agreement[0]) > float(found.agreement[1])
