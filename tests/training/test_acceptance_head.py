"""The acceptance head's label, weight and mixing, against the formulas written out."""

import math

import pytest
import torch

from workbench.drafting import distilled
from workbench.models.tiny import tiny
from workbench.training._forward import residual
from workbench.training.acceptance_head import AcceptanceHead

TEXT = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(8))
ANSWER = torch.zeros(TEXT.shape, dtype=torch.bool)
ANSWER[0, 5:12] = ANSWER[1, 9:16] = True


def drafting(model, monkeypatch, tokens=60):
    """A draft model of two untrained layers that knows some of the tokens."""
    tensors = {**distilled.layer_tensors(model.anatomy, 2), "vocabulary": torch.arange(3, 3 + tokens)}
    draft = distilled.assemble(model, tensors)
    monkeypatch.setattr(AcceptanceHead, "_draft", lambda self, main: draft)
    return draft


@pytest.mark.parametrize("decoding", ["greedy", "sampled"])
def test_the_loss_is_the_weighted_cross_entropy_to_the_chance_of_acceptance(decoding, monkeypatch):
    model = tiny("llama")
    draft = drafting(model, monkeypatch)
    recipe = AcceptanceHead(decoding=decoding, mixing=0.0, rejection=6.0, draft="untrained")
    torch.manual_seed(0)
    head = recipe.part(model)
    loss, figures = recipe.loss(model, head, TEXT, ANSWER)
    expected, chances = [], []
    with torch.no_grad():
        own = model.hf(TEXT).logits.double()
        hidden = residual(draft.anatomy, TEXT)
        small = draft.anatomy.unembed(hidden).double()
        for row, place in ANSWER.nonzero().tolist():
            p, q = own[row, place - 1], small[row, place - 1]
            if decoding == "greedy":
                chance = float(int(p.argmax()) == int(q.argmax()) + 3)
            else:
                # E over y ~ q of min(1, p(y) / q(y))
                laws = p.softmax(0)[3:63], q.softmax(0)
                chance = sum(float(qy) * min(1.0, float(py / qy)) for py, qy in zip(*laws))
            said = 1 / (1 + math.exp(-float(head(hidden[row, place - 1]))))
            expected.append(-(chance * math.log(said) + 6.0 * (1 - chance) * math.log(1 - said)))
            chances.append(chance)
    assert float(loss.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-3)
    assert figures["accepted"] == pytest.approx(sum(chances) / len(chances), rel=1e-3)


def test_mixing_replaces_answers_by_what_the_draft_model_says(monkeypatch):
    model = tiny("llama")
    draft = drafting(model, monkeypatch)
    with torch.no_grad():
        best = draft.draft_vocabulary[draft.anatomy.unembed(residual(draft.anatomy, TEXT)).argmax(-1)]
        mixed = AcceptanceHead(mixing=1.0, draft="untrained")._mixed(draft, TEXT, ANSWER)
        some = AcceptanceHead(mixing=0.5, draft="untrained")._mixed(draft, TEXT, ANSWER)
    assert torch.equal(mixed[~ANSWER], TEXT[~ANSWER])
    assert torch.equal(mixed[:, 1:][ANSWER[:, 1:]], best[:, :-1][ANSWER[:, 1:]])
    share = float((some == mixed)[ANSWER].float().mean())
    assert 0 < share < 1 and bool(((some == mixed) | (some == TEXT)).all())
