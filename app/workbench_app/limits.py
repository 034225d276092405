"""What one request may bring: how much, how deep, how slowly.

The whole body is read here, before anything else looks at it, so that a request that is too large costs its limit and
no more, whoever sent it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

MOST_BODY = 2 * 2**20
"""Bytes of one request: a prompt of the most characters that the page takes, in the longest spelling."""
MOST_LOGIN = 4096
"""Bytes of a request by somebody who has not given the password."""
MOST_HEAD = 32 * 2**10
"""Bytes of a request's head."""
BODY_SECONDS = 30.0
DEEPEST = 32
MOST_PARTS = 10_000
"""Lists and objects in one request; those of the page have a few dozen."""

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]


class Refused(Exception):
    """A request that goes no further.

    Parameters
    ----------
    status : int
        Of HTTP.
    reason : str
        Told to whoever asked.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def check_head(scope: dict[str, Any]) -> None:
    """Refuse a request whose head is too large; the server itself stops only at one that never ends.

    Raises
    ------
    Refused
    """
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if size + sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD:
        raise Refused(431, f"The head of the request is too large: at most {MOST_HEAD:,} bytes are taken.")


def announced(headers: dict[bytes, bytes]) -> int | None:
    """Bytes that a request says it brings; None where it says only that it comes in chunks.

    Raises
    ------
    Refused
        If it says something else.
    """
    if b"transfer-encoding" in headers:
        if b"content-length" in headers:
            raise Refused(400, "The request says its length twice.")  # whoever is between may take the other one
        return None
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18:
        raise Refused(400, "The length of the request is not a number.")
    return int(length)


async def whole_body(receive: Receive, length: int | None, most: int, seconds: float = BODY_SECONDS) -> bytes:
    """The body of a request, counted as it arrives.

    Parameters
    ----------
    receive : callable
        Of the server.
    length : int, optional
        As announced.
    most : int
        Bytes that are taken.
    seconds : float
        Time for all of it.

    Raises
    ------
    Refused
        Too large, too slow, or given up by whoever sent it.
    """
    too_large = Refused(413, f"The request is too large: at most {most:,} bytes are taken.")
    if length is not None and length > most:
        raise too_large
    taken, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    raise Refused(400, "The request was given up.")
                taken.append(event.get("body", b""))
                size += len(taken[-1])
                if size > most:
                    raise too_large
                if not event.get("more_body", False):
                    return b"".join(taken)
    except TimeoutError:
        raise Refused(408, "The request took too long to arrive.") from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as if the body had only just arrived."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Event:
        return waiting.pop() if waiting else await receive()

    return again


def check_shape(body: bytes) -> None:
    """Refuse JSON that is nested deeper, or in more parts, than the page ever sends.

    Raises
    ------
    Refused
    """
    if body.count(b"[") + body.count(b"{") <= DEEPEST:
        return
    bare = _TEXT.sub(b"", body)
    if bare.count(b"[") + bare.count(b"{") > MOST_PARTS:
        raise Refused(400, "The request has too many parts.")
    depth = 0
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > DEEPEST:
            raise Refused(400, "The request is nested too deep.")
