"""Make an input that shows a fault smaller, as long as it shows the same fault."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

TRIES = 600
SECONDS = 20.0


def smaller(data: bytes, same: Callable[[bytes], bool], *, tries: int = TRIES, seconds: float = SECONDS) -> bytes:
    """The smallest input found for which `same` holds:
    values of JSON are left out first, then bytes, in halves, quarters, eighths...

    The input is given back as it is where it does not show the fault again.
    """
    left, end = [tries], time.monotonic() + seconds

    def check(candidate: bytes) -> bool:
        left[0] -= 1
        return same(candidate)

    def goes_on() -> bool:
        return left[0] > 0 and time.monotonic() < end

    if not check(data):
        return data
    for candidates in (_values, _parts):
        again = True
        while again and goes_on():
            again = False
            for candidate in candidates(data):
                if not goes_on():
                    break
                if len(candidate) < len(data) and check(candidate):
                    data, again = candidate, True
                    break
    return data


def _parts(data: bytes) -> Iterator[bytes]:
    """The input without one of its parts; large parts first."""
    size = len(data)
    while (size := size // 2) >= 1:
        for begin in range(0, len(data), size):
            yield data[:begin] + data[begin + size :]
        if len(data) // size > 64:
            return


def _values(data: bytes) -> Iterator[bytes]:
    """A JSON text without one of its values; outer ones first."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    level: list[Any] = [value]
    while level:
        for holder in level:
            for key in list(holder) if isinstance(holder, dict) else range(len(holder) - 1, -1, -1):
                removed = holder.pop(key)
                yield json.dumps(value).encode("utf-8", "surrogatepass")
                if isinstance(holder, list):
                    holder.insert(key, removed)
                else:
                    holder[key] = removed
        below = (item for holder in level for item in (holder.values() if isinstance(holder, dict) else holder))
        level = [item for item in below if isinstance(item, dict | list) and item]
