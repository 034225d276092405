"""The dashboard, served once for all tests of the page, and a browser that reaches nothing but this machine."""

import asyncio
import socket
import time

import page_puppet
import pytest

from workbench.registry import TECHNIQUES

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
    return page_puppet.MARKUP


@pytest.fixture(scope="session")
def puppet_log(tmp_path_factory):
    """Where the worker's process notes how often the puppet was asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUPPET_LOG", str(tmp_path_factory.mktemp("puppet") / "log"))
        yield


@pytest.fixture(scope="module")
def puppet(puppet_log):
    TECHNIQUES._classes["puppet"] = page_puppet.Puppet
    yield page_puppet.Puppet
    TECHNIQUES._classes.pop("puppet")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Write a tiny random model with a tokenizer of 90 words: ``folder(template)``, its path."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from workbench.models.tiny import tiny

    def write(template=None):
        place = tmp_path_factory.mktemp("model")
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(96)}, unk_token="w5"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(place)
        tiny("llama").hf.save_pretrained(place)
        return str(place)

    return write


@pytest.fixture(scope="session")
def free_port():
    """Find a port that nobody uses: Gradio's own search leaves a socket open for each that is taken."""

    def find():
        with socket.create_server(("127.0.0.1", 0)) as found:
            return found.getsockname()[1]

    return find


@pytest.fixture(scope="module")
def workers():
    """Every worker that a page in this module was given."""
    return []


@pytest.fixture(scope="module")
def address(puppet, bundled, workers, free_port):
    """The page with the bundled model; ``bundled`` has seen to it that it is there."""
    from workbench_app import main

    class Known(main.Worker):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            workers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "Worker", Known)
        with main.served(free_port()) as url:
            while workers[-1].about("smollm2-135m", "float32") is None:
                time.sleep(0.1)
            yield url


@pytest.fixture
def page_worker(address, workers):
    """The worker of the page."""
    return workers[-1]


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
