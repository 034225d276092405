"""The page itself, and how it is served: to this machine only, from an empty folder, with nothing sent elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from workbench_app import compare_tab, loaded, observe_tab, study_panel, techniques_tab
from workbench_app.offers import OFFERED
from workbench_app.plain import caught, note, problem
from workbench_app.security import check_address, own_folder
from workbench_app.serving import serving

TITLE = "Dynamic-inference workbench"
MOST_WAITING = 12
"""Calls of a model that may wait; one more is refused, and the page says that the queue is full."""

_MOST_SESSIONS = 200
_MOST_THREADS = 16
_MODEL_CALL = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
_FONT = ("system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")
_FONT_MONO = ("DejaVu Sans Mono", "Menlo", "Consolas", "monospace")
_SCHEME = "() => document.body.classList.contains('dark') ? 'dark' : 'light'"


def build(model: str = "smollm2-135m", files: Path | None = None) -> gr.Blocks:
    """The page.

    Parameters
    ----------
    model : str
        Chosen at first.
    files : Path, optional
        Where reports are written; Gradio's own temporary folder if left out.
    """
    files = Path(get_upload_folder()) if files is None else files
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 6 * 3600)) as page:
        scheme = gr.Textbox(visible=False)
        with gr.Row(elem_classes="top"):
            gr.HTML(
                f"<h1>{TITLE}</h1><p class='note'>Every step of one decode loop, and what it cost.</p>", min_width=320
            )
            names = list(dict.fromkeys([model, *OFFERED.names("model"), *loaded.bundled_names()]))
            chosen = gr.Dropdown(
                names, value=model, allow_custom_value=True, label="model", elem_id="model", min_width=240,
                info="bundled, offered by who runs this page, or a Hugging Face id",
            )  # fmt: skip
            dtype = gr.Dropdown(list(loaded.DTYPES), value="float32", label="number format", elem_id="dtype",
                                info="exact means equal in float32", min_width=140)  # fmt: skip
        status = gr.HTML(elem_id="model-status")
        with gr.Tab("Side by side"):
            tab = compare_tab.render(chosen, dtype, status, _MODEL_CALL)
            study_panel.render(tab, chosen, dtype, scheme, files, _MODEL_CALL)
        with gr.Tab("Observe"):
            observe_tab.render(chosen, dtype, scheme, status, _MODEL_CALL)
        with gr.Tab("Techniques") as tab_of_techniques:
            techniques_tab.render(tab_of_techniques, scheme)
        for each in (chosen, dtype):
            each.input(
                _load, [chosen, dtype], status, show_progress="minimal", trigger_mode="always_last", **_MODEL_CALL
            )
        page.load(_status, [chosen, dtype], status, queue=False, show_progress="hidden", api_visibility="private")
        page.load(None, None, scheme, js=_SCHEME, api_visibility="private")
    page.max_threads, page.state_session_capacity = _MOST_THREADS, _MOST_SESSIONS
    return page.queue(max_size=MOST_WAITING, api_open=False, default_concurrency_limit=1)


def _load(name: str, dtype: str) -> Iterator[str]:
    problems: list[str] = []
    with caught(problems):
        yield note(f"Loading {name} …")
        yield note(loaded.about(loaded.MODELS.get(name, dtype)))
    if problems:
        yield problem(problems[0])


def _status(name: str, dtype: str) -> str:
    if loaded.MODELS.holds(name, dtype):
        return note(loaded.about(loaded.MODELS.get(name, dtype)))
    return note(f"{name} is loaded by the first run.")


def theme() -> gr.themes.Base:
    """A theme of fonts that are on the machine, so that none is fetched."""
    return gr.themes.Base(
        primary_hue="blue", secondary_hue="slate", neutral_hue="slate", font=_FONT, font_mono=_FONT_MONO,
        spacing_size="sm", radius_size="sm", text_size="md",
    ).set(
        body_background_fill_dark="#0e1117", body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400", block_info_text_color="*neutral_500",
    )  # fmt: skip


@contextmanager
def served(
    port: int | None = 7860,
    model: str = "smollm2-135m",
    host: str = "127.0.0.1",
    password: str | None = None,
    offer: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the page from an empty folder while the block runs; its address.

    The working folder of the process is the empty one meanwhile.

    Raises
    ------
    SettingError
        If the address is not this machine's own and there is no password, or an offer is none.
    WorkbenchError
        If the port is taken.
    """
    check_address(host, password)
    OFFERED.renew(offer)
    model = OFFERED.add(model) if model not in OFFERED.names("model") and Path(model).exists() else model
    with own_folder() as files:
        page = build(model, files)
        with serving(page, files, host, port, password, theme=theme(), head=_head()) as address:
            threading.Thread(target=_warm, args=(model,), name="workbench-warm", daemon=True).start()
            yield address


def _head() -> str:
    # In the head, not as ``css``: there Gradio would put every rule under its own container.
    style, script = (
        package_files("workbench_app").joinpath("assets", name).read_text("utf-8") for name in ("style.css", "page.js")
    )
    return f"<style>{style}</style><script>{script}</script>"


def _warm(model: str) -> None:
    # The first visitor should not wait for the weights; what goes wrong here is said when a run asks for the model.
    with caught([]):
        loaded.MODELS.get(model, "float32")


def launch(
    port: int = 7860,
    model: str = "smollm2-135m",
    host: str = "127.0.0.1",
    password: str | None = None,
    offer: Sequence[str] = (),
) -> None:
    """Serve the dashboard until interrupted.

    Parameters
    ----------
    port : int
    model : str
        Chosen when the page opens.
    host : str
        Any address but this machine's own needs a password; there is never a public link.
    password : str, optional
        Asked of the user ``workbench``.
    offer : sequence of str
        Folders of models, trained parts and text files that visitors may choose, each as ``NAME=PATH`` or as a path;
        no visitor can name another path.

    Raises
    ------
    SettingError
        If the address needs a password and there is none, or an offer is none.
    """
    with served(port, model, host, password, offer) as address:
        print(f"The dashboard is open at {address} (Ctrl+C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Closed.")
