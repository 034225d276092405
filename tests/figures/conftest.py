"""Synthetic traces for all figure tests, and a browser without a network."""

import functools
import importlib.util
import sys
from pathlib import Path

import pytest


def _load():
    name = "figures_synthetic"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("synthetic.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def synthetic():
    """The module that makes traces."""
    return _load()


@pytest.fixture(scope="session")
def seen(synthetic):
    """A trace of all probes over 40 tokens."""
    return synthetic.observed()


@pytest.fixture(scope="session")
def long(synthetic):
    """A trace of all probes over 6,000 tokens of a model with 80 layers, 70 heads and 128 experts."""
    return synthetic.observed(tokens=6000, layers=80, heads=70, experts=128)


@pytest.fixture(scope="session")
def every_probe(tiny):
    """What all registered probes see of a tiny model with experts: ``every_probe(tokens)``."""
    import workbench.probes  # noqa: F401 - it fills the registry
    from workbench.registry import PROBES
    from workbench.studies.observe import observe

    @functools.cache
    def seen(tokens):
        return observe(
            tiny("mixtral"),
            [3 + place % 90 for place in range(tokens)],
            [each.examples()[0] for each in PROBES.values()],
        )

    return seen


@pytest.fixture(scope="session")
def study(synthetic):
    """A study of eight runs."""
    return synthetic.study()


@pytest.fixture(scope="session")
def draw(seen, study, synthetic, every_probe):
    """Draw a figure by name from whichever of the traces holds its data."""
    from workbench.figures import FIGURES

    def drawn(name, **settings):
        figure = FIGURES[name]
        if figure.each_run:
            settings.setdefault("run", 1)
        traces = seen, study, *(make() for make in synthetic.OTHERS)
        # A probe that no synthetic trace knows is drawn from what it really sees.
        trace = next((each for each in traces if figure.applies(each)), None) or every_probe(20)
        return figure.draw(trace, **settings)

    return drawn


@pytest.fixture
def visit(browser):
    """Open a file with the network cut; ``asked`` of the page are its requests, ``said`` its complaints."""
    contexts = []

    def opened(path, scheme="light", width=1000, height=800):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []

        def gate(route):
            page.asked.append(route.request.url)
            route.continue_() if route.request.url.startswith("file:") else route.abort()

        context.route("**/*", gate)
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append("dialog"), dialog.dismiss()))
        page.goto(Path(path).resolve().as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
