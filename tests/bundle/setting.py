"""A change of a JSON file of a bundle, as a row of the golden refusals says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A change of one field of a JSON value, and of others with it; `...` deletes it."""

    path: tuple[str | int, ...]
    to: Any
    also: tuple[Setting, ...] = ()

    def __call__(self, whole: Any) -> None:
        value = whole
        for part in self.path[:-1]:
            value = value[part]
        if self.to is ...:
            del value[self.path[-1]]
        else:
            value[self.path[-1]] = self.to
        for other in self.also:
            other(whole)


def setting(*path: str | int, to: Any, also: tuple[Setting, ...] = ()) -> Setting:
    return Setting(path, to, also)
