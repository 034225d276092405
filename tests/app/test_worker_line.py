"""Jobs in line, held against a worker whose answers are written by hand: order, limits, cancelling, and its end."""

import threading
import time
from multiprocessing import Pipe as open_pipe

import pytest

from workbench.errors import WorkbenchError
from workbench_app.runs import Runs, Stop
from workbench_app.worker import QueueFull, Worker, WorkerLost, client
from workbench_app.worker.child import Child
from workbench_app.worker.pipe import Pipe


class ByHand:
    """The process as the client holds it, and its far end for the test."""

    made = []

    def __init__(self, folder=None):
        near, far = open_pipe()
        self.pipe, self.far, self.ready, self.pid = Pipe(near), Pipe(far), True, 1
        self.killed = False
        ByHand.made.append(self)

    def kill(self):
        self.killed = True
        self.far.close()

    def close(self):
        self.far.close()

    def last_words(self):
        self.pipe.close()
        return "It crashed."

    def hear(self):
        return self.far.receive(5)


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(client, "Child", ByHand)
    monkeypatch.setattr(client, "_PATIENCE", 0.02)
    monkeypatch.setattr(client, "_TICK", 0.02)
    ByHand.made = []
    made = Worker(most_waiting=2)
    yield made
    made.close()


class Listener:
    """A run that is listened to on a thread of its own."""

    def __init__(self, worker, name="work"):
        self.stop, self.seen, self.error = Stop(), [], None
        self.stream = worker.run(name, {"a": 1}, self.stop)
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.seen.append(next(self.stream))
        self.thread.start()

    def _listen(self):
        try:
            for event in self.stream:
                self.seen.append(event)
        except WorkbenchError as error:
            self.error = error

    def kinds(self):
        return [event["kind"] for event in self.seen if event["kind"] != "nothing"]

    def over(self):
        self.thread.join(5)
        return not self.thread.is_alive()


def until(what):
    """Wait until something holds."""
    end = time.monotonic() + 5
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_jobs_run_one_at_a_time_in_the_order_they_came(worker):
    runs = [Listener(worker, name) for name in "abc"]
    (child,) = ByHand.made
    assert [run.seen[0].get("ahead") for run in runs] == [None, 1, 2]
    for place, run in enumerate(runs):
        asked = child.hear()
        assert (asked["kind"], asked["name"], asked["arguments"]) == ("job", "abc"[place], {"a": 1})
        assert child.far.receive(0.05) is None, "no two at once"
        child.far.send(job=asked["job"], kind="figures", html="<p>")
        child.far.send(job=asked["job"], kind="over", problem=None)
        assert run.over() and run.error is None and run.kinds()[-1] == "figures"
    assert "waiting" in runs[2].kinds() and 1 in [event.get("ahead") for event in runs[2].seen]


def test_a_full_line_says_so_and_has_room_again(worker):
    runs = [Listener(worker) for _ in range(3)]
    with pytest.raises(QueueFull, match=r"queue is full \(2 waiting\): try again"):
        next(worker.run("work", {}, Stop()))
    runs[2].stop.set()
    assert runs[2].over() and runs[2].error is None and "figures" not in runs[2].kinds()
    Listener(worker)
    assert len(ByHand.made) == 1


def test_cancelling_one_run_cancels_no_other(worker):
    first, second = Listener(worker), Listener(worker)
    (child,) = ByHand.made
    one = child.hear()["job"]
    first.stop.set()
    assert child.hear() == {"kind": "cancel", "job": one}
    first.stop.set()
    child.far.send(job=one, kind="columns", columns=[])
    child.far.send(job=one, kind="over", problem=None)
    two = child.hear()
    assert first.over() and first.kinds()[-1] == "columns", "what it says after the wish is still heard"
    assert two["kind"] == "job" and two["job"] != one and child.far.receive(0.05) is None
    child.far.send(job=one, kind="over", problem="late words of the first")
    child.far.send(job=two["job"], kind="over", problem="this one failed")
    assert second.over() and str(second.error) == "this one failed"


def test_who_stops_listening_cancels(worker):
    stream = worker.run("work", {}, Stop())
    next(stream)
    (child,) = ByHand.made
    job = child.hear()["job"]
    waiting = worker.run("work", {}, Stop())
    assert next(waiting)["ahead"] == 1
    waiting.close()
    stream.close()
    assert child.hear() == {"kind": "cancel", "job": job}
    child.far.send(job=job, kind="over", problem=None)
    assert child.far.receive(0.1) is None, "the one that waited is gone from the line"


def test_a_stop_before_the_run_is_one(worker):
    stop = Stop()
    stop.set()
    first = Listener(worker)
    assert [event["kind"] for event in worker.run("work", {}, stop)] == ["waiting"]
    assert not first.stop.is_set()


def test_a_lost_worker_fails_the_run_at_hand_alone_and_is_started_anew(worker):
    first, second = Listener(worker), Listener(worker)
    child = ByHand.made[0]
    job = child.hear()["job"]
    child.far.send(kind="holds", models=[["m", "float32", "m is loaded"]])
    child.far.send(job=job, kind="columns", columns=[1])
    until(lambda: worker.about("m", "float32"))
    child.far.close()
    assert first.over() and isinstance(first.error, WorkerLost)
    assert str(first.error).startswith("It crashed. What was written so far stays") and "columns" in first.kinds()
    assert worker.about("m", "float32") is None
    until(lambda: len(ByHand.made) == 2)
    again = ByHand.made[1]
    again.far.send(job=again.hear()["job"], kind="over", problem=None)
    assert second.over() and second.error is None


def test_what_it_said_itself_of_its_end_is_said(worker):
    run = Listener(worker)
    (child,) = ByHand.made
    child.far.send(kind="ends", why="PanicException")
    child.far.close()
    assert run.over() and str(run.error).startswith("The model's process ended by itself (PanicException).")


def test_a_worker_that_cannot_start_is_not_started_again_and_again(worker, monkeypatch):
    monkeypatch.setattr(ByHand, "ready", property(lambda self: False, lambda self, value: None), raising=False)
    run = Listener(worker)
    assert run.kinds() == ["phase"]
    ByHand.made[0].far.close()
    assert run.over() and "could not be started" in str(run.error)
    time.sleep(0.1)
    assert len(ByHand.made) == 1
    other = Listener(worker)
    assert len(ByHand.made) == 2 and ByHand.made[1].hear()["kind"] == "job" and other.error is None


def test_reading_a_prompt_has_its_time_and_the_rest_has_all_of_it(worker, monkeypatch):
    monkeypatch.setitem(client._LIMITS, "reading", (0.2, "Reading took too long."))
    run = Listener(worker)
    (child,) = ByHand.made
    job = child.hear()["job"]
    for name in ("reading", "", "observing"):
        child.far.send(job=job, kind="phase", name=name)
    time.sleep(0.4)
    assert not child.killed
    child.far.send(job=job, kind="phase", name="reading")
    assert run.over() and child.killed and str(run.error).startswith("Reading took too long.")


def test_a_cancelled_job_that_does_not_end_is_ended(worker, monkeypatch):
    monkeypatch.setattr(client, "CANCEL_SECONDS", 0.2)
    run = Listener(worker)
    (child,) = ByHand.made
    job = child.hear()["job"]
    run.stop.set()
    child.far.send(job=job, kind="phase", name="loading")
    assert run.over() and child.killed and "of being cancelled" in str(run.error)


def test_closing_ends_everything(worker):
    runs = [Listener(worker), Listener(worker)]
    worker.close()
    assert all(run.over() and isinstance(run.error, WorkerLost) for run in runs)
    with pytest.raises(WorkerLost):
        next(worker.run("work", {}, Stop()))
    assert len(ByHand.made) == 1


def test_runs_of_a_visitor():
    import copy

    runs = Runs()
    first = runs.begin()
    assert runs.cancellable
    runs.cancel()
    second = runs.begin()
    assert first.is_set() and not second.is_set() and runs.cancellable
    runs.end(first)
    assert runs.cancellable
    runs.end(second)
    assert not runs.cancellable
    assert copy.deepcopy(runs) is not runs


@pytest.mark.parametrize(
    "code, words", [(-9, "was killed, most often"), (-6, "SIGABRT"), (-11, "SIGSEGV"), (3, "exit code 3")]
)
def test_an_end_is_said_in_words(code, words):
    import subprocess
    import sys

    child = Child.__new__(Child)
    act = f"import os; os.kill(os.getpid(), {-code})" if code < 0 else f"raise SystemExit({code})"
    child._process = subprocess.Popen([sys.executable, "-S", "-c", act])
    child.pipe = Pipe(open_pipe()[0])
    assert words in child.last_words()
