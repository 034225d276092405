"""A comparison with everything small, and a finished study."""

import pytest
from studies.made_up import MACHINE, PROMPTS, Biased

from workbench.techniques import PromptLookup


@pytest.fixture
def compared(tiny):
    """Compare on the tiny Llama with everything small: ``compared(recipes, **options)``."""
    from workbench.studies.compare import compare

    def run(recipes, prompts=PROMPTS, model=None, **options):
        options = {"max_new_tokens": 10, "stop_tokens": (), "hardware": (MACHINE,), **options}
        return compare(model or tiny("llama"), prompts, recipes, **options)

    return run


@pytest.fixture(scope="session")
def small_study(tiny):
    """A finished study of three runs on two prompts."""
    from workbench.studies.compare import compare

    recipes = {"lookup": [PromptLookup()], "<b>bias</b>": [Biased()]}
    return compare(tiny("llama"), PROMPTS, recipes, max_new_tokens=10, stop_tokens=(), hardware=(MACHINE,))
