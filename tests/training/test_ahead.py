"""Rows in training against the same rows in a verification by the engine, and what heads are trained on."""

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder, Lookahead
from workbench.models.tiny import tiny
from workbench.parts.lookahead import HiddenMaps, PromptTokens
from workbench.parts.lookahead.base import entering_rows
from workbench.training import RECIPES
from workbench.training._accuracy import note_ranks
from workbench.training._ahead import chosen_places, logits, read, run_rows
from workbench.training._draft_heads import DraftHeadsRecipe

FAMILIES = ("llama", "gpt2", "gemma2", "gemma3_text", "gpt_neox", "gpt_oss", "granite", "mixtral", "opt", "smollm3")


def part_of(kind, model):
    torch.manual_seed(1)
    if kind == "prompt":
        return PromptTokens(torch.randn(2, model.anatomy.width))
    part = HiddenMaps(model.anatomy.width, 2, 2)
    torch.nn.init.normal_(part.maps, std=0.2)
    return part


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["prompt", "transfer"])
def test_rows_in_training_say_what_they_say_beside_a_verification(family, kind):
    from workbench.parts.lookahead.base import position_shift

    model = tiny(family)
    part, text = part_of(kind, model), random_tokens(20)
    places, orders = torch.tensor([4, 11, 17]), [1, 2] * 3
    trained = read(model.anatomy, torch.tensor([text]), part.layer)
    made = part.rows(trained.entering[:, places].repeat_interleave(2, 1), orders)
    said = logits(model.anatomy, run_rows(model.anatomy, trained, made, places, 2))[0]
    assert said.requires_grad
    for group, place in enumerate(places.tolist()):
        shift = position_shift(model.anatomy, torch.tensor([place + 1, place + 2])) if part.layer == 0 else None

        def make(x, orders, shift=shift):
            rows = part.rows(x, orders)
            return rows if shift is None else rows + shift

        decoder = Decoder(model)
        with torch.inference_mode():
            if place:
                decoder.prefill(text[:place], logits="none")
            decoder.forward([text[place]], logits="all", ahead=Lookahead([0, 0], [1, 2], make, part.layer))
        torch.testing.assert_close(said[2 * group : 2 * group + 2], decoder.ahead, atol=2e-4, rtol=1e-3)


def test_places_are_where_an_answer_follows():
    answer = torch.zeros(2, 12, dtype=torch.bool)
    answer[0, 6:9] = True
    answer[1, 11] = True
    assert chosen_places(answer, 10, 2).tolist() == [4, 5, 6, 9]
    assert set(chosen_places(answer, 2, 2).tolist()) <= {4, 5, 6, 9}


def test_ranks_follow_in_training_and_are_averaged_on_held_out_text():
    part = PromptTokens(torch.zeros(1, 4), ranks=2)
    part.acceptance.zero_()
    note_ranks(part, torch.tensor([[1.0, 0.5]]))
    assert part.acceptance[0].tolist() == pytest.approx([0.02, 0.01])
    with torch.no_grad():
        for hit in (0.2, 0.4, 0.9):
            note_ranks(part, torch.tensor([[hit, 0.0]]))
    assert part.acceptance[0].tolist() == pytest.approx([0.5, 0.0])
    with torch.no_grad():
        note_ranks(part, torch.tensor([[0.5, 0.0]]))
    assert part.acceptance[0].tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, "llama") for name, recipe in RECIPES.items() if issubclass(recipe, DraftHeadsRecipe)]
    + [("medusa_heads", "gemma2"), ("hydra_heads", "granite")],
)
def test_the_loss_of_heads_is_the_cross_entropy_to_the_models_own_later_words(name, family):
    """By hand, for a draft vocabulary of half the tokens: head d after place t against the model after place t + d."""
    model = tiny(family)
    recipe = RECIPES[name](heads=2, vocabulary=48, decay=0.5)
    tokens = torch.tensor([random_tokens(14), random_tokens(14, seed=4)])
    answer = torch.zeros_like(tokens, dtype=torch.bool)
    answer[0, 5:] = answer[1, 9:] = True
    torch.manual_seed(2)
    part = recipe.part(model)
    prepared = recipe.prepare(model, tokens.flatten())
    part.vocabulary.copy_(prepared["vocabulary"])
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        loss, figures = recipe.loss(model, part, tokens, answer)
        out = model.hf(tokens, output_hidden_states=True)
        ids = part.vocabulary.long()
        table = model.anatomy.unembedding if part.output_embeddings else model.hf.get_input_embeddings().weight
        rows = part.rows(out.hidden_states[-1], table[tokens])
        expected = 0.0
        for depth in (1, 2):
            losses, right, asked = [], 0, 0
            for text in range(2):
                for t in range(14 - 1 - depth):
                    label = int(tokens[text, t + 1 + depth])
                    if not answer[text, t + 1 + depth]:
                        continue
                    asked += 1
                    said = model.anatomy.unembedding[ids] @ rows[depth - 1][text, t]
                    said = (said / getattr(model.hf.config, "logits_scaling", 1.0)).float()
                    if model.anatomy.softcap is not None:
                        said = 4.0 * torch.tanh(said / 4.0)
                    said = said.log_softmax(-1)
                    right += int(ids[said.argmax()]) == label
                    if label in ids.tolist():
                        target = out.logits[text, t + depth][ids].softmax(-1)
                        losses.append(-(target * said).sum())
            expected += 0.5 ** (depth - 1) * torch.stack(losses).mean()
            assert figures[f"accuracy_{depth}"] == pytest.approx(right / asked)
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "granite"])
def test_rows_begin_where_tokens_enter(family):
    """Behind the factor on the embedding, and with the first place's own vector where places are learned."""
    model = tiny(family)
    seen = model.hf(torch.tensor([[7]]), output_hidden_states=True).hidden_states[0][0, 0]
    torch.testing.assert_close(entering_rows(model)[7], seen)
