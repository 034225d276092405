"""The distilled draft model: its loss, what is stored, and that what comes back drafts for the main model."""

import pytest
import torch
from helpers import run, tokens_of

from workbench.engine import Decoder
from workbench.errors import ArtifactError
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny
from workbench.parts import distilled
from workbench.techniques import DraftModel as Drafting
from workbench.techniques.draft._model_drafter import ModelDrafter
from workbench.training import DataSettings, train
from workbench.training._forward import residual
from workbench.training.draft_model import DraftModel
from workbench.training.writing import write_texts

TEXT = torch.randint(3, 96, (2, 20), generator=torch.Generator().manual_seed(2))


def part(model, **settings):
    recipe = DraftModel(steps=2, batch=2, length=24, **settings)
    made = recipe.part(model)
    made.vocabulary.copy_(recipe.prepare(model, TEXT.flatten())["vocabulary"])
    return recipe, made


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_and_the_whole_vocabulary_are_the_model_itself(family):
    """Then the untrained draft is the model, and its divergence from it is nothing."""
    model = tiny(family)
    recipe, made = part(model, layers=model.layers, vocabulary=96)
    answer = torch.ones(TEXT.shape, dtype=torch.bool)
    loss, figures = recipe.loss(model, made, TEXT, answer)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    assert figures["accuracy"] == 1 and figures["acceptance"] == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        logits = model.hf(TEXT).logits[:, :-1]
    torch.testing.assert_close(made.logits(model, TEXT, answer[:, 1:]), logits.flatten(0, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_the_loss_is_the_divergence_over_the_draft_vocabulary_where_the_model_wrote(family):
    model = tiny(family)
    recipe, made = part(model, layers=2, vocabulary=40)
    answer = torch.zeros(TEXT.shape, dtype=torch.bool)
    answer[0, 7:15] = answer[1, 3:20] = True
    loss, figures = recipe.loss(model, made, TEXT, answer)
    named = {name.replace("/", "."): value for name, value in made.named_parameters()}
    drafter = distilled.draft_of(model, named, made.vocabulary).anatomy
    kept = made.vocabulary.tolist()
    sums, agreed, met, count = 0.0, 0, 0.0, 0
    with torch.no_grad():
        own = model.hf(TEXT).logits
        small = drafter.unembed(residual(drafter, TEXT))
        for row in range(2):
            for place in range(1, TEXT.shape[1]):
                if answer[row, place]:
                    p, q = own[row, place - 1].double(), small[row, place - 1].double().softmax(0)
                    trimmed = p[kept].softmax(0)
                    sums += float((trimmed * (trimmed / q).log()).sum())
                    met += float(torch.minimum(p.softmax(0)[kept], q).sum())
                    agreed += int(p.argmax()) == kept[int(q.argmax())]
                    count += 1
    assert float(loss.detach()) == pytest.approx(sums / count, rel=1e-3)
    assert figures == pytest.approx({"accuracy": agreed / count, "acceptance": met / count}, rel=1e-3)


def test_the_draft_vocabulary_is_the_most_frequent_tokens():
    model = tiny("llama")
    tokens = torch.tensor([7] * 5 + [90] * 4 + [3] * 3 + [50] * 2 + [60])
    prepared = DraftModel(vocabulary=4).prepare(model, tokens)
    assert prepared["vocabulary"].tolist() == [3, 7, 50, 90]
    assert prepared["covered"] == pytest.approx(14 / 15, abs=1e-4)
    filled = DraftModel(vocabulary=8).prepare(model, tokens)["vocabulary"].tolist()
    assert filled == [0, 1, 2, 3, 7, 50, 60, 90], "what never came is filled up from the first tokens on"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model, and the file of a draft model trained for it for a few steps."""
    model, place = tiny("llama"), tmp_path_factory.mktemp("draft")
    prompts = [torch.randint(3, 96, (8,), generator=torch.Generator().manual_seed(k)).tolist() for k in range(40)]
    data = write_texts(model, prompts, prompts, DataSettings(new_tokens=40, length=48, sampled=1, continued=0))
    card = train("draft_model", model, place, data, steps=60, batch=16, length=48, layers=2, learning_rate=0.003)
    return model, place / "draft_model.safetensors", card


def test_it_learns(trained):
    *_, card = trained
    held_out = card["curve"]["held_out_loss"]
    assert held_out[-1] < 0.7 * held_out[0]


def test_what_comes_back_reads_every_token_and_says_the_draft_vocabulary(trained):
    model, file, _ = trained
    draft = distilled.load(model, str(file))
    assert draft is distilled.load(model, str(file)), "loaded once for a main model"
    assert draft.layers == 2 and draft.anatomy.unembedding.shape[0] == len(draft.draft_vocabulary)
    assert draft.draft_vocabulary.tolist() == sorted(draft.draft_vocabulary.tolist())
    assert draft.anatomy._embedding is model.anatomy._embedding, "the embedding is shared"
    text = TEXT[0].tolist()
    decoded = Decoder(draft).forward(text, logits="all")
    with torch.no_grad():
        whole = draft.anatomy.unembed(residual(draft.anatomy, TEXT[:1]))[0]
    torch.testing.assert_close(decoded, whole, rtol=1e-4, atol=1e-4)


def test_it_drafts_for_the_main_model_without_changing_its_text(trained, monkeypatch):
    model, file, _ = trained
    draft = distilled.load(model, str(file))
    monkeypatch.setattr(distilled, "load", lambda main, weights="bundled": draft if main is model else None)
    prompt = TEXT[0].tolist()
    plain, drafted = run(model, prompt), run(model, prompt, [Drafting(model="distilled", draft=3)])
    assert tokens_of(drafted) == tokens_of(plain)
    assert sum(step.drafted for step in drafted)
    assert ModelDrafter(draft).vocabulary is not None


def test_a_model_without_one_has_none_and_a_wrong_one_is_refused(trained):
    model, file, _ = trained
    assert distilled.load(tiny("gpt2")) is None
    tensors = {name.replace(".", "/"): value for name, value in distilled.layer_tensors(model.anatomy, 2).items()}
    tensors["vocabulary"] = torch.arange(4)
    assert distilled.assemble(model, tensors).layers == 2
    key = "layers/1/query_key_value/weight"
    for wrong, said in (
        ({**tensors, key: tensors[key][:3]}, "does not fit"),
        ({name: value for name, value in tensors.items() if name != key}, "does not fit"),
        ({**tensors, "vocabulary": torch.tensor([96])}, "does not have"),
        ({"vocabulary": tensors["vocabulary"]}, "0 layers"),
    ):
        with pytest.raises(ArtifactError, match=said):
            distilled.assemble(model, wrong)
    with pytest.raises(ArtifactError, match="trained for tiny-llama"):
        distilled.load(tiny("gpt2"), str(file))
