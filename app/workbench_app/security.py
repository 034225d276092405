"""What the page must not do: listen to strangers, serve other files, ask other machines, or be framed and called
from other pages.

Gradio's own server can fetch addresses for a visitor, take uploads and serve files from several folders; this page
needs none of that but the reports in its own folder, so everything else is refused before it gets there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from workbench.errors import SettingError
from workbench_app.limits import (
    MOST_BODY,
    MOST_LOGIN,
    Refused,
    announced,
    check_head,
    check_shape,
    replayed,
    whole_body,
)
from workbench_app.login import Attempts, Door

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
# A file is saved, not shown: what is in it is not this page.
_FILE_POLICY = (b"content-security-policy", b"sandbox; default-src 'none'")
_PAGES = ("/", "/config", "/login", "/logout", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
_CALLS = ("queue/join", "queue/data", "cancel", "reset", "info", "app_id", "login_check", "theme.css")
_FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/", "/gradio_api/run/", "/gradio_api/file=")
_BEFORE_LOGIN = ("/", "/login", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/gradio_api/theme.css")
_FOLDERS_BEFORE_LOGIN = ("/assets/", "/static/", "/svelte/")
_FILE = "/file="
_READ = ("GET", "HEAD")
# What a proxy would say of the one who asks. There is none that this page knows of, so it is only what a stranger says;
# Gradio would put it into the addresses of the page.
_SAID_BY_PROXIES = (
    b"forwarded",
    b"x-forwarded",
    b"x-gradio-server",
    b"x-real-ip",
    b"x-original",
    b"x-rewrite",
    b"x-client-ip",
)

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


def host_of(header: str) -> str:
    """Host of a ``Host`` header, without its port."""
    return header.rpartition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]


class Guard:
    """ASGI middleware in front of everything: passes on only what this page itself asks for, from this page itself, in
    the size that it needs, and sends the content security policy.

    Parameters
    ----------
    app : callable
        The application behind it.
    folder : Path
        The only place that files may be served from.
    loopback : bool
        Whether only loopback names may stand in ``Host``, which keeps out a page elsewhere whose name was pointed at
        this machine.
    door : Door, optional
        Who has given the password; None where there is none to give.
    """

    def __init__(self, app: Callable[..., Any], folder: Path, loopback: bool = True, door: Door | None = None) -> None:
        self.app, self.folder, self.loopback, self.door = app, folder.resolve(), loopback, door
        self.attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._answer(scope, receive, send)
            except Refused as refused:
                await _refuse(scope, send, refused)
        else:
            # The page opens no sockets.
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        check_head(scope)
        headers = dict(scope["headers"])
        self.check(scope, headers)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if not pair[0].startswith(_SAID_BY_PROXIES)]}
        inside = self.door is None or self.door.knows(headers.get(b"cookie", b""))
        path = _path(scope)
        if not inside and not (path in _BEFORE_LOGIN or path.startswith(_FOLDERS_BEFORE_LOGIN)):
            raise Refused(401, "The password is asked for first.")
        length, most = announced(headers), MOST_BODY if inside and path != "/login" else MOST_LOGIN
        if scope["method"] in _READ:
            if length != 0:
                raise Refused(413, "A request of this kind brings nothing.")
        else:
            body = await whole_body(receive, length, most)
            check_shape(body)
            receive = replayed(body, receive)
        status = [0]

        async def with_headers(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                status[0] = event["status"]
                event = {**event, "headers": _own(event["headers"], path)}
            await send(event)

        if path == "/login" and self.door is not None:
            await self._turn(scope)
        await self.app(scope, receive, with_headers)
        if path == "/login" and status[0] == 200:
            self.attempts.right(_address(scope))

    async def _turn(self, scope: Scope) -> None:
        wait = self.attempts.turn(_address(scope))
        if wait is None:
            raise Refused(429, "Too many attempts: wait half a minute, then try again.")
        await asyncio.sleep(wait)

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse what the page never asks for, or what another page asks.

        Raises
        ------
        Refused
        """
        host = headers.get(b"host", b"").decode("latin-1")
        if self.loopback and not is_loopback(host_of(host)):
            raise Refused(421, "This page answers on this machine only.")
        if scope["method"] not in (*_READ, "POST"):
            raise Refused(405, "There is nothing of this kind here.")
        path = _path(scope)
        if _FILE in path and not self.serves(path.partition(_FILE)[2]):
            raise Refused(403, "This file is not served.")
        known = path in _PAGES or path.removeprefix("/gradio_api/") in _CALLS or path.startswith(_FOLDERS)
        if not known or b"deep_link" in unquote_to_bytes(scope.get("query_string", b"")):
            raise Refused(404, "There is nothing here.")
        if not _same_origin(scope["method"], host, headers):
            raise Refused(403, "Another page may not ask this one.")

    def serves(self, name: str) -> bool:
        """Whether a file lies in the page's own folder, links followed."""
        try:
            return Path(name).resolve().is_relative_to(self.folder)
        except (OSError, ValueError):
            return False


def _path(scope: Scope) -> str:
    path = unquote(scope["path"])
    return path.rstrip("/") or "/"


def _address(scope: Scope) -> str:
    return (scope.get("client") or ("",))[0]


def _same_origin(method: str, host: str, headers: dict[bytes, bytes]) -> bool:
    """Whether a request comes from this page, or is a person who opens it."""
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").partition("://")[2].lower() != host.lower():
        return False
    # Browsers say this of every request; another port of this machine is the same site, but another page.
    site, mode = headers.get(b"sec-fetch-site", b""), headers.get(b"sec-fetch-mode", b"")
    opened = mode == b"navigate" and method in _READ
    return site not in (b"cross-site", b"same-site") or opened


def _own(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """Headers of an answer without any leave for other pages, and with the policy."""
    policy = HEADERS | dict([_FILE_POLICY]) if _FILE in path else HEADERS
    kept = [(name, value) for name, value in headers if not name.lower().startswith(b"access-control-")]
    return [pair for pair in kept if pair[0].lower() not in policy] + list(policy.items())


async def _refuse(scope: Scope, send: Callable[..., Any], refused: Refused) -> None:
    # The page's own script reads the reason from JSON, a person reads it as it is.
    called = scope["path"].startswith("/gradio_api/") and scope["method"] not in _READ
    body = json.dumps({"detail": refused.reason}).encode() if called else refused.reason.encode()
    headers = [
        (b"content-type", b"application/json" if called else b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        # What is still on its way is not waited for.
        (b"connection", b"close"),
        *HEADERS.items(),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
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
