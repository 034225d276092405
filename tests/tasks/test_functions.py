"""What is learned from and what is judged by share neither modules nor wording; the file is what its maker makes."""

import ast
import platform
import re
from importlib.resources import files

import pytest

from making import functions as making
from workbench.errors import PromptError
from workbench.tasks import LEARNED_MODULES, held_out_functions, learned_functions, load_prompts
from workbench.tasks.functions import functions_of


def runs_of_words(text, length=12):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + length]) for place in range(len(words) - length + 1)}


def test_nothing_that_is_held_out_is_learned_from():
    learned = set().union(*(runs_of_words(text) for _, text in learned_functions()))
    held_out = [prompt.prompt + prompt.reference for prompt in held_out_functions()]
    assert len(learned) > 30_000 and len(held_out) > 100
    assert not learned & set().union(*map(runs_of_words, held_out))
    modules = {prompt.metadata["module"] for prompt in held_out_functions()}
    modules |= {prompt.metadata["module"] for prompt in load_prompts("code_completion")}
    assert len(modules) > 30 and not modules & set(LEARNED_MODULES)


def test_every_function_is_cut_where_a_statement_begins_and_is_whole_with_its_rest():
    for prompt in held_out_functions():
        assert prompt.prompt.endswith("\n") and prompt.reference.strip() and not prompt.chat
        [function] = ast.parse(prompt.prompt + prompt.reference).body
        assert isinstance(function, ast.FunctionDef) and prompt.id.endswith(f".{function.name}")
        line = prompt.prompt.count("\n") + 1
        assert line in {node.lineno for node in ast.walk(function) if isinstance(node, ast.stmt)}
        assert prompt.metadata["licence"] == "PSF-2.0"
    stated = files("workbench_data").joinpath("prompts", "SOURCES.md").read_text(encoding="utf-8")
    assert "`functions/held_out.jsonl`" in stated


@pytest.mark.skipif(platform.python_version() != "3.11.7", reason="the held-out functions are those of CPython 3.11.7")
def test_the_file_is_what_its_maker_makes():
    assert making.make() == held_out_functions()


def test_functions_come_whole_in_the_order_of_the_file_and_at_the_margin():
    found = list(functions_of("textwrap"))
    assert found and len({text for _, text in found}) == len(found)
    for name, text in found:
        [function] = ast.parse(text).body
        assert function.name == name and text.startswith("def ") and 6 <= text.count("\n") - 1 < 46
    assert list(functions_of("no_such_module")) == list(functions_of("no.such")) == list(functions_of("sys")) == []
    with pytest.raises(PromptError, match="no source of its standard library"):
        learned_functions(["sys"])


def test_some_are_evenly_spread():
    every, some = held_out_functions(), held_out_functions(10)
    assert [every.index(each) for each in some] == [place * len(every) // 10 for place in range(10)]
    assert held_out_functions(10_000) == every
    with pytest.raises(PromptError, match="1 or more"):
        held_out_functions(0)
