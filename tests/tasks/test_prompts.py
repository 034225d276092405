import json
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from importlib.resources import files

import pytest

from workbench.errors import PromptError
from workbench.tasks import (
    SCORERS,
    Prompt,
    PromptFileError,
    encode_prompt,
    format_prompt,
    list_tasks,
    load_prompts,
    prompts,
    write_prompts,
)

BUNDLED = ("chat", "summarising", "code_completion", "copy_editing", "translation", "question_answering")


@pytest.mark.parametrize("task", BUNDLED)
def test_every_task_has_real_prompts_with_references_sources_and_licences(task):
    found = load_prompts(task)
    assert len(found) >= 8
    for prompt in found:
        assert prompt.task == task
        assert prompt.prompt.strip() and prompt.reference.strip()
        assert 100 <= len(prompt.prompt) <= 4000
        assert prompt.metadata["source"]
        assert prompt.metadata["licence"] in {"CC-BY-SA-3.0", "PSF-2.0", "public domain"}
        assert prompt.chat is (task != "code_completion")


def test_ids_texts_and_counts_over_all_tasks():
    found = load_prompts("all")
    assert len(found) >= 50
    assert Counter(prompt.task for prompt in found).keys() == set(BUNDLED)
    assert len({(prompt.task, prompt.id) for prompt in found}) == len({prompt.id for prompt in found}) == len(found)
    assert len({prompt.prompt for prompt in found}) == len(found)


def test_mixed_takes_the_tasks_in_turn():
    mixed = load_prompts("mixed")
    assert [prompt.task for prompt in mixed[:6]] == list(BUNDLED)
    assert load_prompts("mixed", limit=6) == mixed[:6]
    assert {prompt.id for prompt in mixed} == {prompt.id for prompt in load_prompts("all")}


def test_translations_are_translations_and_no_prompt_gives_its_reference_away():
    for prompt in load_prompts("translation"):
        assert prompt.reference not in prompt.prompt
        assert {"en-US"} < {prompt.metadata["from"], prompt.metadata["to"]}
    for task in ("summarising", "code_completion", "copy_editing"):
        assert not any(prompt.reference in prompt.prompt for prompt in load_prompts(task))


def test_answers_stand_in_their_passages():
    for prompt in load_prompts("question_answering"):
        passage, question = prompt.prompt.split("\n\nQuestion: ")
        assert prompt.reference in passage
        assert prompt.reference not in question


def test_copy_editing_repairs_to_the_original():
    for prompt in load_prompts("copy_editing"):
        spoilt = prompt.prompt.split("\n\n", 1)[1]
        wrong = [token for pair in prompt.metadata["errors"] for token in pair[0].split()]
        right = [token for pair in prompt.metadata["errors"] for token in pair[1].split()]
        assert len(prompt.metadata["errors"]) >= 5
        # Put back in order, the listed corrections turn the spoilt words into the reference's.
        repaired, pending = [], list(prompt.metadata["errors"])
        words = spoilt.split()
        while words:
            expected = prompt.reference.split()[len(repaired)]
            if words[0] == expected and not (
                pending and pending[0][0].split() == words[:2] and len(set(words[:2])) == 1
            ):
                repaired.append(words.pop(0))
                continue
            bad, good = pending.pop(0)
            assert words[: len(bad.split())] == bad.split()
            words = words[len(bad.split()) :]
            repaired.append(good)
        assert repaired == prompt.reference.split() and not pending
        assert wrong != right


def test_sources_are_stated_for_every_file():
    folder = files("workbench_data") / "prompts"
    stated = (folder / "SOURCES.md").read_text(encoding="utf-8")
    catalogue = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    lines = {entry.name for entry in folder.iterdir() if entry.name.endswith(".jsonl")}
    assert lines == {entry["file"] for entry in catalogue.values() if "file" in entry}
    for name in [*lines, "haystack/genesis.txt", "LICENSE-PSF-2.0.txt"]:
        assert f"`{name}`" in stated
    for prompt in load_prompts("all"):
        assert prompt.metadata["licence"] in catalogue[prompt.task]["licence"]
        assert prompt.metadata["licence"] in stated


def test_the_data_stays_small():
    def size(folder):
        return sum(size(entry) if entry.is_dir() else len(entry.read_bytes()) for entry in folder.iterdir())

    assert size(files("workbench_data") / "prompts") < 500_000


def test_list_tasks():
    found = {task.name: task for task in list_tasks()}
    assert set(found) == {*BUNDLED, "needle", "humaneval"} == set(SCORERS)
    for name in BUNDLED:
        assert found[name].count == len(load_prompts(name))
    assert found["needle"].count is None
    assert all(task.source and task.licence and task.description for task in found.values())


def test_importing_tasks_loads_neither_torch_nor_transformers():
    code = (
        "import sys, workbench.tasks as tasks; tasks.load_prompts('all'); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_prompt_is_frozen_hashable_and_compares_its_metadata():
    prompt = Prompt("a", "text", metadata={"source": "here"})
    with pytest.raises(FrozenInstanceError):
        prompt.prompt = "other"
    assert hash(prompt) == hash(Prompt("a", "text"))
    assert prompt != Prompt("a", "text")


# ---------------------------------------------------------------------------------------------- a user's own files


def test_round_trip(tmp_path):
    found = [
        *load_prompts("all"),
        Prompt(
            "odd", 'quotes " and </script>, a\u2028line separator, \x85 and\nbreaks, ünïcödé \U0001f600', task="mine"
        ),
        Prompt("empty reference", "text", reference=""),
        Prompt("plain", "def f():\n", task="mine", chat=False),
    ]
    path = tmp_path / "prompts.jsonl"
    write_prompts(found, path)
    assert load_prompts(path) == found
    assert load_prompts(str(path), limit=2) == found[:2]


def write(tmp_path, *lines):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_defaults_of_a_users_file(tmp_path):
    path = write(
        tmp_path,
        '\ufeff{"id": "a", "prompt": "Hello"}',
        "",
        '{"id": 7, "prompt": "x = ", "task": "code_completion", "reference": null, "author": "me"}\r',
        '{"id": "c", "prompt": "raw", "chat": false, "metadata": {"author": "you"}}',
    )
    first, second, third = load_prompts(path)
    assert first == Prompt("a", "Hello")
    assert second == Prompt("7", "x = ", None, "code_completion", chat=False, metadata={"author": "me"})
    assert third == Prompt("c", "raw", chat=False, metadata={"author": "you"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ('["a", "b"]', "line 2: expected an object"),
        ('{"prompt": "x"}', "line 2: the field 'id' is missing"),
        ('{"id": "b"}', "line 2: the field 'prompt' is missing"),
        ('{"id": "b", "prompt": null}', "line 2: 'prompt' must be text, not NoneType"),
        ('{"id": "b", "prompt": ["x"]}', "line 2: 'prompt' must be text, not list"),
        ('{"id": true, "prompt": "x"}', "line 2: 'id' must be text, not bool"),
        ('{"id": "b", "prompt": "x", "reference": 3}', "line 2: 'reference' must be text"),
        ('{"id": "b", "prompt": "x", "task": 3}', "line 2: 'task' must be text"),
        ('{"id": "b", "prompt": "x", "task": ""}', "line 2: 'task' is empty"),
        ('{"id": "b", "prompt": " \\n "}', "line 2: 'prompt' is empty"),
        ('{"id": "", "prompt": "x"}', "line 2: 'id' is empty"),
        ('{"id": "a", "prompt": "x"}', "line 2: the id 'a' was already used"),
        ('{"id": "b", "prompt": "\\ud800"}', "line 2: 'prompt' holds half of a surrogate pair"),
        ('{"id": "b", "prompt": "x", "chat": "yes"}', "line 2: 'chat' must be true or false"),
        ('{"id": "b", "prompt": "x", "metadata": 1}', "line 2: 'metadata' must be an object"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path, '{"id": "a", "prompt": "fine"}', line)
    with pytest.raises(PromptFileError) as caught:
        load_prompts(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_bad_line_beyond_the_limit_is_named_too(tmp_path):
    path = write(tmp_path, '{"id": "a", "prompt": "fine"}', "{")
    with pytest.raises(PromptFileError, match="line 2"):
        load_prompts(path, limit=1)


def test_bad_files(tmp_path, monkeypatch):
    with pytest.raises(PromptFileError, match=r"no prompts file at nowhere\.jsonl.*tasks: all, mixed, chat"):
        load_prompts("nowhere.jsonl")
    with pytest.raises(PromptFileError, match="not a regular file"):
        load_prompts(tmp_path)
    with pytest.raises(PromptFileError, match="not a regular file"):
        load_prompts("/dev/zero")
    with pytest.raises(PromptFileError, match="cannot be read"):
        load_prompts("a prompt instead of a file " * 40)
    with pytest.raises(PromptFileError, match="holds no prompts"):
        load_prompts(write(tmp_path, "", "  "))
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b'{"id": "a", "prompt": "\xff"}')
    with pytest.raises(PromptFileError, match="not UTF-8 text"):
        load_prompts(binary)
    monkeypatch.setattr(prompts, "MAXIMUM_FILE_BYTES", 1024**2)
    large = tmp_path / "large.jsonl"
    with large.open("wb") as stream:
        stream.truncate(1024**2 + 1)
    with pytest.raises(PromptFileError, match="larger than 1 MB"):
        load_prompts(large)


def test_the_limit_on_a_file_is_64_megabytes(tmp_path):
    large = tmp_path / "large.jsonl"
    with large.open("wb") as stream:
        stream.truncate(64 * 1024**2 + 1)
    with pytest.raises(PromptFileError, match="larger than 64 MB"):
        load_prompts(large)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(limit):
    with pytest.raises(PromptError, match="limit must be 1 or more"):
        load_prompts("chat", limit=limit)


def test_needle_by_name_says_what_to_call():
    with pytest.raises(PromptError, match=r"workbench\.tasks\.needle"):
        load_prompts("needle")


# ---------------------------------------------------------------------------------------------------- formatting


def test_chat_prompts_go_through_the_template(chat_tokenizer):
    text = format_prompt(chat_tokenizer, Prompt("a", "Hello"))
    assert text == "<|start|>user\nHello<|end|>\n<|start|>assistant\n"
    assert (
        encode_prompt(chat_tokenizer, Prompt("a", "Hello")) == chat_tokenizer(text, add_special_tokens=False).input_ids
    )


def test_code_and_base_models_stay_raw(chat_tokenizer, plain_tokenizer):
    code = load_prompts("code_completion")[0]
    assert format_prompt(chat_tokenizer, code) == code.prompt
    assert format_prompt(plain_tokenizer, Prompt("a", "Hello")) == "Hello"
    ids = encode_prompt(plain_tokenizer, Prompt("a", "Hello"))
    assert ids[0] == plain_tokenizer.bos_token_id and plain_tokenizer.decode(ids[1:]) == "Hello"


def test_the_caller_overrules_the_prompt(chat_tokenizer):
    assert format_prompt(chat_tokenizer, Prompt("a", "Hello"), chat=False) == "Hello"
    assert format_prompt(chat_tokenizer, Prompt("a", "x = ", chat=False), chat=True).startswith(
        "<|start|>user\nx = <|end|>"
    )


@pytest.mark.bundled
def test_prompts_are_of_the_size_a_small_model_can_take(bundled_tokenizer):
    for prompt in load_prompts("all"):
        tokens = len(bundled_tokenizer(prompt.prompt)["input_ids"])
        assert 30 <= tokens <= 700, prompt.id
