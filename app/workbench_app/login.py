"""The password: compared in constant time, asked of every request, and ever slower to be guessed from one address."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

USER = "workbench"
FIRST_PAUSE = 0.5
"""Seconds between the first attempt of an address and its second; every further one doubles."""
LONGEST_PAUSE = 8.0
LONGEST_WAIT = 30.0
"""Seconds that an attempt may have to wait for its turn; beyond, it is refused at once and does not count."""
FORGOTTEN = 900.0
MOST_ADDRESSES = 1000


def checks(password: str) -> Callable[[str, str], bool]:
    """Whether a user and a password are the right ones, in a time that says nothing about how nearly they are."""
    right = _digest(password)

    def check(user: str, given: str) -> bool:
        same = hmac.compare_digest(_digest(given), right)
        return hmac.compare_digest(_digest(user), _digest(USER)) and same

    return check


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass
class _Record:
    attempts: int = 0
    ready: float = 0.0


class Attempts:
    """Turns to try a password, for each address by itself, so that nobody can lock out another.

    Every attempt counts as failed until it turns out right. Addresses are the last ones seen, and so bounded.

    Parameters
    ----------
    clock : callable
        Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def turn(self, address: str) -> float | None:
        """Seconds that the next attempt of an address has to wait; None if it is refused, since too many wait."""
        now, network = self._clock(), network_of(address)
        record = self._records.get(network)
        if record is None or now - record.ready > FORGOTTEN:
            record = self._records[network] = _Record(ready=now)
        self._records.move_to_end(network)
        while len(self._records) > MOST_ADDRESSES:
            self._records.popitem(last=False)
        start = max(now, record.ready)
        if start - now > LONGEST_WAIT:
            return None
        record.ready = start + min(FIRST_PAUSE * 2 ** min(record.attempts, 30), LONGEST_PAUSE)
        record.attempts += 1
        return start - now

    def right(self, address: str) -> None:
        """Forget an address that knew the password."""
        self._records.pop(network_of(address), None)


def network_of(address: str) -> str:
    """What one person has: an IPv4 address, or the 64 bits of an IPv6 address that are given out at once."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


@dataclass(frozen=True)
class Door:
    """Who has given the password.

    Parameters
    ----------
    tokens : mapping
        Keys that the page's server has handed out.
    names : tuple of str
        Cookies that bring one back.
    """

    tokens: Mapping[str, str]
    names: tuple[str, ...]

    def knows(self, cookies: bytes) -> bool:
        """Whether a request's cookies hold a key that was handed out."""
        jar = SimpleCookie()
        try:
            jar.load(cookies.decode("latin-1"))
        except CookieError:
            return False
        return any(name in jar and jar[name].value in self.tokens for name in self.names)
