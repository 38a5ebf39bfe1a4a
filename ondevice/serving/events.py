"""Who waits for news: pages that show how far things are, and clients that wait for their pictures.

What is sent is the whole state, so that a reader that was slow, or away, misses nothing that still holds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

MOST_READERS = 64
PAUSE = 0.05  # seconds between two states of one reader
ALIVE = 15.0  # seconds after which a reader hears that nothing has changed


class News:
    """Tells readers, in the server's event loop, that something changed, whichever thread changed it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bells: set[asyncio.Event] = set()
        self.closed = False

    def bind(self) -> None:
        """This loop is the server's."""
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Something changed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring)

    def close(self) -> None:
        """Readers get the last state, and their streams end."""
        self.closed = True
        self.ring()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.set()

    def full(self) -> bool:
        """Whether there are as many readers as there may be."""
        return len(self._bells) >= MOST_READERS

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, or all ends."""
        async for _ in self._changes(ALIVE):
            if holds():
                return

    async def _changes(self, alive: float) -> AsyncIterator[bool]:
        """At once, and after each change or after so many seconds (False) without one; ends when all does."""
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            yield True
            while not self.closed:
                try:
                    await asyncio.wait_for(bell.wait(), alive)
                except TimeoutError:
                    yield False
                    continue
                bell.clear()
                yield True
        finally:
            self._bells.discard(bell)

    async def stream(self, state: Callable[[], dict[str, Any]], alive: float = ALIVE) -> AsyncIterator[str]:
        """Server-sent events: the state whenever it changed."""
        yield "retry: 1000\n\n"
        last = ""
        async for changed in self._changes(alive):
            text = json.dumps(state(), separators=(",", ":"))
            if not changed:
                yield ": nothing new\n\n"
            elif text != last:
                last = text
                yield f"data: {text}\n\n"
                await asyncio.sleep(PAUSE)
