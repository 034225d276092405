"""Independent heads: drafts follow the text, training pays, nothing changes."""

import pytest
from techniques.trained_parts import (
    drafts_of_heads_follow_the_text,
    is_exact_and_accepted_on_real_text,
    needs_artefact,
    training_pays,
)

from workbench.techniques import MedusaHeads


@pytest.mark.parametrize("tree", ["adaptive", "fixed"])
def test_a_draft_depends_on_the_text_alone(tree):
    drafts_of_heads_follow_the_text(MedusaHeads, tree)


def test_training_on_the_models_own_text_makes_them_right_more_often():
    training_pays(MedusaHeads, 1e-2)


@needs_artefact("medusa_heads")
@pytest.mark.bundled
def test_drafts_are_accepted_on_real_text_and_change_nothing(bundled):
    is_exact_and_accepted_on_real_text(bundled, MedusaHeads(cost="modelled"), 0.3)
