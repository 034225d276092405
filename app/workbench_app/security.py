"""What the page must not do: listen to strangers, serve other files, ask other machines, or be framed and called
from other pages.

Gradio's own server can fetch addresses for a visitor, take uploads and serve files from several folders; this page
needs none of that but the reports in its own folder, so everything else is refused before it gets there.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from workbench.errors import SettingError, WorkbenchError

POLICY = "; ".join(
    [
        "default-src 'self'",
        # Gradio's own pages need inline scripts, and compile templates; nothing of a prompt reaches either.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}
_REFUSED = ("/upload", "/proxy=", "/process_recording", "/stream/", "/component_server", "/deep_link", "/vibe")
_FILE = "/file="

Scope = dict[str, Any]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str, password: str | None) -> None:
    """Refuse to listen beyond this machine without a password.

    Raises
    ------
    SettingError
    """
    if not is_loopback(host) and not password:
        raise SettingError(
            f"the page would be open to others at {host!r}: give a password, or leave the address at 127.0.0.1"
        )


def check_port(host: str, port: int | None) -> None:
    """Refuse a port that somebody else listens on.

    Raises
    ------
    WorkbenchError
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), port or 0), family=family):
            pass
    except OSError as error:
        raise WorkbenchError(f"port {port} cannot be opened at {host} ({error.strerror}): name another") from error


def host_of(header: str) -> str:
    """Host of a ``Host`` header, without its port."""
    return header.rpartition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]


class Guard:
    """ASGI middleware that refuses what this page never needs, and sends the content security policy.

    Parameters
    ----------
    app : callable
        The application behind it.
    folder : Path
        The only place that files may be served from.
    loopback : bool
        Whether only loopback names may stand in ``Host``, which keeps out a page elsewhere whose name was pointed at
        this machine.
    """

    def __init__(self, app: Callable[..., Any], folder: Path, loopback: bool = True) -> None:
        self.app, self.folder, self.loopback = app, folder.resolve(), loopback

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal:
            await _refuse(send, *refusal)
            return

        async def with_headers(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                kept = [(name, value) for name, value in event["headers"] if name.lower() not in HEADERS]
                event = {**event, "headers": kept + list(HEADERS.items())}
            await send(event)

        await self.app(scope, receive, with_headers)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason if a request is refused."""
        header = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self.loopback and not is_loopback(host_of(header)):
            return 421, "This page answers on this machine only."
        path = unquote(scope["path"])
        if any(part in path for part in _REFUSED):
            return 404, "There is nothing here."
        if _FILE in path and not self.serves(path.partition(_FILE)[2]):
            return 403, "This file is not served."
        return None

    def serves(self, name: str) -> bool:
        """Whether a file lies in the page's own folder, links followed."""
        try:
            return Path(name).resolve().is_relative_to(self.folder)
        except (OSError, ValueError):
            return False


async def _refuse(send: Callable[..., Any], status: int, reason: str) -> None:
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers + list(HEADERS.items())})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def own_folder() -> Iterator[Path]:
    """An empty folder to run from, taken away at the end; settings from the environment that would open the page wider
    are set aside meanwhile."""
    before, folder_before = dict(os.environ), Path.cwd()
    with tempfile.TemporaryDirectory(prefix="workbench-app-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        files, empty = folder / "files", folder / "empty"
        files.mkdir()
        empty.mkdir()
        for key in [key for key in os.environ if key.startswith("GRADIO_")]:
            del os.environ[key]
        os.environ.update(
            GRADIO_ANALYTICS_ENABLED="False",
            # Gradio also keeps statistics of its own calls, for a page that is not served here.
            GRADIO_ANALYTICS_MAX_EVENTS="1",
            GRADIO_ANALYTICS_CACHE_FREQUENCY=str(2**31),
            GRADIO_TEMP_DIR=str(files),
            GRADIO_EXAMPLES_CACHE=str(files / "examples"),
        )
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.chdir(empty)
        try:
            yield files
        finally:
            os.chdir(folder_before)
            for key in set(os.environ) - set(before):
                if key.startswith("GRADIO_"):
                    del os.environ[key]
            os.environ.update({key: value for key, value in before.items() if key.startswith("GRADIO_")})
