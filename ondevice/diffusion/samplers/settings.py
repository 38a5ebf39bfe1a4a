"""A scheduler_config.json and the caller's options, read key by key with types checked."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping
from typing import Any

from ondevice.errors import UsageError


def shown(value: object) -> str:
    """A value of any file for an error message: short, on one line, and never slow to make."""
    if isinstance(value, (dict, list, tuple)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if type(value) is int and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    return "".join(c if c.isprintable() else "?" for c in str(value)[:60])


class Settings:
    """Options win over the config; a key in neither takes the default that diffusers' class for this sampler has.

    So a config written for PNDM and used with Euler gives what `EulerDiscreteScheduler.from_config(pndm.config)` gives:
    PNDM's own defaults are not in the file and do not carry over. Every getter raises UsageError that names the key.
    """

    def __init__(self, sampler: str, config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.sampler = sampler
        self._config, self._options = config, options
        self._read: set[str] = set()

    def _get(self, key: str, default: Any) -> Any:
        self._read.add(key)
        return self._options.get(key, self._config.get(key, default))

    def fail(self, key: str, expected: str, fix: str = "") -> UsageError:
        """The error for `key`, ready to raise."""
        value = self._get(key, None)
        got = repr(shown(value)) if isinstance(value, str) else shown(value)
        got = got if key in self._options or key in self._config else "nothing"
        what = f"{key} cannot be used (got {got}, expected {expected})."
        if key in self._options:
            fix = fix or "give another value, or leave it out"
        else:
            fix = (
                fix or f"use another sampler, or mend {key} in the checkpoint's scheduler_config.json and convert again"
            )
        return UsageError(what, where=f"sampler {self.sampler}", fix=fix)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def choice(self, key: str, default: str | None, *allowed: str | None) -> str | None:
        value = self._get(key, default)
        if not (value is None or isinstance(value, str)) or value not in allowed:
            raise self.fail(key, " or ".join(str(a) for a in allowed))
        return value

    def number(self, key: str, default: float, low: float = -math.inf, high: float = math.inf) -> float:
        value = self.optional_number(key, default, low, high)
        if value is None:
            raise self.fail(key, "a number")
        return value

    def optional_number(
        self, key: str, default: float | None, low: float = -math.inf, high: float = math.inf
    ) -> float | None:
        value = self._get(key, default)
        if value is None:
            return None
        if (
            type(value) not in (int, float)
            or not low <= value <= high
            or (type(value) is int and abs(value) > sys.float_info.max)
        ):
            raise self.fail(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"an integer from {low} to {high}")
        return value

    def numbers(self, key: str, count: int, low: float, high: float) -> list[float] | None:
        """A list of `count` numbers, or None where the key is absent or null."""
        value = self._get(key, None)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            raise self.fail(key, f"{count} numbers")
        if not all(type(v) in (int, float) and low <= v <= high for v in value):
            raise self.fail(key, f"numbers from {low:g} to {high:g}")
        return [float(v) for v in value]

    def falling(self, key: str, count: int, low: float, high: float) -> list[float] | None:
        """`count` numbers, each below the one before, or None where the key is absent or null. One 0 more at the end,
        where every run ends, may be written."""
        value = self._get(key, None)
        if value is None:
            return None
        more = isinstance(value, list) and len(value) == count + 1 and value[-1] == 0
        if not isinstance(value, list) or len(value) != count + more:
            raise self.fail(key, f"{count} numbers, one per step", "give as many as there are steps")
        kept = value[:count]
        if not all(type(v) in (int, float) and low <= v <= high for v in kept) or any(
            after >= before for before, after in itertools.pairwise(kept)
        ):
            raise self.fail(key, f"falling numbers from {high:g} to {low:g}")
        return [float(v) for v in kept]

    def integers(self, key: str) -> frozenset[int]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(type(v) is int for v in value):
            raise self.fail(key, "a list of integers")
        return frozenset(value)

    def refuse(self, key: str, default: Any, *harmless: Any, fix: str = "") -> None:
        """Raises where `key` has a value that needs what a table cannot say or this package does not do."""
        if self._get(key, default) not in harmless:
            raise self.fail(key, " or ".join(str(value).lower() for value in harmless), fix)

    def refuse_betas(self) -> None:
        """Raises where the config is that of a model that was trained on a schedule of betas, which this sampler
        would draw without an error, and without a picture."""
        for key in ("beta_start", "beta_schedule", "trained_betas"):
            if self._config.get(key) is not None:
                raise self.fail(key, "none: this sampler is for models without betas", "use another sampler")

    def refuse_clipping(self, default: bool) -> None:
        """Clipping and thresholding are not linear, so a table of coefficients cannot hold them."""
        self.refuse("clip_sample", default, False, None)
        self.refuse("thresholding", False, False, None)

    def check_options(self) -> None:
        """Raises where an option was given that this sampler does not have."""
        unknown = sorted(set(self._options) - self._read)
        if unknown:
            raise UsageError(
                f"no such option (got {shown(unknown[0])}, expected {', '.join(sorted(self._read))})",
                where=f"sampler {self.sampler}",
                fix="leave it out or choose another sampler",
            )
