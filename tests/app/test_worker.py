"""The worker's own process on a tiny model: what it says, how it breaks, and that nothing of it is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

import workbench as wb
import workbench.probes
from workbench.engine import Step
from workbench.errors import PromptError, WorkbenchError
from workbench.registry import PROBES, TECHNIQUES
from workbench.studies.fact_table import OF_STEP
from workbench_app.race import Column, Race
from workbench_app.runs import Stop
from workbench_app.worker import Worker, WorkerLost, client, limits
from workbench_app.worker.columns import News, add, fail
from workbench_app.worker.recipes import plain, restored

PROMPT = "w11 w12 w13 w14 w11 w12 w13"
OPTIONS = {"max_new_tokens": 12, "temperature": 0.0, "seed": 0}
LOOP = "{% for a in range(99999) %}"
SPIN = 3 * LOOP + 3 * "{% endfor %}"
HOARD = "{% set ns = namespace(x='w1 ') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"


@pytest.fixture(scope="module")
def offered(folder):
    """Name -> folder of what the worker's page offers."""
    return {"plain": folder(), "greedy": folder(HOARD), "endless": folder(SPIN)}


@pytest.fixture(scope="module")
def worker(puppet, offered):
    made = Worker(offers=[f"{name}={path}" for name, path in offered.items()])
    yield made
    made.close()


@pytest.fixture(scope="module")
def model():
    return "plain"


def race(worker, model, *recipes, stop=None, each=lambda event: None, chat=False, prompt=PROMPT, **options):
    """Run a race in the worker: its columns as the page has them."""
    columns = [Column([]), *(Column(list(recipe)) for recipe in recipes)]
    arguments = {
        "model": model, "dtype": "float32", "prompt": prompt, "chat": chat, "options": {**OPTIONS, **options},
        "recipes": [[plain(one) for one in column.techniques] for column in columns],
    }  # fmt: skip
    try:
        for event in worker.run("race", arguments, stop or Stop()):
            if event["kind"] == "columns":
                add(columns, event["columns"])
            each(event, columns)
    except WorkbenchError as error:
        error.columns = columns
        raise
    return columns


def nothing(event, columns):
    """No wish."""


def test_a_race_is_the_same_there_as_here(worker, model, offered, puppet):
    recipes = [[wb.techniques.PromptLookup()], [puppet(text="w21 w22 w23, w24")]]
    events = []
    columns = race(worker, model, *recipes, each=lambda event, _: events.append(event))
    held = wb.load(offered[model], dtype="float32", device="cpu")
    own = Race(held, held.encode(PROMPT), [Column([]), *map(Column, recipes)], dict(OPTIONS), threading.Event())
    list(own.turns())
    for here, there in zip(own.columns, columns, strict=True):
        assert (there.tokens, there.pieces, there.state) == (here.tokens, here.pieces, "done")
        assert [step.keys_read for step in there.steps] == [list(step.keys_read) for step in here.steps]
    assert columns[2].pieces[:3] == own.columns[2].pieces[:3]
    about = next(event for event in events if event["kind"] == "model")
    assert about["layers"] == 4 and about["dtype"] == "torch.float32" and model in about["about"]
    assert worker.about(model, "float32") == about["about"]
    assert not any(kind.startswith("workbench.models") for kind in _modules_of_the_client())


def _modules_of_the_client():
    """What the page's process needs to speak with the worker."""
    code = "import sys, json, workbench_app.worker; print(json.dumps(sorted(sys.modules)))"
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def test_an_error_of_the_job_is_its_message_and_the_process_stays(worker, model):
    pid = worker.pid
    with pytest.raises(WorkbenchError, match="no/such/model"):
        race(worker, "/no/such/model", each=nothing)
    with pytest.raises(WorkbenchError, match="must be one of"):
        list(worker.run("load", {"model": model, "dtype": "int3"}, Stop()))
    with pytest.raises(WorkbenchError, match="log has the details"):
        list(worker.run("race", {"no": "such"}, Stop()))
    assert worker.pid == pid


@pytest.mark.parametrize(
    "fault, words",
    [
        ("killed", "was killed"),
        ("panic", "PanicException"),
        pytest.param("crash", "crashed the model's process", marks=pytest.mark.slow),
        pytest.param("exit", "SystemExit", marks=pytest.mark.slow),
    ],
)
def test_a_broken_worker_fails_the_run_keeps_what_was_written_and_is_replaced(worker, model, puppet, fault, words):
    pid = None

    def watch(event, columns):
        nonlocal pid
        pid = worker.pid

    with pytest.raises(WorkerLost, match=words) as lost:
        race(worker, model, [puppet(text="w21 w22 w23 w24 w25", ending=fault, after=2, delay=0.15)], each=watch)
    columns = lost.value.columns
    assert columns[1].pieces and set(columns[1].pieces) <= {"w21", " w22", "w22", ""}
    fail(columns, str(lost.value))
    assert columns[1].state == "failed" and words in columns[1].problem
    done = race(worker, model, each=nothing)
    assert done[0].state == "done" and len(done[0].tokens) == 12
    assert worker.pid != pid and not psutil.pid_exists(pid)


def test_cancel_ends_within_a_token_and_keeps_what_was_made(worker, model, puppet):
    from page_puppet import calls

    stop, before = Stop(), calls()

    def press(event, columns):
        if len(columns[1].tokens) >= 2:
            stop.set()

    columns = race(worker, model, [puppet(delay=0.2, mode="long")], stop=stop, each=press, max_new_tokens=100)
    assert columns[1].state == "partial"
    assert 2 <= len(columns[1].tokens) < 8 and calls() - before <= len(columns[1].tokens) + 1


def test_a_template_that_never_ends_or_hoards_memory_ends_with_one_line(worker, model, monkeypatch):
    with pytest.raises(WorkbenchError, match="took more than 1 GB: look at the model's chat template"):
        race(worker, "greedy", chat=True, each=nothing)
    pid = worker.pid
    assert race(worker, model, each=nothing)[0].state == "done" and worker.pid == pid
    monkeypatch.setitem(client._LIMITS, "reading", (1.0, "Reading the prompt took more than 1 s: look."))
    with pytest.raises(WorkerLost, match="Reading the prompt took more than 1 s"):
        race(worker, "endless", chat=True, each=nothing)
    monkeypatch.undo()
    assert race(worker, model, each=nothing)[0].state == "done" and worker.pid != pid


def test_memory_is_limited_while_a_prompt_is_read_and_not_after():
    with pytest.raises(PromptError, match="more than 1 GB"), limits.reading():
        bytearray(3 << 30)
    assert len(bytearray(1 << 20)) == 1 << 20
    with limits.reading():
        assert len(bytearray(1 << 26)) == 1 << 26


def test_what_probes_saw_comes_as_pictures(worker, model):
    ask = {"model": model, "dtype": "float32", "prompt": PROMPT, "chat": False}
    arguments = {**ask, "probes": [plain(PROBES["logit_lens"]())], "scheme": "auto"}
    kinds = {event["kind"]: event for event in worker.run("observe", arguments, Stop())}
    assert "<iframe" in kinds["figures"]["html"]


@pytest.mark.slow
def test_a_study_comes_as_pictures_and_a_report_and_one_without_a_measurement_as_nothing(worker, model, tmp_path):
    arguments = {
        "model": model, "dtype": "float32", "prompt": PROMPT, "chat": False, "more": 0, "repeats": 1,
        "options": {**OPTIONS, "max_new_tokens": 4}, "scheme": "auto", "files": str(tmp_path),
        "recipes": [[plain(wb.techniques.PromptLookup())]],
    }  # fmt: skip
    events = list(worker.run("study", arguments, Stop()))
    told = [(event["done"], event["total"]) for event in events if event["kind"] == "progress"]
    assert told == sorted(told) and told[0] == (0, 1) and told[-1][0] == told[-1][1] > 1
    kinds = {event["kind"]: event for event in events}
    assert "prompt_lookup" in kinds["table"]["html"] and "Finished. 2 runs" in kinds["study"]["html"]
    assert Path(kinds["study"]["report"]).read_text().startswith("<!")
    stop, kinds = Stop(), set()
    for event in worker.run("study", arguments, stop):
        kinds.add(event["kind"])
        stop.set()
    assert not {"table", "study"} & kinds


def test_a_technique_of_the_script_that_serves_the_page_is_known_too(worker, model, tmp_path):
    file = tmp_path / "my_script.py"
    file.write_text(
        textwrap.dedent("""
            from workbench.settings import settings
            from workbench.techniques import StreamingLLM, register
            from workbench_app.main import launch

            @register
            @settings
            class ScriptedSinks(StreamingLLM):
                paper = "None, a script, 2026"

            launch()
        """)
    )
    item = {"name": "scripted_sinks", "settings": {"sinks": 2}, "file": str(file)}
    arguments = {"model": model, "dtype": "float32", "prompt": PROMPT, "chat": False, "recipes": [[], [item]]}
    events = list(worker.run("race", {**arguments, "options": OPTIONS}, Stop()))
    last = [event["columns"][1] for event in events if event["kind"] == "columns"][-1]
    assert last["state"] == "done", last["problem"]


def test_a_technique_nobody_can_find_is_said_so(worker, model):
    from workbench.techniques import StreamingLLM

    class Typed(StreamingLLM):
        name = "typed_into_a_cell"

    Typed.__module__ = "__nowhere__"
    with pytest.raises(WorkbenchError, match="write it into a file of its own"):
        race(worker, model, [Typed()], each=nothing)


@pytest.mark.parametrize("registry", [TECHNIQUES, PROBES], ids=["techniques", "probes"])
def test_every_setting_survives_the_way(registry):
    for kind in registry.values():
        if kind.name == "puppet":  # the tests' own
            continue
        for instance in [kind(), *(kind.examples() if hasattr(kind, "examples") else [])]:
            item = json.loads(json.dumps(plain(instance)))
            assert restored(item, registry) == instance
            assert item["file"] is None


def test_only_what_is_new_is_said():
    nodes = ((7, -1, True, None),)
    step = Step(0, "prefill", (7,), 0, 0, (0,), (1.0,), (1,), (), "m", 1, 0.1, 0.0, 1, 1, 1, nodes=nodes)
    column, shown = Column([]), Column([])
    news = News([column])
    for text in ("a", "b"):
        column.steps.append(step)
        column.pieces.append(text)
        taken = news.take()
        assert len(taken[0]["steps"]) == 1 and "nodes" not in taken[0]["steps"][0]
        add([shown], json.loads(json.dumps(taken)))
    assert shown.tokens == [7, 7] and shown.pieces == ["a", "b"] and shown.steps[1].keys_read == [1.0]
    assert {fact.name for fact in OF_STEP} <= set(vars(shown.steps[1])), "as tables and sums want them"
    shown.state = "done"
    fail([shown], "no")
    assert shown.state == "done", "what was over stays as it ended"
    assert news.take()[0]["steps"] == []


SERVER = """
import sys, time
from pathlib import Path
from workbench_app.runs import Stop
from workbench_app.worker import Worker
folder = Path(sys.argv[1])
worker = Worker(folder, ["offered=" + sys.argv[2]])
stream = worker.run("race", dict(model="offered", dtype="float32", prompt="w11 w12", chat=sys.argv[3] == "chat",
                    recipes=[[]], options=dict(max_new_tokens=200)), Stop())
for event in stream:
    if event["kind"] == "phase" and event["name"] == "reading":
        print(worker.pid, flush=True)
        time.sleep(600 if sys.argv[4] == "stays" else 0)
worker.close()
"""


@pytest.mark.parametrize("end", ["killed", "ends"])
def test_the_worker_ends_with_the_server_and_leaves_nothing(folder, tmp_path, end):
    place = tmp_path / "server"
    place.mkdir()
    (place / "report.html").write_text("x")
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(place)]
    command += [folder(SPIN), "chat", "stays"] if end == "killed" else [folder(), "plain", "goes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        pid = int(server.stdout.readline())
        if end == "killed":
            server.kill()
    patience = time.monotonic() + 15
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < patience, "it goes on without its server"
        time.sleep(0.05)
    assert place.exists() == (end == "ends")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
