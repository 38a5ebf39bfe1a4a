"""What every request goes through first: who may ask, and how much.

A server on 127.0.0.1 is reached by every web page that this machine's browser shows, so that such pages are kept out:

- by Host: a page whose name was made to lead here (DNS rebinding) asks under that name. An address and `localhost` are
  no such names; others are refused unless they were given with --host.
- by Origin and Sec-Fetch-Site, which browsers set and pages cannot: what another site's page sends is refused, whatever
  it is, but for a link that a person follows to the page.
- by Content-Type: only JSON is taken, which no form sends.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII)
BODY_LIMIT = 1 << 25
"""Bytes of a request: an init image, a mask and others as base64."""

BODIES = 4  # that are read at the same time
READING = 60.0  # seconds for one
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application around another.

    Args:
        names: of hosts, beside addresses and localhost, under which the server may be asked.
    """

    def __init__(self, app: App, names: Iterable[str] = (), limit: int = BODY_LIMIT) -> None:
        self._app, self._limit = app, limit
        self._names = {"localhost", *(name.lower() for name in names)}
        self._bodies: asyncio.Semaphore | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its body in one piece."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = [(name, value) for name, value in message.get("headers", []) if name.decode() not in HEADERS]
                message["headers"] = have + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        if why := self._stranger(scope, headers):
            await _refuse(answer, 403, why)
            return
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, answer)
            return
        if self._bodies is None:
            self._bodies = asyncio.Semaphore(BODIES)
        async with self._bodies:
            try:
                body = await asyncio.wait_for(self._read(headers, receive), READING)
            except TimeoutError:
                await _refuse(answer, 408, f"the request did not come within {READING:g} seconds")
                return
        if body is None:
            await _refuse(answer, 413, f"the request is too large (expected at most {self._limit} bytes)")
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind != "application/json":
            await _refuse(answer, 415, f"only JSON is taken (got {kind[:60] or 'no Content-Type'})")
            return
        given = False

        async def whole() -> Message:
            nonlocal given
            if given:
                return await receive()  # that the client has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, answer)

    def _stranger(self, scope: Message, headers: dict[str, str]) -> str:
        """Why a request is not for this server or not from its page; "" where it is."""
        host = headers.get("host", "")
        if not self._knows(host):
            return f"the server is not called {host[:100]!r}: ask it by its address, or start it with --host NAME"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and origin.lower() != f"{scope.get('scheme', 'http')}://{host}".lower():
            return f"pages of other sites may not ask this server (got Origin {origin[:100]!r})"
        follows = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not (follows and headers.get("sec-fetch-dest") == "document"):
            return f"pages of other sites may not ask this server (got Sec-Fetch-Site {site[:40]!r})"
        return ""

    def _knows(self, host: str) -> bool:
        name = host_name(host)
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The body; None where it is too large."""
        said = headers.get("content-length", "0")
        if said.isdecimal() and int(said[:20]) > self._limit:
            return None
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                return None
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)


def host_name(host: str) -> str:
    """'127.0.0.1:7860' -> '127.0.0.1'; '[::1]:7860' -> '::1'; "" for what is neither of the two."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found[1] or found[2]


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": "Refused", "detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
