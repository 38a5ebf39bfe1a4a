"""Log lines on stderr. They name what files hold, as errors do, and are made fit to print like them."""

from __future__ import annotations

import logging
import sys

from ondevice.errors import printable


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def install(level: str) -> None:
    """Write what is of `level` ("debug", "info", ...) or above, where nobody has set up a log before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("ondevice").setLevel(level.upper())
