"""The acceptance head's texts, label, mask and loss, against the public code's way of making them, place by place."""

import math

import pytest
import torch

from workbench.models.tiny import tiny
from workbench.parts import distilled
from workbench.training import RECIPES
from workbench.training._forward import residual
from workbench.training.acceptance_head import AcceptanceHead

TEXT = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(8))
ANSWER = torch.zeros(TEXT.shape, dtype=torch.bool)
ANSWER[0, 5:12] = ANSWER[1, 9:16] = True


@pytest.fixture
def draft(monkeypatch):
    """A draft model of two untrained layers that knows some of the tokens."""
    model = tiny("llama")
    tensors = {**distilled.layer_tensors(model.anatomy, 2), "vocabulary": torch.arange(3, 63)}
    draft = distilled.assemble(model, tensors)
    monkeypatch.setattr(AcceptanceHead, "_draft", lambda self, main: draft)
    return draft


def heard(recipe, model, head):
    """The loss with its figures, and the residual rows [asked, width] that the head was given."""
    rows = []

    class Listening(torch.nn.Module):
        def forward(self, hidden):
            rows.append(hidden)
            return head(hidden)

    torch.manual_seed(5)
    loss, figures = recipe.loss(model, Listening(), TEXT, ANSWER)
    return float(loss.detach()), figures, rows[0]


@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
@pytest.mark.parametrize("mixing", [0.5, 1.0])
def test_it_is_asked_about_drafted_tokens_that_it_has_read(decoding, mixing, draft):
    """Every answer place either has its own token and is not asked about, or a drafted one and is."""
    model = tiny("llama")
    recipe = AcceptanceHead(decoding=decoding, mixing=mixing, rejection=6.0, draft="untrained")
    torch.manual_seed(0)
    head = recipe.part(model)
    loss, figures, rows = heard(recipe, model, head)
    with torch.no_grad():
        p = model.hf(TEXT).logits.double().softmax(-1)
        q = draft.anatomy.unembed(residual(draft.anatomy, TEXT)).double().softmax(-1)
    # The same draws again, by hand: first all the tokens, then which of them are put into the text.
    torch.manual_seed(5)
    places = ANSWER.nonzero().tolist()
    distributions = torch.stack([q[row, place - 1] for row, place in places])
    drawn = distributions.argmax(-1) if decoding == "greedy" else torch.multinomial(distributions.float(), 1)[:, 0]
    asked = torch.rand(len(places)) < mixing
    mixed = TEXT.clone()
    for (row, place), token, put in zip(places, drawn.tolist(), asked.tolist()):
        if put:
            mixed[row, place] = token + 3
    with torch.no_grad():
        hidden = residual(draft.anatomy, mixed)
    expected = torch.stack([hidden[row, place] for (row, place), put in zip(places, asked.tolist()) if put])
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
    above = below = kept = 0.0
    for (row, place), token, put in zip(places, drawn.tolist(), asked.tolist()):
        if not put:
            continue
        own, small = p[row, place - 1], q[row, place - 1]
        if decoding == "greedy":
            label = float(int(own.argmax()) == token + 3)
        else:
            label = min(1.0, float(own[token + 3] / small[token]))
        said = 1 / (1 + math.exp(-float(head(hidden[row, place]).detach())))
        above -= label * math.log(said) + 6.0 * (1 - label) * math.log(1 - said)
        below += label + 6.0 * (1 - label)
        kept += label
    assert loss == pytest.approx(above / below, rel=1e-3)
    assert figures["accepted"] == pytest.approx(kept / int(asked.sum()), rel=1e-3)


def test_a_label_is_the_chance_of_a_drawn_token_and_its_mean_what_both_distributions_share(draft):
    """E over y ~ q of min(1, p(y) / q(y)) is the sum of min(p, q)."""
    recipe = AcceptanceHead(draft="untrained")
    generator = torch.Generator().manual_seed(2)
    drafted, own = torch.randn(1, 60, generator=generator), torch.randn(1, 96, generator=generator)
    torch.manual_seed(1)
    _, label, probability = recipe.draw(draft, drafted.expand(40_000, -1), own.expand(40_000, -1))
    p, q = own.softmax(-1)[0, 3:63], drafted.softmax(-1)[0]
    assert float(label.mean()) == pytest.approx(float(torch.minimum(p, q).sum()), abs=0.01)
    assert float(probability.mean()) == pytest.approx(float(q.pow(2).sum()), abs=0.002)


def test_figures_are_about_chances_though_the_loss_weighs_rejections():
    """A head at the loss's own minimum: what it says turned round is the label, and it foretells what can be."""
    recipe = AcceptanceHead(rejection=6.0)
    label = torch.tensor([0.1, 0.3, 0.6, 0.95])
    figures = recipe._figures((label / (6.0 * (1 - label))).log(), label, torch.tensor([0.9, 0.4, 0.4, 0.9]))
    assert figures["expected"] == pytest.approx(figures["accepted"]) == pytest.approx(float(label.mean()))
    assert figures["divergence"] == pytest.approx(0, abs=1e-6)
    assert figures["foretold"] == pytest.approx((0.9 + 0.7 + 0.6 + 0.95) / 4)
    assert figures["always_rejecting"] == pytest.approx(1 - float(label.mean()))
    assert figures["by_probability"] == pytest.approx((0.1 + 0.7 + 0.4 + 0.95) / 4)
    mean = float(label.mean())
    apart = [a * math.log(a / mean) + (1 - a) * math.log((1 - a) / (1 - mean)) for a in label.tolist()]
    assert figures["constant_divergence"] == pytest.approx(sum(apart) / 4, rel=1e-4)


def test_by_default_it_is_trained_as_in_the_paper():
    recipe = RECIPES["acceptance_head"]()
    assert (recipe.mixing, recipe.rejection, recipe.depth, recipe.decoding) == (0.85, 6.0, 3, "sampled")
    assert recipe.data.prompts == 0 and recipe.data.asked, "not on the texts that the draft model learned from"
    assert recipe.data.temperature == 1.0
