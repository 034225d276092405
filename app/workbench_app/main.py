"""The page itself, and how it is served: to this machine only, from an empty folder, with nothing sent elsewhere."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from workbench.errors import WorkbenchError
from workbench.files import is_there
from workbench_app import compare_tab, loaded, observe_tab, study_panel, techniques_tab
from workbench_app.offers import OFFERED
from workbench_app.plain import caught, note, problem
from workbench_app.progress import progress_line
from workbench_app.runs import Stop
from workbench_app.security import check_address, own_folder
from workbench_app.serving import serving
from workbench_app.worker import Worker, process

TITLE = "Dynamic-inference workbench"
_MOST_SESSIONS = 64  # Gradio holds the last figures of each, some MB; the longest unused goes first
# Jobs wait in the worker's own line, which says how many are before and when it is full; Gradio's has the room for it.
_MODEL_CALL = {"concurrency_limit": None, "concurrency_id": "model", "api_visibility": "private"}
_MOST_CALLS = 100
_MOST_THREADS = 40
_FONT = ("system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")
_FONT_MONO = ("DejaVu Sans Mono", "Menlo", "Consolas", "monospace")
_SCHEME = "() => document.body.classList.contains('dark') ? 'dark' : 'light'"


def build(worker: Worker, model: str = "smollm2-135m", files: Path | None = None) -> gr.Blocks:
    """The page.

    Parameters
    ----------
    worker : Worker
        Where models run.
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
            tab = compare_tab.render(chosen, dtype, status, worker, _MODEL_CALL)
            study_panel.render(tab, chosen, dtype, scheme, files, _MODEL_CALL)
        with gr.Tab("Observe"):
            observe_tab.render(chosen, dtype, scheme, status, worker, _MODEL_CALL)
        with gr.Tab("Techniques") as tab_of_techniques:
            techniques_tab.render(tab_of_techniques, scheme)
        for each in (chosen, dtype):
            each.input(
                partial(_load, worker), [chosen, dtype], status, show_progress="minimal", trigger_mode="always_last",
                **_MODEL_CALL,
            )  # fmt: skip
        page.load(
            partial(_status, worker),
            [chosen, dtype],
            status,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        page.load(None, None, scheme, js=_SCHEME, api_visibility="private")
    page.max_threads, page.state_session_capacity = _MOST_THREADS, _MOST_SESSIONS
    return page.queue(max_size=_MOST_CALLS, api_open=False, default_concurrency_limit=1)


def _load(worker: Worker, name: str, dtype: str) -> Iterator[str]:
    problems: list[str] = []
    with caught(problems):
        yield note(f"Loading {name} …")
        with closing(worker.run("load", {"model": name, "dtype": dtype}, Stop())) as events:
            for event in events:
                line = progress_line(event, name)
                yield line if line else gr.skip()
        yield _status(worker, name, dtype)
    if problems:
        yield problem(problems[0])


def _status(worker: Worker, name: str, dtype: str) -> str:
    return note(worker.about(name, dtype) or f"{name} is loaded by the first run.")


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
        If the address is not this machine's own and there is no password, or an offer or the model is none.
    WorkbenchError
        If the port is taken, or in the model's own process: a script that serves the page may hold a technique too.
    """
    if process.inside:
        raise WorkbenchError("this is the model's own process, which serves no page")
    check_address(host, password)
    OFFERED.renew(offer)
    model = OFFERED.add(model) if model not in OFFERED.names("model") and is_there(model) else model
    OFFERED.model(model)  # refuses a path at which there is nothing now, not at the first run
    with own_folder() as files:
        worker = Worker(files.parent, OFFERED.spelled())
        page = build(worker, model, files)
        try:
            with serving(page, files, host, port, password, theme=theme(), head=_head()) as address:
                threading.Thread(target=_warm, args=(worker, model), name="workbench-warm", daemon=True).start()
                yield address
        finally:
            worker.close()


def _head() -> str:
    # In the head, not as ``css``: there Gradio would put every rule under its own container.
    style, script = (
        package_files("workbench_app").joinpath("assets", name).read_text("utf-8") for name in ("style.css", "page.js")
    )
    return f"<style>{style}</style><script>{script}</script>"


def _warm(worker: Worker, model: str) -> None:
    # The first visitor should not wait for the weights; what goes wrong here is said when a run asks for the model.
    with contextlib.suppress(WorkbenchError):
        for _ in worker.run("load", {"model": model, "dtype": "float32"}, Stop()):
            pass


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
        If the address needs a password and there is none, or an offer or the model is none.
    """
    with served(port, model, host, password, offer) as address:
        print(f"The dashboard is open at {address} (Ctrl+C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Closed.")
