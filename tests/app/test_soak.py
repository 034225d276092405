"""Twenty visitors at once on the real server: every answer is right or one clear line, and nothing grows.

Over plain HTTP they run, cancel, leave in the middle, observe, and once the worker is killed under them.
"""

import asyncio
import gc
import html
import json
import os
import random
import re
import signal

import httpx
import psutil
import pytest
from gradio_client.utils import apply_diff

import workbench as wb

pytestmark = pytest.mark.slow
VISITORS, NEW = 20, 16
PROMPTS = [f"w{number} w{number + 1} w{number + 2}" for number in range(10, 40, 3)]
FULL, KILLED, NEVER = "queue is full", "was killed", "Cancelled before it began"
SKIP = {"__type__": "update"}


class Page:
    """What every visitor has of the page: which component is which, and what its events take."""

    def __init__(self, address):
        self.address = address
        config = httpx.get(f"{address}config", timeout=60).json()
        self.ids = {each["props"].get("elem_id"): each["id"] for each in config["components"]}
        self.values = {each["id"]: each["props"].get("value") for each in config["components"]}
        self.events = {tuple(target): each for each in config["dependencies"] for target in each["targets"]}

    def ask(self, button, kind="click", **values):
        """The event of a button, and the values that go with it."""
        event = self.events[self.ids[button], kind]
        given = {self.ids[name.replace("_", "-")]: value for name, value in values.items()}
        return event, [given.get(each, self.values[each]) for each in event["inputs"]]


class Visitor:
    """One open page: its session stays while its visitor does one thing after the other."""

    def __init__(self, page, client, session):
        self.page, self.client, self.session = page, client, session

    async def press(self, button, **values):
        """Press a button and yield everything the page shows, by component, until the event is over."""
        event, data = self.page.ask(button, **values)
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": None}
        joined = (await self.client.post("gradio_api/queue/join", json=body)).raise_for_status().json()
        shown = None
        async with self.client.stream("GET", f"gradio_api/queue/data?session_hash={self.session}") as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("event_id") != joined["event_id"]:
                    continue
                if message.get("msg") == "process_generating":
                    data = message["output"]["data"]
                    shown = data if shown is None else [apply_diff(*each) for each in zip(shown, data, strict=True)]
                    yield dict(zip(event["outputs"], shown, strict=True))
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return

    async def cancel(self):
        event, data = self.page.ask("cancel")
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        (await self.client.post("gradio_api/run/predict", json=body)).raise_for_status()


def text_of(view):
    """The tokens' text in a column's HTML."""
    return html.unescape("".join(re.findall(r'<span class="token"[^>]*>(.*?)</span>', view)))


async def visit(visitor, chance, expected, seen):
    """One thing a visitor does; what came of it is counted in ``seen``."""
    page, prompt = visitor.page, chance.choice(PROMPTS)
    what = chance.choice(["run", "run", "cancel", "leave", "observe"])
    places = {
        name: page.ids[name] for name in ("trouble", "left-view", "right-view", "observe-figures", "observe-trouble")
    }
    last, said = {}, ""
    if what == "observe":
        stream = visitor.press("observe", observe_prompt=prompt)
    else:
        stream = visitor.press("run", prompt=prompt, max_new_tokens=NEW)
    async for shown in stream:
        # A component that a step leaves as it is comes as an update without a value.
        last.update({key: value for key, value in shown.items() if isinstance(value, str)})
        said = last.get(places["observe-trouble" if what == "observe" else "trouble"], "")
        begun = "token" in last.get(places["left-view"], "")
        if what == "leave" and begun:
            seen["left"] += 1
            return
        if what == "cancel" and (begun or "Waiting" in said):
            await visitor.cancel()
            what = "cancelled"
    if "alert" in said:
        assert FULL in said or KILLED in said, said
        seen["full" if FULL in said else "killed"] += 1
        if FULL in said:
            await asyncio.sleep(chance.random())
    elif what == "observe":
        assert "<iframe" in last[places["observe-figures"]]
        seen["observed"] += 1
    elif NEVER in said:
        assert what == "cancelled"
        seen["never begun"] += 1
    else:
        left, right = (last[places[side]] for side in ("left-view", "right-view"))
        whole = all('data-state="done"' in view for view in (left, right))
        assert whole or what == "cancelled", (left, said)
        for view in (left, right):
            assert text_of(view) == expected[prompt] if whole else expected[prompt].startswith(text_of(view))
        seen["right" if whole else "partial"] += 1


async def batch(page, worker, expected, seed, rounds, kill=False):
    """Every visitor does a few things, all at once."""
    seen = dict.fromkeys(["right", "partial", "observed", "left", "full", "killed", "never begun"], 0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=page.address, timeout=300, limits=limits) as client:

        async def one(number):
            chance, visitor = random.Random(f"{seed} {number}"), Visitor(page, client, f"visitor{number:06}")
            for _ in range(rounds):
                await visit(visitor, chance, expected, seen)

        async def killer():
            while seen["right"] < 3 or worker._current is None or worker._current.cancelled:
                await asyncio.sleep(0.001)
            os.kill(worker.pid, signal.SIGKILL)
            # Whoever had that run may just have left: then the next one is hit too.
            for _ in range(200):
                await asyncio.sleep(0.1)
                if seen["killed"]:
                    return
            await killer()

        await asyncio.gather(*map(one, range(VISITORS)), *([killer()] if kill else []))
    return seen


def held(worker):
    """Memory, threads and files of both processes, once all is quiet."""
    gc.collect()
    server, child = psutil.Process(), psutil.Process(worker.pid)
    return {
        "server": server.memory_info().rss, "worker": child.memory_info().rss,
        "files": server.num_fds() + child.num_fds(), "threads": child.num_threads(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def served(puppet, folder, free_port):
    from workbench_app import main

    made = []

    class Known(main.Worker):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    model = folder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "Worker", Known)
        with main.served(free_port(), model) as address:
            yield Page(address), made[0], model


def test_twenty_visitors(served):
    page, worker, folder = served
    model = wb.load(folder, dtype="float32", device="cpu")
    expected = {}
    for prompt in PROMPTS:
        steps = wb.generate(model, prompt, max_new_tokens=NEW)
        expected[prompt] = model.decode([token for step in steps for token in step.tokens])
    first = asyncio.run(batch(page, worker, expected, seed=0, rounds=3, kill=True))
    print(first)
    assert sum(first.values()) == 3 * VISITORS
    assert first["killed"] >= 1 and first["right"] > 3
    asyncio.run(batch(page, worker, expected, seed=1, rounds=2))
    before = held(worker)
    for _ in range(1):
        again = asyncio.run(batch(page, worker, expected, seed=1, rounds=2))
        assert again["killed"] == 0 and again["right"] > 3
    after = held(worker)
    print(again, before, after)
    assert worker._current is None and not worker._waiting
    assert after["server"] - before["server"] < 25e6 and after["worker"] - before["worker"] < 25e6, (before, after)
    assert after["files"] <= before["files"] + 5 and after["threads"] <= before["threads"] + 2
