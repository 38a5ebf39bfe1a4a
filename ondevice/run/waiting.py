"""Calls into a driver that block, heard through: Ctrl-C and other signals are handled while they run.

Python handles a signal between two of its own instructions, and a call into a driver may last as long as a kernel does:
for ever, if it is a stranger's. So the call is made on a thread of its own, and the thread that signals reach waits for
a lock, which they interrupt. That costs 3 us per call.
"""

from __future__ import annotations

import _thread
import queue
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

_ALL: weakref.WeakSet[Waiter] = weakref.WeakSet()


class _Call:
    """One call, and what became of it."""

    __slots__ = ("call", "done", "ended", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.result, self.ended = call, None, False
        self.error: BaseException | None = None
        self.done = _thread.allocate_lock()
        self.done.acquire()

    def make(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        self.ended = True
        self.done.release()


class Waiter:
    """Makes calls in order, on one thread. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._last: _Call | None = None
        self._started = False
        weakref.finalize(self, self._calls.put, None)
        _ALL.add(self)

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Its result, or what it raises. Interrupted, the call goes on: see `idle`."""
        return self._end(self._give(call))

    def begin(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Have a call made, after those before it. What is returned waits for it, as `__call__` does, as often as it is
        called."""
        return partial(self._end, self._give(call))

    def _end(self, given: _Call) -> Any:
        if not given.ended:
            given.done.acquire()
        if self._last is given:
            self._last = None
        if given.error is not None:
            raise given.error
        return given.result

    def within(self, call: Callable[[], Any], seconds: float) -> bool:
        """Make a call; whether it ended in this time, by an error or not."""
        self._give(call)
        return self.idle(seconds)

    def idle(self, seconds: float = 0.0) -> bool:
        """Whether all calls have ended; waits for that, but not longer than `seconds`."""
        last = self._last
        if last is not None and not last.ended and not last.done.acquire(timeout=seconds):
            return False
        self._last = None
        return True

    def _give(self, call: Callable[[], Any]) -> _Call:
        if not self._started:
            threading.Thread(target=_serve, args=(self._calls,), name="driver", daemon=True).start()
            self._started = True
        given = self._last = _Call(call)
        self._calls.put(given)
        return given


def _serve(calls: queue.SimpleQueue[_Call | None]) -> None:
    while (given := calls.get()) is not None:
        given.make()
        del given  # it may hold the last reference to a buffer


def stuck() -> bool:
    """Whether a driver still works on a call that somebody stopped waiting for.
    The interpreter's end would wait for it, too."""
    return not all(waiter.idle() for waiter in list(_ALL))
