"""The loss and its labels against slow restatements, the texts, and that training finds what no layer gets right."""

import functools
from dataclasses import replace

import torch
from helpers import random_tokens
from pytest import approx, raises
from tokenizers_of_kinds import byte_level

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens
from workbench.training import RECIPES, CompletionStop, DataSettings, completion_stop, function_texts, train
from workbench.training.loop import Training
from workbench.training.writing import write_texts

LENGTH = 40


@functools.cache
def texts(count=24):
    """Tokens drawn by chance, which no layer foresees, and what the model says after them, which its last does."""
    starts = [random_tokens(16, seed) for seed in range(count)]
    data = write_texts(
        tiny("llama"), starts, starts, DataSettings(sampled=0, continued=0, new_tokens=24, length=LENGTH)
    )
    return replace(data, answer=torch.arange(LENGTH) < data.lengths[:, None])


def test_the_loss_is_the_papers():
    """Of every place and layer, one after the other: the paper's label, the cross-entropy, the layer's number."""
    model, recipe = tiny("llama"), CompletionStop(lens="untrained", batch=2, length=LENGTH)
    part, lens = recipe.part(model).requires_grad_(False), load_lens(tiny("llama"), "untrained")
    generator = torch.Generator().manual_seed(0)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    tokens = torch.cat((texts().tokens[:1].long(), torch.tensor([random_tokens(LENGTH, 4)])))
    loss, figures = recipe.loss(model, part, tokens, torch.ones_like(tokens, dtype=torch.bool))
    states = [model.hf(tokens[:1], output_hidden_states=True).hidden_states for tokens in tokens.split(1)]
    sums, never = torch.zeros(3), 0
    for text, seen in enumerate(states):
        for place in range(LENGTH - 1):
            due = int(tokens[text, place + 1])
            said = [
                int(model.anatomy.unembed(lens.stream(seen[layer + 1][0, place], layer)).argmax()) for layer in range(3)
            ]
            said.append(int(model.hf(tokens[text : text + 1]).logits[0, place].argmax()))
            first = next((layer for layer in range(4) if said[layer] == due), None)
            never += first is None
            for layer in range(3):
                kind = 0 if first is None else 1 if first <= layer else 2
                x = seen[layer + 1][0, place]
                odds = part.weight[layer] @ (x / x.square().mean().sqrt()) + part.bias[layer]
                sums[layer] -= float(odds.log_softmax(-1)[kind])
    count = 2 * (LENGTH - 1)
    wanted = (sums / count * torch.tensor([1.0, 2.0, 3.0])).sum() / 6
    assert float(loss) == approx(float(wanted), rel=1e-3) and figures["never"] == approx(never / count)
    assert 0 < never < count


def test_one_map_serves_all_layers_where_it_is_shared():
    model = tiny("llama")
    one, own = (CompletionStop(shared=shared).part(model) for shared in (True, False))
    assert one.weight.shape == (1, 3, 32) and own.weight.shape == (3, 3, 32)
    recipe = CompletionStop(lens="untrained", shared=True)
    tokens = texts().tokens[:2].long()
    one.requires_grad_(False)
    loss, _ = recipe.loss(model, one, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert float(loss) == approx(float(torch.tensor(3.0).log()), rel=1e-4), "at first all classes are alike"


def test_training_finds_out_what_no_layer_gets_right(tmp_path):
    settings = {"steps": 150, "batch": 6, "length": LENGTH, "lens": "untrained"}
    card = train("completion_stop", tiny("llama"), tmp_path, texts(), evaluations=3, **settings)
    curve, result = card["curve"], card["result"]
    assert result["held_out_loss"] < curve["held_out_loss"][0] - 0.03
    assert 0.2 < result["held_out_never"] < 0.8
    assert result["held_out_stop_precision"] > result["held_out_never"] + 0.05 and result["held_out_stop_recall"] > 0.4


class _Spelling(Model):
    """A tiny model with a tokenizer of its own."""

    def __init__(self, model):
        self.__dict__.update(model.__dict__, tokenizer=byte_level())


def test_functions_are_held_out_by_module_and_their_openings_are_not_foreseen():
    model = _Spelling(tiny("llama", vocabulary=600))
    data = function_texts(model, held_out=0.2)
    assert len(data.tokens) > 500 and 0.1 < float(data.held_out.float().mean()) <= 0.2
    assert data.facts["held_out_by"] == "modules" and "Python 3." in data.facts["sources"]
    assert data.facts["answer_tokens"] == int(data.answer.sum()) == int((data.lengths - 8).sum())
    assert not data.answer[:, :8].any() and data.answer[0, 8 : int(data.lengths[0])].all()
    assert len(function_texts(model, 30).tokens) == 30
    one, other = (function_texts(model, seed=seed) for seed in (0, 1))
    assert torch.equal(one.tokens, other.tokens) and not torch.equal(one.held_out, other.held_out)
    with raises(SettingError, match="no tokenizer"):
        function_texts(tiny("llama"))


def test_without_text_it_is_trained_on_functions(tmp_path):
    model = _Spelling(tiny("llama", vocabulary=600))
    settings = {"steps": 1, "batch": 2, "length": 24, "lens": "untrained"}
    asked = []

    def progress(step, steps, message):
        asked.append(message)

    card = train("completion_stop", model, tmp_path, evaluations=1, progress=progress, **settings)
    assert "modules of the standard library" in card["data"]["sources"] and len(asked) == 1
    assert isinstance(Training(RECIPES["completion_stop"].example(), tiny("llama"), texts()).advance(), float)


def test_what_was_found_out_of_a_text_is_remembered_and_nothing_else_hangs_on_it(monkeypatch):
    model, data = tiny("llama").variant(), texts()
    tokens, answer = data.tokens[:3].long(), data.answer[:3]
    recipe, asked, real = CompletionStop(lens="untrained"), [], completion_stop.streams
    part = recipe.part(model).requires_grad_(False)

    def streams(*given):
        asked.append(given)
        return real(*given)

    monkeypatch.setattr(completion_stop, "streams", streams)
    first = recipe.loss(model, part, tokens, answer)
    assert len(asked) == 3 and recipe.loss(model, part, tokens, answer) == first and len(asked) == 3
    recipe.loss(model, part, torch.nn.functional.pad(tokens, (0, 5)), torch.nn.functional.pad(answer, (0, 5)))
    assert len(asked) == 3, "what stands behind a text is no part of it"
    monkeypatch.setattr(completion_stop, "_REMEMBERED", 0)
    recipe.loss(model, part, texts().tokens[3:6].long(), texts().answer[3:6])
    assert len(completion_stop._KNOWN[model]) == 1 and recipe.loss(model, part, tokens, answer) == first
