"""TOML from files that people edit and pass on."""

from __future__ import annotations

import tomllib
from typing import Any


def parse_toml(data: bytes) -> dict[str, Any]:
    """The tables in a UTF-8 text.
    Raises ValueError saying what is wrong: also for text that is nested too deeply for the parser."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except ValueError as error:  # also a number of more digits than Python converts
        raise ValueError(str(error)[:200]) from None
