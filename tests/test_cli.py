"""The shell's way in: stable names, one line for an error, JSON with exactly its keys."""

import json
import re
import signal
import subprocess
import sys
import threading
import types

import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench import cli
from workbench.engine import SLOTS
from workbench.errors import CorruptModel, OutOfMemory, UnsafeModel
from workbench.files import file_name
from workbench.registry import PROBES, TECHNIQUES
from workbench.studies.plain import KEYS

IDS = [3, 4, 5, 3, 4, 5, 3, 4]


@pytest.fixture
def shell(monkeypatch, tiny):
    """Run a command with a tiny model in place of every model: ``shell("compare", …)``."""
    asked = []

    class Reader:
        """A tokenizer of one token to a letter."""

        chat_template = None

        def __call__(self, text, **_):
            return {"input_ids": [3 + ord(letter) % 90 for letter in text]}

        def decode(self, tokens, **_):
            return "".join(chr(40 + token) for token in tokens)

    def load(name, dtype="float32", device=None, revision="main"):
        import dataclasses

        import torch

        asked.append((name, dtype, device))
        return dataclasses.replace(tiny("llama", dtype=getattr(torch, dtype)), tokenizer=Reader())

    monkeypatch.setattr(wb, "load", load, raising=False)
    monkeypatch.setattr("workbench.cost.hardware.NAMES", ("RTX 4090",))

    def run(*arguments):
        result = CliRunner().invoke(cli.app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    run.asked = asked
    return run


def one_line(result, code=2):
    """The single line of an error."""
    assert result.exit_code == code, (result.stdout, result.stderr)
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("[")]
    assert line.startswith("workbench: ") and "Traceback" not in result.stderr
    return line


# What goes together


def test_the_matrix_is_counted_written_and_drawn(shell, tmp_path):
    chosen = ("--technique", "prompt_lookup", "--technique", "snap_kv", "--technique", "draft_model")
    made = shell("compatibility", *chosen, "--out", tmp_path / "deep" / "m.json")
    assert made.exit_code == 0
    assert "3 pairs of 3 techniques on tiny-llama: 2 runs, 1 excluded." in made.stdout
    listed = json.loads((tmp_path / "deep" / "m.json").read_text("utf-8"))
    assert [row["status"] for row in listed["pairs"]] == ["runs", "excluded", "runs"]
    shell("compatibility", *chosen[:4], "--model", "tiny-gpt2", "--out", tmp_path / "m.md")
    assert "on tiny-gpt2" in (tmp_path / "m.md").read_text("utf-8")
    shell("compatibility", *chosen[:2], "--out", tmp_path / "m.html")
    assert 'data-figure="compatibility"' in (tmp_path / "m.html").read_text("utf-8")


def test_a_folder_of_the_matrix_is_brought_up_to_date_and_checked(shell, tmp_path, monkeypatch):
    from workbench.studies.compatibility_trial import Trial

    ran = []
    monkeypatch.setattr(Trial, "pair", lambda self, *key: ran.append(key) or ("runs", ""))
    monkeypatch.setattr(Trial, "condition", lambda self, *key: ran.append(key) or ("runs", ""))
    missing = shell("compatibility", "--model", "tiny-gpt2", "--check")
    assert missing.exit_code == 1 and "verdicts on tiny-gpt2 are stale or missing." in missing.stdout and not ran
    folder = ("compatibility", "--model", "tiny-gpt2", "--out", tmp_path / "kept")
    assert "on tiny-gpt2" in shell(*folder).stdout and len(ran) > len(TECHNIQUES)
    assert {file.stem for file in (tmp_path / "kept").iterdir()} == set(TECHNIQUES)
    checked = shell(*folder, "--check")
    assert checked.exit_code == 0 and checked.stdout.startswith("0 verdicts")
    first = len(ran)
    shell(*folder, "--all")
    assert len(ran) == 2 * first
    assert "leave out --technique" in one_line(shell(*folder, "--technique", "snap_kv"))


def test_what_cannot_be_run_in_the_matrix_is_one_line(shell, tmp_path):
    assert "There is no technique named 'prompt_lokup'" in one_line(
        shell("compatibility", "--technique", "prompt_lokup")
    )
    assert "should end in" in one_line(shell("compatibility", "--out", tmp_path / "m.txt"))
    assert "family 'gpt9'" in one_line(shell("compatibility", "--model", "tiny-gpt9"))


# Lists


def in_order_of_slots():
    return sorted(TECHNIQUES, key=lambda name: list(SLOTS).index(TECHNIQUES[name].slots[0]))


def test_techniques_and_probes_are_those_of_the_registry(shell):
    listed = json.loads(shell("techniques", "--json").stdout)
    assert [row["name"] for row in listed] == in_order_of_slots()
    lookup = next(row for row in listed if row["name"] == "prompt_lookup")
    assert lookup["slots"] == ["draft"] and lookup["exact"] is True and "Saxena" in lookup["paper"]
    assert lookup["settings"]["ngram"]["minimum"] == 1 and lookup["settings"]["ngram"]["default"] == 3
    listed = json.loads(shell("probes", "--json").stdout)
    assert [row["name"] for row in listed] == list(PROBES)
    for command, names in (("techniques", TECHNIQUES), ("probes", PROBES)):
        plain = shell(command).stdout
        for name, cls in names.items():
            assert re.search(rf"^{name}  \(", plain, re.M) and cls.paper in plain


def test_the_markdown_table_has_a_row_for_each_technique(shell):
    head, rule, *rows = shell("techniques", "--markdown").stdout.strip().splitlines()
    assert head == "| slot | name | also fills | exact | paper |" and set(rule) <= set("| -")
    assert [row.split("`")[1] for row in rows] == in_order_of_slots()
    assert all(row.count("|") == 6 for row in rows)


def test_models(shell):
    listed = json.loads(shell("models", "--json").stdout)
    names = [row["name"] for row in listed["bundled"]]
    assert names[:2] == ["smollm2-135m", "gemma3-270m"] and {"smollm2-moe", *wb.models.bundled.BUNDLED} == set(names)
    assert "llama" in listed["families"]
    assert "smollm2-135m" in shell("models").stdout


def test_version_and_help(shell):
    assert shell("--version").stdout == f"workbench {wb.__version__}\n"
    help_text = shell("--help").stdout
    for command in ("models", "techniques", "probes", "fetch", "observe", "compare", "app"):
        assert re.search(rf"^\s+{command}\s", help_text, re.M), command


# compare


def test_compare_writes_what_it_promises(shell, tmp_path):
    out, file = tmp_path / "new" / "r.html", tmp_path / "r.json"
    result = shell(
        "compare", "any", "--prompt", "abcabcabcabc", "--prompt", "second", "--technique", "prompt_lookup:ngram=2",
        "--technique", "prompt_lookup+unified_layer_skip", "--max-new-tokens", 6, "--dtype", "bfloat16", "--seed", 3,
        "--out", out, "--json", file,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    content = json.loads(file.read_text())
    assert [run["name"] for run in content["runs"]] == [
        "baseline", "prompt_lookup:ngram=2", "prompt_lookup+unified_layer_skip"
    ]  # fmt: skip
    assert [run["technique"] for run in content["runs"]][1:] == [
        "prompt_lookup:ngram=2", "prompt_lookup+unified_layer_skip"
    ]  # fmt: skip
    assert all(tuple(run) == KEYS for run in content["runs"])
    assert content["seed"] == 3 and content["dtype"] == "bfloat16" and len(content["prompts"]) == 2
    assert shell.asked == [("any", "bfloat16", None)]
    assert "<html" in out.read_text()
    table = result.stdout.splitlines()
    assert max(map(len, table[:6])) <= 120 and table[3].startswith("baseline")
    assert "[" in result.stderr and "[18/18]" in result.stderr  # 3 runs, 2 prompts, 2 repeats and the quality


def test_compare_reads_prompts_files_and_bundled_tasks(shell, tmp_path):
    file = tmp_path / "p.jsonl"
    rows = [{"id": "a", "prompt": "abcab", "reference": "x", "task": "summarising"}, {"id": "b", "prompt": "bcd"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ("--max-new-tokens", 3, "--repeats", 1)
    shell("compare", "any", "--prompts", file, *options, "--json", tmp_path / "j.json")
    assert [prompt["id"] for prompt in json.loads((tmp_path / "j.json").read_text())["prompts"]] == ["a", "b"]
    shell("compare", "any", "--prompts", file, "--limit", 1, *options, "--out", tmp_path / "s.zarr")
    assert [prompt["id"] for prompt in wb.Study.open(tmp_path / "s.zarr").prompts] == ["a"]


def test_rows_that_cannot_be_read_are_said_and_the_others_run(shell, tmp_path):
    file = tmp_path / "question.jsonl"
    rows = [
        {"question_id": number, "category": category, "turns": ["aaa"], "reference": [["a"], ["b"]]}
        for number, category in enumerate(["writing", "writing", "rag", "rag"])
    ]
    file.write_text("\n".join(map(json.dumps, [*rows, {"question_id": 11, "category": "qa", "turns": []}])), "utf-8")
    options = ("--max-new-tokens", 2, "--repeats", 1, "--limit", 2, "--ignore-stop", "--no-quality")
    made = shell("compare", "any", "--prompts", file, *options, "--out", tmp_path / "s.zarr")
    [line] = [line for line in made.stderr.splitlines() if not line.startswith("[")]
    assert made.exit_code == 0 and line.startswith("workbench: ")
    assert "1 of 5 rows cannot be read and are left out: line 5 (id 11): 'turns' must hold" in line
    prompts = json.loads(wb.trace.open(tmp_path / "s.zarr").attrs["prompts"])
    assert [prompt["id"] for prompt in prompts] == ["0", "2"], "one of each category"
    file.write_text('{"question_id": 11, "category": "qa", "turns": []}', "utf-8")
    assert "'turns' must hold" in one_line(shell("compare", "any", "--prompts", file, *options))


@pytest.mark.parametrize("command", [("compare",), ("observe", "--probe", "logit_lens")])
def test_prompts_that_are_no_text_are_one_line(shell, tmp_path, command):
    name, *options = command
    options = [*options, "--out", tmp_path / "o.html"]
    assert "no character at place 1" in one_line(shell(name, "any", "--prompt", "a\udcff", *options))
    file = tmp_path / "mine.jsonl"
    file.write_bytes('{"id": "a", "prompt": "é"}'.encode("utf-16"))
    assert "save it as UTF-8" in one_line(shell(name, "any", "--prompts", file, *options))
    file.write_bytes('{"id": "a", "prompt": "é"}'.encode("latin-1"))
    assert "byte 23, in line 1): save it as UTF-8" in one_line(shell(name, "any", "--prompts", file, *options))
    assert "not a regular file" in one_line(shell(name, "any", "--prompts", tmp_path, *options))
    file.write_bytes(b"")
    assert "holds no prompts" in one_line(shell(name, "any", "--prompts", file, *options))


def test_compare_takes_every_turn_of_a_spec_bench_file(shell, tmp_path):
    file = tmp_path / "question.jsonl"
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["abc", "def"], "reference": []},
        {"question_id": 161, "category": "translation", "turns": ["ghi"], "reference": ["jkl"]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    result = shell(
        "compare", "any", "--prompts", file, "--max-new-tokens", 3, "--repeats", 1, "--technique", "prompt_lookup",
        "--json", tmp_path / "j.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    prompts = json.loads((tmp_path / "j.json").read_text())["prompts"]
    assert [(prompt["id"], prompt["task"]) for prompt in prompts] == [
        ("81", "chat"), ("81/turn-2", "chat"), ("161", "translation")
    ]  # fmt: skip
    # Two turns, the empty lines between, and an answer of three letters.
    assert [prompt["tokens"] for prompt in prompts] == [3, 3 + 2 + 3 + 2 + 3, 3]


def test_compare_splits_by_task_or_category(shell, tmp_path):
    file = tmp_path / "question.jsonl"
    rows = [{"question_id": n, "category": name, "turns": ["abcab"]} for n, name in enumerate(["qa", "rag", "rag"])]
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ("--max-new-tokens", 3, "--repeats", 1, "--json", tmp_path / "j.json")
    said = shell("compare", "any", "--prompts", file, *options, "--by", "category").stdout.splitlines()
    at = said.index("measured speed-up, by category (prompts)")
    assert said[at + 1].split() == ["run", "qa", "(1)", "rag", "(2)"]
    content = json.loads((tmp_path / "j.json").read_text())
    assert list(content["by_category"]) == ["qa", "rag"] and content["by_category"]["rag"][0]["prompts"] == 2
    assert list(content["by_task"]) == ["question_answering", "retrieval_augmented"]


def test_compare_goes_on_from_a_folder(shell, tmp_path):
    arguments = ("compare", "any", "--prompt", "abcab", "--max-new-tokens", 3, "--resume", tmp_path / "kept")
    shell(*arguments)
    assert "kept from before" in shell(*arguments).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "a", "--technique", "no_such"), "no technique named 'no_such'"),
        (("--prompt", "a", "--technique", "prompt_lookup:ngram=0"), "ngram"),
        (("--prompt", "a", "--technique", "prompt_lookup:n=1"), "no setting 'n'"),
        (("--prompt", "a", "--technique", "prompt_lookup+prompt_lookup"), "draft"),
        (("--prompt", "a", "--technique", "snap_kv", "--technique", "snap_kv"), "twice"),
        (("--prompt", "a", "--out", "x.txt"), "should end in"),
        (("--prompt", "a", "--by", "colour"), "none of task, category"),
        (("--prompt", "a", "--by", "task"), "no prompt has a task"),
        (("--prompt", "a", "--json", "x.html"), "should end in .json"),
        (("--prompt", "a", "--prompts", "chat"), "either"),
        ((), "either"),
        (("--prompts", "no/such/file.jsonl"), "no prompts file"),
        (("--prompt", "  "), "empty"),
        (("--prompt", "a" * 300), "positions"),
        (("--prompt", "a", "--temperature", "-1"), "temperature"),
    ],
)
def test_what_a_person_got_wrong_is_one_line_and_exit_code_2(shell, arguments, message):
    assert message in one_line(shell("compare", "any", *arguments))


def test_an_unknown_option_is_exit_code_2(shell):
    assert shell("compare", "any", "--no-such-option").exit_code == 2


@pytest.mark.parametrize(("error", "code"), [(UnsafeModel, 2), (CorruptModel, 1), (OutOfMemory, 1)])
def test_errors_of_loading_are_one_printable_line(shell, monkeypatch, error, code):
    def load(*_):
        raise error("two\nlines \x1b[31mand colour")

    monkeypatch.setattr(wb, "load", load)
    assert one_line(shell("compare", "any", "--prompt", "a"), code) == "workbench: two lines [31mand colour"


def test_an_existing_store_is_refused_before_the_work(shell, tmp_path):
    (tmp_path / "s.zarr").mkdir()
    assert "exists already" in one_line(shell("compare", "any", "--prompt", "a", "--out", tmp_path / "s.zarr"))
    assert shell.asked == []


def test_a_failed_baseline_is_exit_code_1(shell, monkeypatch):
    def broken(*_, **__):
        raise OutOfMemory("not enough")

    monkeypatch.setattr("workbench.studies.compare.run", broken)
    result = shell("compare", "any", "--prompt", "a", "--max-new-tokens", 2)
    assert result.exit_code == 1 and "baseline failed: not enough" in result.stdout


def test_ctrl_c_ends_with_what_there_is(shell, monkeypatch, tmp_path):
    from workbench.studies import compare as module

    original, count = module.run, [0]

    def interrupted(*arguments, **options):
        count[0] += 1
        if count[0] == 4:  # the second repeat, after two warm-ups
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(module, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = shell("compare", "any", "--prompt", "abcab", "--max-new-tokens", 4, "--json", tmp_path / "j.json")
    assert result.exit_code == 130 and "partial" in result.stdout
    assert json.loads((tmp_path / "j.json").read_text())["partial"] is True
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_ends_the_program():
    cancel = threading.Event()
    with pytest.raises(KeyboardInterrupt), cli._interrupt(cancel):
        signal.raise_signal(signal.SIGINT)
        assert cancel.is_set()
        signal.raise_signal(signal.SIGINT)


# observe


def test_observe_writes_a_trace_or_a_page(shell, tmp_path):
    probe = ("--probe", "logit_lens:top_k=2", "--probe", "residual_contribution")
    for name in ("o.zarr", "o.nc"):
        result = shell("observe", "any", "--prompt", "abcabc", *probe, "--out", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        tree = wb.trace.open(tmp_path / name)
        assert tree["probes/logit_lens/top_token"].sizes["candidate"] == 2
        assert set(tree["probes"].children) == {"logit_lens", "residual_contribution"}
    shell("observe", "any", "--prompt", "abcabc", *probe, "--out", tmp_path / "o.html")
    assert "<html" in (tmp_path / "o.html").read_text()


def test_observe_writes_one_file_for_each_prompt(shell, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"id": "../a b", "prompt": "abc"}\n{"id": "two", "prompt": "bcd"}')
    result = shell("observe", "any", "--prompts", file, "--probe", "logit_lens", "--out", tmp_path / "o.nc")
    names = [f"o-{file_name('../a b')}.nc", "o-two.nc"]
    assert sorted(item.name for item in tmp_path.glob("*.nc")) == names
    assert names[0].startswith("o-a-b~") and result.stdout.split() == [str(tmp_path / name) for name in names]


def test_observe_writes_ids_of_any_script_apart(shell, tmp_path):
    file = tmp_path / "p.jsonl"
    ids = ["日本", "中国", "Q1", "q1", "a/b", "a b"]
    file.write_text("".join(json.dumps({"id": each, "prompt": "abc"}) + "\n" for each in ids))
    result = shell("observe", "any", "--prompts", file, "--probe", "logit_lens", "--out", tmp_path / "o.html")
    assert result.exit_code == 0, result.stderr
    assert len({item.name.casefold() for item in tmp_path.glob("*.html")}) == len(ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--probe", "no_such", "--prompt", "a", "--out", "o.nc"), "no probe named 'no_such'"),
        (("--probe", "logit_lens:top_k=0", "--prompt", "a", "--out", "o.nc"), "top_k"),
        (("--probe", "logit_lens", "--prompt", "a", "--out", "o.txt"), "should end in"),
        (("--probe", "logit_lens", "--out", "o.nc"), "either"),
        (("--probe", "baseline", "--prompt", "a", "--out", "o.nc"), "at least one --probe"),
    ],
)
def test_observe_refuses_in_one_line(shell, arguments, message):
    assert message in one_line(shell("observe", "any", *arguments))


# fetch and app


def test_fetch_says_where_the_model_is(shell, monkeypatch):
    told = []

    def fetch(name, accept_terms, progress):
        told.append((name, accept_terms))
        progress("downloading")
        return "/there"

    monkeypatch.setattr(wb.models.bundled, "fetch", fetch)
    result = shell("fetch", "smollm2-135m")
    assert result.stdout == "/there\n" and "downloading" in result.stderr and told == [("smollm2-135m", False)]
    shell("fetch", "gemma3-270m", "--accept-terms")
    assert told[1] == ("gemma3-270m", True)
    shell("fetch", "smollm2-moe")
    assert told[2] == ("smollm2-135m", False), "it is built of that one"


def test_fetch_shows_terms_and_refuses_without_acceptance(shell, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(wb.models.bundled, "terms", lambda name: "THE TERMS")
    result = shell("fetch", "gemma3-270m")
    assert "THE TERMS" in result.stdout and "--accept-terms" in one_line(result)
    assert "no bundled model 'x'" in one_line(shell("fetch", "x"))


def test_app_listens_where_it_is_told(shell, monkeypatch):
    told = []
    page = types.ModuleType("workbench_app.main")
    page.launch = lambda **options: told.append(options)
    monkeypatch.setitem(sys.modules, "workbench_app", types.ModuleType("workbench_app"))
    monkeypatch.setitem(sys.modules, "workbench_app.main", page)
    assert shell("app", "--port", 7999).exit_code == 0
    assert shell("app", "--model", "small", "--offer", "small=/srv/small", "--offer", "/srv/words.txt").exit_code == 0
    assert told == [
        {"port": 7999, "model": "smollm2-135m", "offer": ()},
        {"port": 7860, "model": "small", "offer": ["small=/srv/small", "/srv/words.txt"]},
    ]
    assert shell("app", "--port", 70000).exit_code == 2


# A real process


def test_a_real_process_ends_with_one_line_and_its_code():
    result = subprocess.run(
        [sys.executable, "-m", "workbench.cli", "compare", "any", "--prompt", "x", "--technique", "nothing"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and "no technique named 'nothing'" in result.stderr


@pytest.mark.bundled(seconds=10)
def test_compare_with_the_bundled_model(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(wb, "load", lambda *_: bundled)
    monkeypatch.setattr("workbench.cost.hardware.NAMES", ("RTX 4090",))
    result = CliRunner().invoke(
        cli.app,
        ["compare", "smollm2-135m", "--prompts", "copy_editing", "--limit", "1", "--technique", "prompt_lookup",
         "--max-new-tokens", "16", "--repeats", "1", "--json", str(tmp_path / "j.json")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    baseline, lookup = json.loads((tmp_path / "j.json").read_text())["runs"]
    assert lookup["equal_to_baseline"] is True and lookup["kl"] < 1e-6
    assert lookup["accepted_per_forward"] > 0 and lookup["forwards"] < baseline["forwards"]


def test_compare_asks_before_or_after_compressing(shell, tmp_path, monkeypatch):
    asked = []

    class Enough(Exception):
        pass

    def compare(*arguments, **options):
        asked.append(options)
        raise Enough

    monkeypatch.setattr(wb, "compare", compare, raising=False)
    for more in ([], ["--question-seen"], ["--context-first", "--stop-text", "END", "--min-new-tokens", 3]):
        with pytest.raises(Enough):
            shell("compare", "m", "--prompt", "hello", *more)
    assert [each["context_tokens"] for each in asked] == ["marked", None, "marked"]
    assert (asked[2]["stop_text"], asked[2]["min_new_tokens"]) == (["END"], 3)
    assert (tuple(asked[0]["stop_text"]), asked[0]["min_new_tokens"]) == ((), 0)


def test_compare_reads_prompts_in_chunks(shell, tmp_path):
    written, options = tmp_path / "j.json", ("--max-new-tokens", 3, "--repeats", 1, "--prefill-chunk")
    shell("compare", "any", "--prompt", "abcabcabcabc", *options, 4, "--json", written)
    content = json.loads(written.read_text())
    assert content["recipe"]["options"]["prefill_chunk"] == 4
    assert shell("compare", "any", "--prompt", "a", *options, 0).exit_code == 2


def test_compare_says_which_it_was(shell):
    found = shell("compare", "m", "--prompt", "hello there", "--max-new-tokens", 4, "--repeats", 1)
    assert "cache: with the question seen" in found.stdout.splitlines()
