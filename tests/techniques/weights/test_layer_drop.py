"""What is removed neither runs nor is remembered, the model is put back, and what is removed is what matters least."""

import json

import pytest
import torch
from helpers import random_tokens, run, tokens_of

import workbench
from workbench.engine import teacher_force
from workbench.errors import PromptError, SettingError
from workbench.models.tiny import tiny
from workbench.parts.calibration import calibration_texts
from workbench.techniques import LayerDrop, PromptLookup, SelfSpeculative, UnifiedLayerSkip
from workbench.techniques.weights import layer_drop
from workbench.techniques.weights.layer_drop import Unit, _Kept
from workbench.techniques.weights.layer_drop.calibration import influences, units

PROMPT = random_tokens(12) * 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_blocks_that_are_removed_are_as_if_they_had_never_been(family):
    model = tiny(family, layers=6)
    technique = LayerDrop(count=2, texts=2)
    gone = {unit.layer for unit in technique.removed(model)}
    left = [layer for layer in range(6) if layer not in gone]
    before, cut = model.anatomy, model.variant(left)
    steps, expected = run(model, PROMPT, [technique]), run(cut, PROMPT)
    assert tokens_of(steps) == tokens_of(expected) and model.anatomy is before
    for step, other in zip(steps, expected):
        assert (step.flops, step.bytes, step.cache_bytes) == (other.flops, other.bytes, other.cache_bytes)
        assert step.layers == tuple(left[layer] for layer in other.layers)
        assert [bool(kept) for kept in step.keys_kept] == [layer in left for layer in range(6)]


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_a_sublayer_alone_is_removed(part):
    model = tiny("llama")
    technique = LayerDrop(count=2, unit=part, texts=2)
    scores = influences(model, calibration_texts(model, 2), part)
    removed = technique.removed(model)
    assert removed == tuple(sorted(units(model, part), key=scores.get)[:2]) and {unit.part for unit in removed} == {
        part
    }
    steps, plain = run(model, PROMPT, [technique]), run(model, PROMPT)
    assert all(step.layers == other.layers for step, other in zip(steps, plain))
    assert all(step.flops < other.flops and step.bytes < other.bytes for step, other in zip(steps, plain))
    spared = {layer for layer, kept in enumerate(steps[-1].keys_kept) if not kept}
    assert spared == ({unit.layer for unit in removed} if part == "attention" else set())


def test_neighbouring_blocks_go_by_the_angle():
    model = tiny("llama", layers=6)
    first, second = LayerDrop(count=2, criterion="angular", texts=2).removed(model)
    assert second.layer == first.layer + 1
    turns = layer_drop.angles(model, calibration_texts(model, 2), 2)
    assert turns[first.layer] == min(turns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_with_drafts_and_depth(dtype):
    model = tiny("llama", layers=6, dtype=dtype)
    for drop in (LayerDrop(count=2, texts=2), LayerDrop(count=2, unit="attention", texts=2)):
        plain = tokens_of(run(model, PROMPT, [drop]))
        for drafter in (PromptLookup(), SelfSpeculative(exit_layer=0.5, threshold=0, lens="logit")):
            steps = run(model, PROMPT, [drop, drafter])
            assert sum(step.drafted for step in steps)
            assert dtype != torch.float32 or tokens_of(steps) == plain
    both = run(model, PROMPT, [LayerDrop(count=2, texts=2), UnifiedLayerSkip(speedup=1.5)])
    gone = {unit.layer for unit in LayerDrop(count=2, texts=2).removed(model)}
    assert set(both[-1].layers) == set(UnifiedLayerSkip(speedup=1.5).kept(6)) - gone


def test_two_of_them_remove_what_each_of_them_removes():
    model = tiny("llama")
    two = [LayerDrop(count=1, unit="attention", texts=2), LayerDrop(count=1, unit="mlp", texts=2)]
    (attention,), (mlp,) = (each.removed(model) for each in two)
    steps, plain = run(model, PROMPT, two), run(model, PROMPT)
    spared = [other.flops - step.flops for step, other in zip(steps, plain)]
    alone = [run(model, PROMPT, [each]) for each in two]
    assert spared[0] == sum(plain[0].flops - each[0].flops for each in alone)
    assert model.anatomy.blocks[attention.layer].mixer is not None and model.anatomy.blocks[mlp.layer].has_mlp


def test_teacher_forcing_is_without_them_too():
    model, technique = tiny("llama"), LayerDrop(count=1, texts=2)
    (gone,) = technique.removed(model)
    cut = model.variant([layer for layer in range(4) if layer != gone.layer])
    found, expected = (
        torch.cat(list(teacher_force(each, PROMPT, [5, 6, 7], techniques)))
        for each, techniques in ((model, [technique]), (cut, []))
    )
    torch.testing.assert_close(found, expected)


def test_a_state_goes_on_only_without_the_same_layers():
    model, technique = tiny("llama"), LayerDrop(count=1, texts=2)
    stream = workbench.generate(model, PROMPT, [technique], max_new_tokens=8, stop_tokens=())
    said = tokens_of(list(stream))
    again = workbench.generate(model, [4, 5], [technique], max_new_tokens=6, stop_tokens=(), past=stream.state)
    assert tokens_of(list(again)) == tokens_of(run(model, [*PROMPT, *said, 4, 5], [technique], new=6))
    with pytest.raises(PromptError, match="slot 'weights'"):
        list(workbench.generate(model, [4, 5], max_new_tokens=6, past=stream.state))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 4}, "4 units"),
        ({"count": 8, "unit": "sublayer"}, "8 units"),
        ({"count": 1, "unit": "mlp", "criterion": "angular"}, "unit='block'"),
    ],
)
def test_what_cannot_be_removed_is_refused_before_anything_runs(settings, message):
    with pytest.raises(SettingError, match=message):
        workbench.generate(tiny("llama"), PROMPT, [LayerDrop(**settings)])


class Named:
    """A tokenizer as far as it matters here: there is one."""

    def __call__(self, text):
        return {"input_ids": [ord(letter) % 90 + 3 for letter in text[:12]]}


def test_what_was_measured_is_kept_and_taken_further(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    model = tiny("llama")
    monkeypatch.setattr(model, "tokenizer", Named())
    counted, losses = [], layer_drop.measured.losses
    monkeypatch.setattr(layer_drop.measured, "losses", lambda *given: counted.append(len(given[3])) or losses(*given))

    def chosen(**settings):
        layer_drop._CHOSEN.clear()
        counted.clear()
        return LayerDrop(texts=2, unit="sublayer", **settings).removed(model)

    two = chosen(count=2, criterion="greedy")
    assert counted == [8, 7]
    assert chosen(count=2, criterion="greedy") == two and not counted
    assert chosen(count=3, criterion="greedy")[:2] == two and counted == [6]
    assert chosen(count=1, criterion="greedy") == two[:1] and not counted
    best = chosen(count=2, criterion="exhaustive")
    assert counted == [28] and chosen(count=2, criterion="exhaustive") == best and not counted
    chosen(count=2, criterion="greedy", measure="loss")
    assert counted == [8, 7]
    for content in ("[[7, 'attention']]", json.dumps([[99, "mlp"]]), json.dumps([[0, "block"]]), "{}", "[1]"):
        for file in (tmp_path / "layer_drop").iterdir():
            file.write_text(content, "utf-8")
        assert chosen(count=2, criterion="greedy") == two and counted == [8, 7]
    for content in (json.dumps([[0, "mlp"]]), json.dumps([[0, "mlp"]] * 2)):
        for file in (tmp_path / "layer_drop").iterdir():
            file.write_text(content, "utf-8")
        assert chosen(count=2, criterion="exhaustive") == best and counted == [28]


def test_of_a_model_in_memory_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    technique = LayerDrop(count=1, criterion="greedy", texts=1)
    assert _Kept(technique, tiny("llama"), [[1, 2]]).write([Unit(0, "block")]) == [(0, "block")]
    assert not list(tmp_path.iterdir())


@pytest.mark.bundled(seconds=12)
def test_the_least_influential_blocks_are_missed_less_than_the_most(bundled):
    """ShortGPT's claim, on text that was not calibrated on; and attentions are missed less than MLPs (He et al.)."""
    from workbench.tasks import encode_prompt, load_prompts

    texts = [encode_prompt(bundled.tokenizer, prompt)[:70] for prompt in load_prompts("summarising", limit=2)]

    def loss(*techniques):
        total = 0.0
        for ids in texts:
            logits = torch.cat(list(teacher_force(bundled, ids[:20], ids[20:], techniques)))
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[20:])))
        return total / len(texts)

    class MostInfluential(LayerDrop):
        def removed(self, model):
            scores = influences(model, calibration_texts(model, self.texts), self.unit)
            return tuple(sorted(scores, key=scores.get, reverse=True)[: self.count])

    whole, least, most = loss(), loss(LayerDrop(count=2, texts=4)), loss(MostInfluential(count=2, texts=4))
    assert whole < least < most
    attention, mlp = (loss(LayerDrop(count=4, unit=part, texts=4)) for part in ("attention", "mlp"))
    assert attention < mlp
