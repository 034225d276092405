"""The loss and its labels against slow restatements, the texts, and that training finds what no layer gets right."""

import torch
from helpers import random_tokens
from pytest import approx, raises
from tokenizers_of_kinds import byte_level

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens
from workbench.training import RECIPES, CompletionStop, TrainingData, function_texts, train
from workbench.training.loop import Training

LENGTH = 40


def texts(count=24, held_out=6):
    """Of random tokens, so that most are never foreseen, with stretches of one token that a model learns to repeat."""
    rows = [[*random_tokens(12, seed), *([5 + seed % 7] * 14), *random_tokens(LENGTH - 26, seed + 99)]
            for seed in range(count)]  # fmt: skip
    tokens = torch.tensor(rows, dtype=torch.int32)
    answer = torch.ones(tokens.shape, dtype=torch.bool)
    return TrainingData(tokens, answer, torch.full((count,), LENGTH), torch.arange(count) < held_out)


def test_the_loss_is_the_papers():
    """Of every place and layer, one after the other: the paper's label, the cross-entropy, the layer's number."""
    model, recipe = tiny("llama"), CompletionStop(places=1_000, lens="untrained", batch=2, length=LENGTH)
    part, lens = recipe.part(model), load_lens(tiny("llama"), "untrained")
    generator = torch.Generator().manual_seed(0)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    tokens = texts(2).tokens.long()
    loss, figures = recipe.loss(model, part, tokens, torch.ones_like(tokens, dtype=torch.bool))
    states = [model.hf(tokens[:1], output_hidden_states=True).hidden_states for tokens in tokens.split(1)]
    sums, never = torch.zeros(3), 0
    for text, seen in enumerate(states):
        for place in range(LENGTH - 1):
            due = int(tokens[text, place + 1])
            said = [int(model.anatomy.unembed(lens.stream(seen[layer + 1][0, place], layer)).argmax()) for layer in range(3)]
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
    recipe = CompletionStop(places=8, lens="untrained", shared=True)
    tokens = texts(2).tokens.long()
    loss, _ = recipe.loss(model, one, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert float(loss) == approx(float(torch.tensor(3.0).log()), rel=1e-4), "at first all classes are alike"


def test_training_finds_out_what_no_layer_gets_right(tmp_path):
    settings = {"steps": 150, "batch": 6, "length": LENGTH, "places": 128, "lens": "untrained", "learning_rate": 1e-2}
    card = train("completion_stop", tiny("llama"), tmp_path, texts(48, 12), evaluations=3, **settings)
    curve, result = card["curve"], card["result"]
    assert curve["held_out_loss"][-1] < curve["held_out_loss"][0] - 0.1
    most = max(result["held_out_never"], 1 - result["held_out_never"])
    assert result["held_out_accuracy"] > 0.5 and result["held_out_stop_precision"] > result["held_out_never"]
    assert 0 < most < 1


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
    one, other = (function_texts(model, seed=seed) for seed in (0, 1))
    assert torch.equal(one.tokens, other.tokens) and not torch.equal(one.held_out, other.held_out)
    with raises(SettingError, match="no tokenizer"):
        function_texts(tiny("llama"))


def test_without_text_it_is_trained_on_functions(tmp_path):
    model = _Spelling(tiny("llama", vocabulary=600))
    settings = {"steps": 1, "batch": 2, "length": 24, "places": 4, "lens": "untrained"}
    asked = []

    def progress(step, steps, message):
        asked.append(message)

    card = train("completion_stop", model, tmp_path, evaluations=1, progress=progress, **settings)
    assert "modules of the standard library" in card["data"]["sources"] and len(asked) == 1
    assert isinstance(Training(RECIPES["completion_stop"].example(), tiny("llama"), texts()).advance(), float)
