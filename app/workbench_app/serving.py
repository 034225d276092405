"""The server under the page: Gradio's application behind the guard, on a server that waits for nobody forever.

``Blocks.launch`` starts a server of its own, whose limits cannot be set and in front of which nothing can be put; this
is Gradio's documented other way, mounting, on a server that is ours.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from workbench.errors import WorkbenchError
from workbench_app.limits import MOST_HEAD
from workbench_app.login import Door, checks
from workbench_app.logs import bounded_output
from workbench_app.security import Guard, is_loopback

MOST_CONNECTIONS = 512
MOST_CONNECTIONS_OF_ONE = 128
"""Connections of one address that is not this machine's own."""
HEAD_SECONDS = 15.0
"""Time in which a request must have said what it wants."""
_START_SECONDS = 20.0


class Impatient(H11Protocol):
    """One connection, closed when it does not come to the point."""

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        if not is_loopback(host):
            same = sum(1 for each in self.connections if (getattr(each, "client", None) or ("",))[0] == host)
            if same > MOST_CONNECTIONS_OF_ONE:
                transport.abort()
                return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._rest()
        elif self._clock is None:
            self._clock = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _rest(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens, at any free port if none is named.

    Raises
    ------
    WorkbenchError
        If the port is somebody else's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port or 0), family=family)
    except OSError as error:
        raise WorkbenchError(f"port {port} cannot be opened at {host} ({error.strerror}): name another") from error


@contextmanager
def serving(
    page: gr.Blocks, files: Path, host: str, port: int | None, password: str | None, **look: Any
) -> Iterator[str]:
    """Serve a page while the block runs; its address.

    Parameters
    ----------
    page : gradio.Blocks
    files : Path
        The only folder that files are served from.
    host, port, password
        As in :func:`workbench_app.main.served`.
    look
        Further arguments of ``gradio.mount_gradio_app``.
    """
    with listening(host, port) as listener, bounded_output():
        port = listener.getsockname()[1]
        server = _Server(_config(_application(page, files, host, port, password, look)))
        server.start([listener])
        page.server = server
        try:
            yield f"http://{_shown(host)}:{port}/"
        finally:
            page.close(verbose=False)


def _shown(host: str) -> str:
    """A host as a browser here can open it."""
    bare = host.strip("[]")
    if bare in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{bare}]" if ":" in bare else bare


def _application(
    page: gr.Blocks, files: Path, host: str, port: int, password: str | None, look: dict[str, Any]
) -> Guard:
    mounted = gr.mount_gradio_app(
        Starlette(), page, "/", server_name=host, server_port=port, auth=checks(password) if password else None,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None}, show_error=False,
        footer_links=["settings"], run_history=False, allowed_paths=[], blocked_paths=[], max_file_size="1mb",
        ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False, **look,
    )  # fmt: skip
    inner: Any = mounted.routes[-1].app
    # What `launch` would have set: Gradio checks the paths of files, and ends its streams, only if it has these.
    page.app, page.has_launched = inner, True
    page.config = page.get_config_file()
    names = tuple(f"{kind}-{inner.cookie_id}" for kind in ("access-token", "access-token-unsecure"))
    return Guard(mounted, files, is_loopback(host), Door(inner.tokens, names) if password else None)


def _config(application: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        # Uvicorn's own configuration of logging would close the handlers of others, and some of those their stream.
        application, http=Impatient, ws="none", lifespan="on", log_config=None, log_level="warning", access_log=False,
        proxy_headers=False, server_header=False, limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=5,
        timeout_graceful_shutdown=5, h11_max_incomplete_event_size=MOST_HEAD,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """A server in a thread of its own."""

    def start(self, sockets: list[socket.socket]) -> None:
        self._thread = threading.Thread(target=self.run, args=(sockets,), name="workbench-page", daemon=True)
        self._thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self.started:
            if time.monotonic() > until or not self._thread.is_alive():
                raise WorkbenchError("the page's server did not start; its log says why")
            time.sleep(0.005)

    def close(self) -> None:
        self.should_exit = True
        self._thread.join(timeout=10)
