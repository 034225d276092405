"""A batch of texts scores as each of them alone."""

import pytest
import torch

from workbench.engine import score
from workbench.errors import PromptError
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_each_text_alone(family):
    model = tiny(family)
    texts = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [20, 21, 22], [30]]
    for text, logits in zip(texts, score(model, texts), strict=True):
        expected = model.hf(torch.tensor([text])).logits[0]
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_nothing_scores_as_nothing_and_an_empty_text_is_refused():
    assert score(tiny("llama"), []) == []
    with pytest.raises(PromptError, match="empty"):
        score(tiny("llama"), [[5], []])
