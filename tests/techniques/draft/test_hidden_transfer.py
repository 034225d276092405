"""Transferred states: drafts are what their rows said, training pays, nothing changes."""

import pytest
from techniques.trained_parts import (
    drafts_of_rows_are_what_they_said,
    is_exact_and_accepted_on_real_text,
    needs_artefact,
    training_pays,
)

from workbench.techniques import HiddenTransfer


@pytest.mark.parametrize("tree", ["adaptive", "fixed"])
def test_a_draft_is_what_the_rows_of_the_last_token_said(tree):
    drafts_of_rows_are_what_they_said(HiddenTransfer, tree)


def test_training_on_the_models_own_text_makes_them_right_more_often():
    training_pays(HiddenTransfer, 1e-2)


@needs_artefact("hidden_transfer")
@pytest.mark.bundled
def test_drafts_are_accepted_on_real_text_and_change_nothing(bundled):
    is_exact_and_accepted_on_real_text(bundled, HiddenTransfer(cost="modelled"), 0.2)
