"""The dashboard, served once for all tests of the page, and a browser that reaches nothing but this machine."""

import asyncio
import time
from typing import Annotated, Literal

import pytest
from playwright.sync_api import sync_playwright
from pydantic import Field

from workbench.registry import TECHNIQUES
from workbench.settings import settings
from workbench.techniques import Technique, register

MARKUP = "<img src=x onerror=window.pwned=1></script>${window.pwned=1}{{7*7}}"
FORCED = f"forced {MARKUP}"


class Sayer:
    """Policy that says a text, then ends, slowly if told so; and one that ends with an error."""

    def __init__(self, technique, run):
        self.technique = technique
        self.words = run.model.tokenizer(technique.text)["input_ids"]
        self.start = len(run.prompt)

    def adjust(self, tokens, logits):
        done = len(tokens) - self.start
        Puppet.calls += 1
        if self.technique.fails:
            raise RuntimeError("a secret that belongs into the log")
        if self.technique.delay:
            time.sleep(self.technique.delay)
        if done < len(self.words):
            logits = logits.clone().fill_(-100.0)
            logits[self.words[done]] = 100.0
        return logits

    def stop(self, generated):
        return self.technique.mode == "short" and len(generated) >= len(self.words)


def register_puppet():
    """Register a technique with a setting of every kind, as somebody's new file would."""

    @register
    @settings
    class Puppet(Technique):
        """Says what it is told to."""

        text: Annotated[str, Field(min_length=1, max_length=400, description="what it says")] = FORCED
        delay: Annotated[float, Field(ge=0.0, le=1.0, description="pause before every token [s]")] = 0.0
        weight: Annotated[int, Field(ge=0, description="an unbounded whole number")] = 7
        depth: Annotated[int | None, Field(ge=1, description="a number that may be none")] = None
        fails: Annotated[bool, Field(description="whether it raises")] = False
        mode: Annotated[Literal["short", "long"], Field(description="whether it ends with its text")] = "short"

        slots = ("logits", "stop")
        exact = False
        stepwise = True
        paper = "None, a puppet for tests, 2026"
        calls = 0

        def start(self, run):
            return Sayer(self, run)

        @classmethod
        def neutral(cls):
            return cls()

    return Puppet


Puppet = register_puppet()
TECHNIQUES._classes.pop("puppet")  # only there while these tests run


@pytest.fixture(scope="session", autouse=True)
def no_stray_event_loops():
    """Wherever Gradio makes a lock outside a loop it makes a loop as well, which nobody closes; a lock needs none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradio.utils.safe_get_lock", asyncio.Lock)
        patch.setattr("gradio.queueing.safe_get_lock", asyncio.Lock)
        patch.setattr("gradio.utils.safe_get_stop_event", asyncio.Event)
        yield


@pytest.fixture
def markup():
    """Text that would run, if anything took it for markup or for a template."""
    return MARKUP


@pytest.fixture(scope="module")
def puppet():
    TECHNIQUES._classes["puppet"] = Puppet
    yield Puppet
    TECHNIQUES._classes.pop("puppet")


@pytest.fixture(scope="module")
def address(puppet, bundled):
    """The page with the bundled model already loaded."""
    from workbench_app import loaded
    from workbench_app.main import served

    loaded.MODELS.put("smollm2-135m", "float32", bundled)
    with served(port=None) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """Open the page as a visitor of its own; at the end, no visitor may have asked another machine for anything."""
    contexts, strangers = [], []

    def open_page(**options):
        context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True, **options)
        contexts.append(context)

        def only_here(route):
            if route.request.url.startswith((address, "data:", "blob:")):
                route.continue_()
            else:
                strangers.append(route.request.url)
                route.abort()

        context.route("**/*", only_here)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        # This line is the page's own first answer: before it, controls may still be filled with their first values.
        page.wait_for_selector("#model-status [role=status]")
        page.wait_for_selector("#run")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert strangers == []
