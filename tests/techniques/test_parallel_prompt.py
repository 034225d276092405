"""Prompt tokens: drafts are what their rows said, training pays, nothing changes."""

import pytest
from techniques.trained_parts import (
    accepted_of_forwards,
    drafts_of_rows_are_what_they_said,
    is_exact_and_accepted_on_real_text,
    needs_artefact,
    trained_part,
)

from workbench.techniques import ParallelPrompt


@pytest.mark.parametrize("tree", ["adaptive", "fixed"])
def test_a_draft_is_what_the_rows_of_the_last_token_said(tree):
    drafts_of_rows_are_what_they_said(ParallelPrompt, tree)


def test_training_on_the_models_own_text_makes_them_right_more_often():
    settings = {"nodes": 12, "cost": "modelled"}
    weights = trained_part("parallel_prompt", 150, 3e-2)
    trained, forwards = accepted_of_forwards(ParallelPrompt(weights=weights, **settings))
    untrained, more = accepted_of_forwards(ParallelPrompt(weights="untrained", **settings))
    assert trained > 1.25 * untrained and forwards < more


@needs_artefact("parallel_prompt")
@pytest.mark.bundled
def test_drafts_are_accepted_on_real_text_and_change_nothing(bundled):
    is_exact_and_accepted_on_real_text(bundled, ParallelPrompt(cost="modelled"), 0.2)
