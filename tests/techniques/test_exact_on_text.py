"""Every technique marked exact writes the baseline's tokens on real text; ``check_exact.py`` does it on 60 prompts.

One of copying, where drafts are long, in every run of the tests, and one of reasoning in ``make test-all``.
"""

import functools

import pytest
from helpers import run, tokens_of

import workbench.techniques  # noqa: F401  fills the registry
from workbench.errors import ModelError
from workbench.registry import TECHNIQUES
from workbench.tasks import encode_prompt, load_prompts

NEW = 24
TASKS = ("copy_editing", pytest.param("mathematics", marks=pytest.mark.slow))
EXACT = [name for name, kind in TECHNIQUES.items() if kind.exact]


@functools.cache
def prompt(tokenizer, task):
    return encode_prompt(tokenizer, load_prompts(task, limit=1)[0])


@functools.cache
def baseline(model, task):
    return tokens_of(run(model, prompt(model.tokenizer, task), new=NEW))


@pytest.mark.bundled
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", EXACT)
def test_greedy_text_is_the_baselines(name, task, bundled):
    try:
        found = tokens_of(run(bundled, prompt(bundled.tokenizer, task), [TECHNIQUES[name]()], NEW))
    except ModelError as error:
        pytest.skip(f"a model it needs is not here: {error}")
    assert found == baseline(bundled, task)
