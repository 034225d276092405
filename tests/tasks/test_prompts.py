import itertools
import json
import re
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
    PromptFileWarning,
    encode_prompt,
    format_prompt,
    list_tasks,
    load_prompts,
    prompt_file,
    write_prompts,
)

BUNDLED = (
    "chat", "summarising", "code_completion", "copy_editing", "translation", "question_answering", "mathematics",
    "retrieval_augmented",
)  # fmt: skip


@pytest.mark.parametrize("task", BUNDLED)
def test_every_task_has_real_prompts_with_references_sources_and_licences(task):
    found = load_prompts(task)
    assert len(found) >= 20
    for prompt in found:
        assert prompt.task == task
        assert prompt.prompt.strip() and prompt.reference.strip()
        assert 100 <= len(prompt.prompt) <= 4500
        assert prompt.metadata["source"]
        assert prompt.metadata["licence"] in {"CC-BY-SA-3.0", "PSF-2.0", "public domain", "Apache-2.0"}
        assert prompt.chat is (task != "code_completion")


def test_ids_texts_and_counts_over_all_tasks():
    found = load_prompts("all")
    assert len(found) >= 180
    assert Counter(prompt.task for prompt in found).keys() == set(BUNDLED)
    assert len({(prompt.task, prompt.id) for prompt in found}) == len({prompt.id for prompt in found}) == len(found)
    assert len({prompt.prompt for prompt in found}) == len(found)


def test_mixed_takes_the_tasks_in_turn():
    mixed = load_prompts("mixed")
    assert [prompt.task for prompt in mixed[: len(BUNDLED)]] == list(BUNDLED)
    assert load_prompts("mixed", limit=6) == mixed[:6]
    assert {prompt.id for prompt in mixed} == {prompt.id for prompt in load_prompts("all")}


def test_the_first_prompts_of_a_task_keep_their_ids():
    # Studies that were stored name prompts by id.
    assert [prompt.id for prompt in load_prompts("chat", limit=2)] == [
        "python-lambdas-in-a-loop", "python-two-names-one-list"
    ]  # fmt: skip
    assert load_prompts("summarising", limit=1)[0].id == "debian-welcome"
    assert load_prompts("code_completion", limit=1)[0].id == "textwrap.shorten"
    assert load_prompts("copy_editing", limit=1)[0].id == "flexible-debian"
    assert load_prompts("translation", limit=1)[0].id == "fr-en-security-4"
    assert load_prompts("question_answering", limit=1)[0].id == "web-servers"


def runs_of_words(text, length):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + length]) for place in range(len(words) - length + 1)}


def test_no_two_prompts_of_a_task_are_nearly_the_same():
    for task in BUNDLED:
        # Two questions may be asked about one passage: there, the questions differ.
        parts = [(prompt.id, prompt.prompt.split("\n\nQuestion: ")[-1]) for prompt in load_prompts(task)]
        for (name, runs), (other, others) in itertools.combinations(
            [(name, runs_of_words(part, 6)) for name, part in parts], 2
        ):
            # The request of copy-editing alone is 20 words long.
            assert len(runs & others) <= max(16, 0.25 * min(len(runs), len(others))), (name, other)


def test_a_question_with_passages_names_those_that_answer_it():
    seen = Counter()
    for prompt in load_prompts("retrieval_augmented"):
        shown, question = prompt.prompt.split("\n\nQuestion: ")
        passages = re.split(r"\n\nPassage \d+: ", shown)[1:]
        assert 4 <= len(passages) <= 6 and 1 <= len(prompt.metadata["evidence"]) <= 2
        holding = [
            number
            for number, passage in enumerate(passages, start=1)
            if re.search(rf"(?<!\w){re.escape(prompt.reference)}(?!\w)", passage, re.IGNORECASE)
        ]
        assert holding == prompt.metadata["evidence"], prompt.id
        assert prompt.reference.lower() not in question.lower()
        seen.update(passages)
    assert max(seen.values()) == 1  # no passage is shown twice
    places = Counter(number for prompt in load_prompts("retrieval_augmented") for number in prompt.metadata["evidence"])
    assert set(places) >= {1, 2, 3, 4, 5}  # the answer is not always in the same place


def test_answers_of_mathematics_are_what_their_calculations_give():
    for prompt in load_prompts("mathematics"):
        calculation = prompt.metadata["calculation"]
        assert re.fullmatch(r"[\d.+*/() -]+", calculation)
        assert eval(calculation) == pytest.approx(float(prompt.reference), rel=1e-12), prompt.id
        # Not read off the question: the answer is none of its numbers.
        assert float(prompt.reference) > 0
        assert prompt.reference not in re.findall(r"[\d.]+", prompt.prompt.replace(",", ""))


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
    for name in [*lines, "haystack/genesis.txt", "LICENSE-PSF-2.0.txt", "training/*.jsonl"]:
        assert f"`{name}`" in stated
    for prompt in load_prompts("all"):
        assert prompt.metadata["licence"] in catalogue[prompt.task]["licence"]
        assert prompt.metadata["licence"] in stated


def test_the_data_stays_small():
    def size(folder):
        return sum(size(entry) if entry.is_dir() else len(entry.read_bytes()) for entry in folder.iterdir())

    folder = files("workbench_data") / "prompts"
    assert size(folder / "training") < 1_200_000
    assert size(folder) - size(folder / "training") < 600_000


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
    assert load_prompts(str(path), limit=2) == load_prompts("all", limit=2)


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
def test_a_bad_line_is_named_and_left_out(tmp_path, line, message):
    path = write(tmp_path, '{"id": "a", "prompt": "fine"}', line, '{"id": "z", "prompt": "fine too"}')
    with pytest.warns(PromptFileWarning) as caught:
        found = load_prompts(path)
    assert [prompt.id for prompt in found] == ["a", "z"]
    [said] = [without_id(each.message) for each in caught]
    assert said.startswith(f"{path}: 1 of 3 rows cannot be read and are left out: ") and message in said
    alone = write(tmp_path, "", line)
    if "already used" not in message:
        with pytest.raises(PromptFileError) as refused:
            load_prompts(alone)
        assert f"{alone}, {message}" in without_id(refused.value)


def without_id(said):
    return re.sub(r" \(id .*?\):", ":", str(said))


def test_bad_lines_are_counted_and_the_first_named_with_their_ids(tmp_path):
    good, bad = '{"id": "a", "prompt": "fine"}', [f'{{"id": "bad-{number}", "prompt": 1}}' for number in range(9)]
    with pytest.warns(PromptFileWarning, match=r"9 of 10 rows.*line 2 \(id 'bad-0'\): 'prompt' must.*; and 4 more$"):
        load_prompts(write(tmp_path, good, *bad))
    with pytest.raises(
        PromptFileError, match=r"none of its 9 rows can be read: line 1 \(id 'bad-0'\): .*; and 4 more$"
    ):
        load_prompts(write(tmp_path, *bad))


def test_a_bad_line_beyond_the_limit_is_named_too(tmp_path):
    path = write(tmp_path, '{"id": "a", "prompt": "fine"}', "{")
    with pytest.warns(PromptFileWarning, match="line 2"):
        assert len(load_prompts(path, limit=1)) == 1


def test_a_limit_takes_every_task_and_category_in_turn(tmp_path):
    rows = [("a", "qa"), ("b", "qa"), ("c", "qa"), ("d", "rag"), ("e", "chat"), ("f", "rag")]
    path = write(tmp_path, *(json.dumps({"id": name, "prompt": "x", "category": kind}) for name, kind in rows))
    taken = {limit: "".join(prompt.id for prompt in load_prompts(path, limit)) for limit in range(1, 8)}
    assert taken == {1: "a", 2: "ad", 3: "ade", 4: "abde", 5: "abdef", 6: "abcdef", 7: "abcdef"}
    assert [prompt.task for prompt in load_prompts("all", limit=len(BUNDLED))] == list(BUNDLED)
    assert load_prompts("chat", limit=3) == load_prompts("chat")[:3]
    assert load_prompts("mixed", limit=11) == load_prompts("mixed")[:11]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "prompt": "é"}'.encode("utf-16"), "UTF-16"),
        ('{"id": "a", "prompt": "é"}'.encode("utf-16-le"), "UTF-16"),
        ('{"id": "a", "prompt": "é"}'.encode("utf-32"), "UTF-16, UTF-32"),
        ('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "é"}'.encode("latin-1"), r"byte 50, in line 2\): save it"),
        (b"\x1f\x8b\x08\x00zip", "no text at all"),
        (b"", "holds no prompts"),
        (b"\xef\xbb\xbf\n", "holds no prompts"),
        (b'{"id": ' + b"1" * 5000 + b', "prompt": "x"}', "line 1: not valid JSON"),
    ],
)
def test_other_encodings_are_one_line(tmp_path, content, message):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content)
    with pytest.raises(PromptFileError, match=message) as caught:
        load_prompts(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(file))


def test_a_line_without_end_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_file, "MAXIMUM_LINE", 100)
    path = write(tmp_path, '{"id": "a", "prompt": "fine"}', json.dumps({"id": "b", "prompt": "x" * 100}))
    with pytest.warns(PromptFileWarning, match="line 2: 125 characters long; at most 100"):
        assert len(load_prompts(path)) == 1


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
    monkeypatch.setattr(prompt_file, "MAXIMUM_FILE_BYTES", 1024**2)
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


def test_earlier_messages_stand_before_the_prompt(chat_tokenizer, plain_tokenizer):
    said = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Yes."}]
    prompt = Prompt("a", "Two?", metadata={"earlier_messages": said})
    assert format_prompt(chat_tokenizer, prompt) == (
        "<|start|>user\nOne?<|end|>\n<|start|>assistant\nYes.<|end|>\n<|start|>user\nTwo?<|end|>\n<|start|>assistant\n"
    )
    assert format_prompt(plain_tokenizer, prompt) == "One?\n\nYes.\n\nTwo?"


@pytest.mark.parametrize(
    "messages", ["Yes.", [1], [{"role": "user"}], [{"role": "user", "content": 1}], [{"role": "x", "content": "y"}]]
)
def test_earlier_messages_that_are_none_are_refused(chat_tokenizer, messages):
    with pytest.raises(PromptError, match="earlier_messages of prompt 'a'"):
        format_prompt(chat_tokenizer, Prompt("a", "Two?", metadata={"earlier_messages": messages}))


@pytest.mark.bundled
def test_prompts_are_of_the_size_a_small_model_can_take(bundled_tokenizer):
    for prompt in load_prompts("all"):
        tokens = len(bundled_tokenizer(prompt.prompt)["input_ids"])
        assert 20 <= tokens <= (1200 if prompt.task == "retrieval_augmented" else 700), prompt.id


# Context and question


def test_a_context_stands_before_its_question_and_survives_a_file(tmp_path):
    line = {"id": "a", "context": "Oslo is north.\n\n", "prompt": "Where is Oslo?", "reference": "north"}
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(line) + "\n", encoding="utf-8")
    (prompt,) = load_prompts(file)
    assert prompt.prompt == "Oslo is north.\n\nWhere is Oslo?" and prompt.context == "Oslo is north.\n\n"
    assert prompt.prompt[prompt.question_at :] == "Where is Oslo?" and not prompt.metadata
    write_prompts([prompt, Prompt("b", "No parts.")], tmp_path / "again.jsonl")
    assert load_prompts(tmp_path / "again.jsonl") == [prompt, Prompt("b", "No parts.")]


@pytest.mark.parametrize(("context", "message"), [(5, "'context' must be text"), ("  ", "'context' is empty")])
def test_a_context_that_is_none_is_refused(tmp_path, context, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"id": "a", "context": context, "prompt": "Where?"}), encoding="utf-8")
    with pytest.raises(PromptFileError, match=message):
        load_prompts(file)


@pytest.mark.parametrize("place", [0, -1, 6, 60, 1])
def test_a_mark_that_leaves_no_two_parts_is_refused(place):
    with pytest.raises(PromptError, match="question_at"):
        Prompt("a", " Where", question_at=place)


@pytest.mark.parametrize("task", ["question_answering", "retrieval_augmented"])
def test_bundled_questions_about_passages_mark_where_they_begin(task):
    for prompt in load_prompts(task):
        assert prompt.prompt[prompt.question_at :].startswith("Question: ")
        assert prompt.reference in prompt.context and "Question: " not in prompt.context
