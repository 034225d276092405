"""The one table of facts: every field of a step is in it, and a row of it is all that a fact needs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from workbench import Study
from workbench.engine.step import Step
from workbench.studies import fact_table, facts, summary, table, tree
from workbench.studies.fact_table import FACTS, OF_STEP, Fact, briefs, total

NO_NUMBERS = {"index", "phase", "experts", "nodes", "logprobs", "logits"}
"""Fields of a step that are no number of it, or stand in groups of their own."""


def test_every_field_of_a_step_has_a_row():
    fields = {field.name for field in dataclasses.fields(Step)} - NO_NUMBERS - {"model"}  # a place among the models
    assert fields == {fact.name for fact in OF_STEP}


@pytest.mark.parametrize("group", ["steps", "scores", "summary", "columns"])
def test_no_two_rows_say_the_same_thing(group):
    kept = {
        "steps": [fact.name for fact in FACTS if fact.step],
        "scores": [fact.name for fact in FACTS if fact.of_run or fact.judged],
        "summary": [fact.name for fact in FACTS if fact.over_prompts],
        "columns": [fact.column for fact in FACTS if fact.column],
    }[group]
    assert len(set(kept)) == len(kept) > 9


def test_every_variable_says_what_it_is():
    for fact in FACTS:
        assert not (fact.step or fact.of_run or fact.judged) or (fact.units and fact.long_name), fact.name
        assert fact.step in ("", "whole", "real") and fact.part in ("text", "counts", "quality")


def test_a_row_is_all_that_a_new_fact_needs(small_study, monkeypatch):
    """The square of a step's operations, as if it were a field: in traces, scores, summary and both tables."""
    row = Fact(
        "squared", "FLOP", "squared operations", "real", lambda step: step.flops**2,
        of_run=lambda steps: sum(step.flops**2 for step in steps), over_prompts=np.nansum, column="squared [GFLOP2]",
        unit=1e18, per_token=True, brief=("squared", "FLOP2", lambda run: f"{run['squared']:.3g}"),
    )  # fmt: skip
    steps = [dataclasses.replace(_STEP, index=place, phase=phase) for place, phase in enumerate(("prefill", "decode"))]
    for module in (facts, summary, fact_table):
        for name, chosen in (
            ("FACTS", bool),
            ("OF_STEP", lambda fact: fact.step),
            ("OF_RUN", lambda fact: fact.of_run),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tuple(filter(chosen, (*FACTS, row))))
    assert facts.steps_dataset(steps)["squared"].values.tolist() == [9.0, 9.0]
    assert facts.steps_dataset(steps)["squared"].attrs == {"units": "FLOP", "long_name": "squared operations"}
    assert facts.sums(steps)["squared"] == 18.0
    older = summary.summarise(small_study.tree, 0)
    assert np.isnan(older["squared"]) and np.isnan(older["squared_per_token"]), "a study that was stored before"
    grown = small_study.tree.copy()
    for group in ("steps", "scores"):
        grown[group] = grown[group].to_dataset().assign(squared=grown[f"{group}/flops"] ** 2)
    said = summary.summarise(grown, 0)
    assert said["squared"] == (grown["scores/flops"].isel(run=0) ** 2).sum() > 0
    cells = table.row({**small_study.runs[0], "question": "", **said}, text=False)
    assert cells["squared [GFLOP2]"] == said["squared_per_token"] / 1e18 > 0
    assert list(cells).index("squared [GFLOP2]") == list(cells).index("counted GB/decoded token") + 1
    assert briefs("counts")[-1][:2] == ("squared", "FLOP2")


def test_columns_are_those_of_the_rows(small_study):
    shown = small_study.table()
    assert isinstance(shown, pd.DataFrame) and isinstance(small_study, Study)
    assert [name for name in shown if name in {fact.column for fact in FACTS}][:4] == [
        fact.column for fact in FACTS if fact.part == "text"
    ]
    assert set(tree.SCORES) == set(small_study.tree["scores"].data_vars)


def test_sums_are_of_decode_steps_where_asked():
    steps = [_STEP, dataclasses.replace(_STEP, phase="decode", flops=4)]
    assert total("flops")(steps) == 7 and total("flops", decode=True)(steps) == 4
    assert total("flops", decode=True)(steps[:1]) == 3, "a prefill alone"


_STEP = Step(
    index=0, phase="prefill", tokens=(1,), drafted=0, accepted=0, layers=(0,), keys_read=(1.0,), keys_kept=(1,),
    experts=(), model="m", forwards=1, seconds=1.0, draft_seconds=0.0, flops=3, bytes=1, cache_bytes=1,
)  # fmt: skip
