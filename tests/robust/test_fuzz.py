"""Any recipe with any settings on any family either says in one line why not, or keeps every promise."""

import math

import pytest
from helpers import checksum, facts, hooks, random_tokens, tokens_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from robust.recipes import recipes

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.models import FAMILIES
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import parse, spell

# No clock and no database: the same cases in every run and on every machine.
steady = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
few = settings(steady, max_examples=25)
many = settings(steady, max_examples=1500)

prompts = st.builds(
    lambda length, seed, repeated: random_tokens(length, seed) * (2 if repeated else 1),
    st.sampled_from([1, 2, 3, 7, 16, 40, 100]), st.integers(1, 5), st.booleans(),
)  # fmt: skip
requests = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 24)},
    optional={
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_p": st.sampled_from([1.0, 0.5]),
        "top_k": st.sampled_from([0, 1, 5, 1000]),
        "seed": st.integers(0, 3),
        "prefill_chunk": st.sampled_from([None, 1, 5, 1000]),
        "context": st.floats(0, 1),
        "min_new_tokens": st.integers(0, 4),
        "logprobs": st.sampled_from([0, 1, 5, 200]),
    },
)


def outcome(model, prompt, recipe, options):
    """The steps, or the error's message if it is one that was made for a person."""
    try:
        return list(wb.generate(model, prompt, recipe, stop_tokens=(), **options))
    except WorkbenchError as error:
        assert str(error).strip() and "\n" not in str(error)
        return str(error)


def keeps_its_promises(family, recipe, prompt, options):
    model = tiny(family)
    if "context" in options:
        options["context_tokens"] = round(options.pop("context") * len(prompt)) or None
    before = checksum(model), hooks(model)
    steps = outcome(model, prompt, recipe, options)
    assert (checksum(model), hooks(model)) == before
    again = outcome(model, prompt, recipe, options)
    if isinstance(steps, str):
        assert again == steps
        return
    assert list(map(facts, steps)) == list(map(facts, again)), "one seed gives one run"
    tokens = tokens_of(steps)
    ends = any("stop" in each.slots for each in recipe)
    assert len(tokens) == options["max_new_tokens"] or (ends and 0 < len(tokens) < options["max_new_tokens"])
    assert all(0 <= token < model.anatomy.vocabulary for token in tokens)
    for step in steps:
        assert 0 <= step.accepted <= step.drafted and len(step.tokens) >= 1
        assert all(math.isfinite(value) and value > 0 for value in (step.flops, step.bytes))
        # Without any attention nothing is remembered.
        assert step.cache_bytes > 0 or not any(step.keys_kept)
    if all(each.exact for each in recipe) and not options.get("temperature"):
        assert tokens == tokens_of(wb.generate(model, prompt, stop_tokens=(), **options))
    assert parse("+".join(map(spell, recipe)), TECHNIQUES) == recipe


@given(st.sampled_from(sorted(FAMILIES)), recipes(), prompts, requests)
@few
def test_a_recipe_keeps_its_promises_or_says_why_not(family, recipe, prompt, options):
    keeps_its_promises(family, recipe, prompt, options)


@pytest.mark.slow
@given(st.sampled_from(sorted(FAMILIES)), recipes(), prompts, requests)
@many
def test_many_recipes_keep_their_promises_or_say_why_not(family, recipe, prompt, options):
    keeps_its_promises(family, recipe, prompt, options)


words = st.sampled_from(
    [*TECHNIQUES, *"+:=,-./ ", "draft", "keep", "weights", "nan", "-1", "1e400", "0x1", "None", "é", "\0"]
)
specifications = st.lists(words, max_size=8).map("".join) | st.text(max_size=30)


@given(specifications)
@settings(steady, max_examples=400)
def test_any_specification_is_a_recipe_or_one_line(specification):
    try:
        recipe = parse(specification, TECHNIQUES)
    except WorkbenchError as error:
        assert str(error).strip() and "Traceback" not in str(error)
    else:
        assert parse("+".join(map(spell, recipe)), TECHNIQUES) == recipe


odd = st.sampled_from(
    [
        -1,
        0,
        1,
        2,
        2**31,
        2**63,
        2**64,
        -(2**70),
        0.5,
        float("nan"),
        float("inf"),
        1e-40,
        1e300,
        "3",
        "x",
        None,
        True,
        [1],
        b"",
    ]
)
OPTIONS = (
    "max_new_tokens", "temperature", "top_p", "top_k", "seed", "prefill_chunk", "context_tokens", "min_new_tokens",
    "logprobs",
)  # fmt: skip


@given(st.sampled_from(OPTIONS), odd)
@settings(steady, max_examples=400)
def test_any_option_runs_or_is_refused_in_one_line(name, value):
    options = {"max_new_tokens": 3, "min_new_tokens": 0, name: value}
    outcome(tiny("llama"), random_tokens(8), [], options)


@given(
    st.lists(odd, max_size=4)
    | st.text(max_size=5)
    | odd
    | st.lists(st.lists(st.integers(0, 90), max_size=3), max_size=3)
)
@settings(steady, max_examples=300)
def test_any_prompt_runs_or_is_refused_in_one_line(prompt):
    outcome(tiny("llama"), prompt, [], {"max_new_tokens": 2})
