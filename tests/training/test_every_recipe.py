"""Every recipe for two steps on a tiny model: it learns, it leaves the model alone, it can be stored and resumed."""

import dataclasses
import json
import threading

import pytest
import torch
from helpers import checksum, hooks

from workbench import artifacts
from workbench.errors import ArtifactError, CorruptModel, NumericalError, SettingError
from workbench.figures import loss_curve
from workbench.models.tiny import tiny
from workbench.training import RECIPES, DataSettings, TrainingData, loop, score, trace, train
from workbench.training.loop import Training
from workbench.training.writing import write_texts

recipes = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def data(model):
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 96, (6 + place % 4,), generator=generator).tolist() for place in range(10)]
    return write_texts(model, prompts, prompts, DataSettings(new_tokens=24, length=40, sampled=1, continued=1))


def settings(name):
    return dataclasses.asdict(RECIPES[name].example())


def part_of(name, model, data, seed=0):
    return Training(RECIPES[name].example(), model, data, seed)


@recipes
def test_it_says_what_it_is(name):
    kind = RECIPES[name]
    assert kind.paper and any(character.isdigit() for character in kind.paper)
    recipe = kind.example()
    assert recipe.steps == 2 and recipe.batch >= 1 and recipe.length >= 8 and recipe.learning_rate > 0
    assert kind().steps >= 100, "the defaults are those of a real training"


@recipes
def test_two_steps_change_the_part_and_nothing_else(name, model, data):
    before, hung, training = checksum(model), hooks(model), part_of(name, model, data)
    first = {key: value.clone() for key, value in training.part.state_dict().items()}
    frozen = {parameter.data_ptr() for parameter in model.hf.parameters()}
    assert not frozen & {parameter.data_ptr() for parameter in training.part.parameters()}
    assert all(p.dtype == torch.float32 for p in training.part.parameters())
    losses = [training.advance() for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(losses)))
    gradients = {key: p.grad for key, p in training.part.named_parameters() if p.requires_grad}
    assert gradients and all(gradient is not None for gradient in gradients.values()), "a parameter takes no part"
    changed = [key for key, value in training.part.state_dict().items() if not torch.equal(value, first[key])]
    assert changed
    assert checksum(model) == before and hooks(model) == hung
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.hf.parameters())


@recipes
def test_the_artefact_comes_back_as_it_was_written(name, model, data, tmp_path):
    card = train(name, model, tmp_path, data, **settings(name))
    tensors, found = artifacts.load(name, model, str(tmp_path / f"{name}.safetensors"))
    assert card.pop("path") == str(tmp_path / f"{name}.safetensors")
    assert json.loads(json.dumps(card)) == found
    assert found["steps"] == 2 and found["model"]["name"] == model.name and found["seconds"] > 0
    least = min(found["curve"]["held_out_loss"][1:])
    assert found["best_step"] == found["curve"]["held_out_step"][found["curve"]["held_out_loss"].index(least)]
    assert found["result"]["held_out_loss"] == pytest.approx(least, rel=2e-3), "but for rounding, and over all texts"
    assert all(t.dtype == torch.bfloat16 for t in tensors.values() if t.is_floating_point())
    fresh = part_of(name, model, data).part
    artifacts.fit(fresh, tensors, name)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value.to(tensors[key].dtype), tensors[key])
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.json", f"{name}.safetensors"]


@recipes
def test_going_on_after_one_step_is_the_same_as_two_at_once(name, model, data, tmp_path):
    straight = train(name, model, tmp_path / "straight", data, **settings(name))
    cancel = threading.Event()
    stopped = train(
        name, model, tmp_path / "parts", data, progress=lambda *_: cancel.set(), cancel=cancel, **settings(name)
    )
    assert stopped is None and (tmp_path / "parts" / f"{name}.checkpoint").is_file()
    resumed = train(name, model, tmp_path / "parts", data, resume=True, **settings(name))
    assert resumed["sha256"] == straight["sha256"]
    assert resumed["curve"] == straight["curve"]


@recipes
def test_it_trains_beside_a_model_in_bfloat16(name, data):
    """Which is how real models are loaded for it; the part itself stays in float32."""
    training = part_of(name, tiny("llama", dtype=torch.bfloat16), data)
    exact = part_of(name, tiny("llama"), data)
    assert all(p.dtype == torch.float32 for p in training.part.parameters())
    assert training.advance() == pytest.approx(exact.advance(), rel=0.15)
    assert set(training.evaluate()) == set(exact.evaluate())


def test_every_point_of_the_curve_is_over_the_same_texts_and_the_result_over_all(model, data, monkeypatch, tmp_path):
    looks, real = [], loop.evaluate

    def evaluate(recipe, model, part, batches):
        seen = list(batches)
        looks.append([tuple(row) for tokens, _ in seen for row in tokens.tolist()])
        return real(recipe, model, part, seen)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop, "_WATCHED", 2)
    card = train("draft_model", model, tmp_path, data, **{**settings("draft_model"), "steps": 4, "batch": 1})
    assert card["curve"]["held_out_step"] == [0, 1, 2, 3, 4]
    *watched, last = looks
    assert len(watched) == 5 and len(watched[0]) == 2 and all(look == watched[0] for look in watched)
    assert len(last) == card["data"]["held_out_texts"] > 2 == card["data"]["watched_texts"]


def test_the_best_step_is_what_is_stored_also_after_an_interruption(model, data, monkeypatch, tmp_path):
    """Held-out losses by script: least after the second of four steps."""
    parts = {}

    def evaluate(recipe, model, part, batches):
        state = {key: value.clone() for key, value in part.state_dict().items()}
        parts.setdefault(training.step, state)
        return {"loss": [5.0, 3.0, 1.0, 2.0, 4.0][training.step]}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    recipe = dataclasses.replace(RECIPES["draft_model"].example(), steps=4)
    training = Training(recipe, model, data)
    for _ in range(3):
        training.advance()
    training.checkpoint(tmp_path / "draft_model.checkpoint")
    training = Training(recipe, model, data)
    training.restore(tmp_path / "draft_model.checkpoint")
    training.advance()
    card = training.finish(tmp_path)
    assert card["best_step"] == 2 and card["steps"] == 4
    tensors, _ = artifacts.load("draft_model", model, str(tmp_path / "draft_model.safetensors"))
    for key, value in tensors.items():
        assert torch.equal(value, parts[2][key].to(value.dtype))
    assert any(not torch.equal(parts[2][key], parts[4][key]) for key in tensors)


def test_a_card_says_names_and_checksums_and_no_path(model, data, trained, tmp_path):
    """Neither of the draft model that a head was trained on, nor of a model that lies in a local folder."""
    local = dataclasses.replace(model, name=str(tmp_path / "somewhere" / "my-model"), revision="local")
    train("draft_model", local, tmp_path, data, **settings("draft_model"))
    draft = tmp_path / "draft_model.safetensors"
    train("acceptance_head", local, tmp_path, data, **{**settings("acceptance_head"), "draft": str(draft)})
    for name in ("draft_model", "acceptance_head"):
        text = (tmp_path / f"{name}.json").read_text("utf-8")
        assert str(tmp_path) not in text and json.loads(text)["model"]["name"] == "my-model"
        artifacts.load(name, local, str(tmp_path / f"{name}.safetensors"))
    card = json.loads((tmp_path / "acceptance_head.json").read_text("utf-8"))
    assert card["settings"]["draft"] == "draft_model.safetensors"
    assert card["prepared"]["draft_model"] == json.loads((tmp_path / "draft_model.json").read_text("utf-8"))["sha256"]


def test_a_finished_part_is_scored_on_other_texts(model, data, tmp_path):
    name = "medusa_heads"
    card = train(name, model, tmp_path, data, **settings(name))
    found = score(name, model, data.part(held_out=True), str(tmp_path / f"{name}.safetensors"))
    expected = {key.removeprefix("held_out_"): value for key, value in card["result"].items()}
    assert found == pytest.approx(expected, abs=1e-4)


@recipes
def test_its_curve_is_a_figure(name, model, data, tmp_path):
    card = train(name, model, tmp_path, data, **settings(name))
    tree = trace(card)
    for node in ("training", "held_out"):
        assert all(array.attrs["units"] and array.attrs["long_name"] for array in tree[node].data_vars.values())
    assert tree["training"].sizes["step"] == 2 and tree["training"]["loss"].values.tolist() == card["curve"]["loss"]
    title = json.dumps(loss_curve(tree).to_dict()["title"])
    assert name in title and f"after {card['best_step']} steps" in title


@recipes
def test_another_seed_is_another_training(name, model, data):
    one, other = (part_of(name, model, data, seed) for seed in (0, 1))
    losses = [[training.advance(), training.advance()] for training in (one, other)]
    assert losses[0] != losses[1]


@pytest.fixture(scope="module")
def trained(model, data, tmp_path_factory):
    """A folder with one artefact."""
    place = tmp_path_factory.mktemp("trained")
    train("draft_model", model, place, data, **settings("draft_model"))
    return place


def copy_of(trained, tmp_path):
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "draft_model.safetensors"


def test_a_missing_artefact_names_the_command_that_makes_it(model, tmp_path):
    with pytest.raises(ArtifactError, match=r"workbench train no_such_part"):
        artifacts.load("no_such_part", model)
    with pytest.raises(ArtifactError, match=r"workbench train draft_model"):
        artifacts.load("draft_model", model, str(tmp_path / "draft_model.safetensors"))
    with pytest.raises(ArtifactError, match=r"no \.safetensors file"):
        artifacts.load("draft_model", model, str(tmp_path / "draft_model.bin"))


def test_a_flipped_byte_is_found(model, trained, tmp_path):
    file = copy_of(trained, tmp_path)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptModel, match="checksum"):
        artifacts.load("draft_model", model, str(file))


def test_another_model_or_recipe_is_refused(model, trained, tmp_path):
    file = copy_of(trained, tmp_path)
    with pytest.raises(ArtifactError, match=r"trained for tiny-llama, not for tiny-gpt2: .*workbench train"):
        artifacts.load("draft_model", tiny("gpt2"), str(file))
    with pytest.raises(ArtifactError, match="holds a draft_model, not a medusa"):
        artifacts.load("medusa", model, str(file))


def test_a_card_that_is_none_is_refused(model, trained, tmp_path):
    file = copy_of(trained, tmp_path)
    file.with_suffix(".json").write_text('{"model": "tiny-llama"}')
    with pytest.raises(CorruptModel, match="no card"):
        artifacts.load("draft_model", model, str(file))


def test_tensors_of_another_shape_are_named(model, trained, data):
    tensors, _ = artifacts.load("draft_model", model, str(trained / "draft_model.safetensors"))
    part = part_of("draft_model", model, data).part
    (key, value), *_ = tensors.items()
    for wrong, said in (
        ({**tensors, key: value[:1]}, f"{key} has shape"),
        ({**tensors, "more": value}, "unknown tensor more"),
        ({k: v for k, v in tensors.items() if k != key}, f"lacks {key}"),
    ):
        with pytest.raises(ArtifactError, match=said):
            artifacts.fit(part, wrong, "draft_model")


def test_a_checkpoint_of_another_training_is_refused(model, data, tmp_path):
    file = tmp_path / "draft_model.checkpoint"
    part_of("draft_model", model, data).checkpoint(file)
    with pytest.raises(SettingError, match="another training"):
        train("draft_model", model, tmp_path, data, resume=True, **{**settings("draft_model"), "steps": 3})
    with pytest.raises(SettingError, match=r"no draft_model\.checkpoint"):
        train("draft_model", model, tmp_path / "elsewhere", data, resume=True, **settings("draft_model"))


@pytest.mark.parametrize("kind", ["part", "best", "optimiser/exp_avg"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(model, data, tmp_path, kind):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    file, training = tmp_path / "draft_model.checkpoint", part_of("draft_model", model, data)
    training.advance()
    training.checkpoint(file)
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    tensors = load_file(file)
    lacking = [key for key in tensors if key.startswith(f"{kind}/")]
    assert lacking
    save_file({key: value for key, value in tensors.items() if key != lacking[0]}, file, facts)
    with pytest.raises((CorruptModel, ArtifactError), match="lacks"):
        part_of("draft_model", model, data).restore(file)


def test_a_loss_that_is_no_number_ends_the_training(model, data):
    training = part_of("draft_model", model, data)
    with torch.no_grad():
        next(training.part.parameters()).fill_(float("nan"))
    with pytest.raises(NumericalError, match="lower the rate"):
        training.advance()


def test_held_out_prompts_are_never_in_a_batch(model, data):
    unseen = {tuple(row) for row in data.part(held_out=True).tokens.tolist()}
    seen = {tuple(row) for row in data.part(held_out=False).tokens.tolist()}
    assert unseen and seen and not unseen & seen
    openings = {row[:5] for row in seen}
    asked = [row for row in unseen if row[:5] in openings]
    assert not asked, "an answer to a held-out prompt is trained on"


def test_the_answer_mask_marks_what_the_model_wrote(model, data):
    """Greedy texts: the tokens marked as the model's own are its own choices, the others are the prompt's."""
    greedy = 0
    for tokens, answer, length in zip(data.tokens, data.answer, data.lengths):
        own = answer.nonzero().flatten()
        assert own.numel() and int(own[-1]) == length - 1 and int(own[0]) >= 1
        text = tokens[: int(length)].long()
        best = model.hf(text[None]).logits[0].argmax(-1)
        greedy += torch.equal(best[own - 1], text[own])
    assert greedy >= len(data.tokens) // 2


def test_training_text_survives_a_file(data, tmp_path):
    data.save(tmp_path / "text.safetensors")
    again = TrainingData.read(tmp_path / "text.safetensors")
    for name in ("tokens", "answer", "lengths", "held_out"):
        assert torch.equal(getattr(again, name), getattr(data, name))
    assert again.facts == data.facts and len(again.flat()) == int(data.lengths.sum())
    with pytest.raises(SettingError, match="no training text"):
        TrainingData.read(tmp_path / "none.safetensors")
