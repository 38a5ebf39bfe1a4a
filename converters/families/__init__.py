"""Model families, one kind per file: which networks they are made of, how these fit each other,
and what they are called.

A module of this folder that has `FAMILIES` adds them; nothing else lists families.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from ondevice.converters.families.family import Configs, Family
from ondevice.errors import CheckpointError, UsageError

__all__ = ["FAMILIES", "Family", "advice", "check_joints", "family_of", "prefixes", "roles"]


def _found() -> Iterator[Family]:
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        yield from getattr(importlib.import_module(f"{__name__}.{module}"), "FAMILIES", ())


FAMILIES: Mapping[str, Family] = {family.name: family for family in _found()}


def family_of(family: Family | str) -> Family:
    """`family` itself, or the one of that name. Raises UsageError for a name that we do not have."""
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        alike = difflib.get_close_matches(family, FAMILIES, cutoff=0.4) or ["sd15", "sdxl"]
        raise UsageError(
            f"no model family is called {family!r}.",
            where="family",
            fix=f"use {' or '.join(alike)}; ondevice convert --help names all",
        )
    return FAMILIES[family]


def roles() -> tuple[str, ...]:
    """The roles of all families."""
    return tuple(dict.fromkeys(role for family in FAMILIES.values() for role in family.roles))


def prefixes() -> tuple[str, ...]:
    """What weights' names begin with in the original single files of all families."""
    return tuple(dict.fromkeys(part.prefix for family in FAMILIES.values() for part in family.parts.values()))


def advice(kind: str | None, family: Family, what: str = "checkpoint") -> str:
    """What to do with a model of another `kind` than `family`:
    convert it as the family that it is of, where there is one."""
    own = (other for other in FAMILIES.values() if other.base is None)
    if names := [other.name for other in own if other.title == kind != family.title]:
        return f"convert it as the model that it is: ondevice convert {' or '.join(names)}"
    return f"use a {family.title} {what}"


def check_joints(family: Family, configs: Configs, where: str) -> None:
    """Refuse networks that do not fit each other, or do not make what the family makes.

    Raises CheckpointError naming both config keys, and what the model is where its numbers tell.
    """
    for joint in family.joints(configs):
        if joint.got != joint.expected:
            says = f": {joint.says}." if joint.says else "."
            what = f"the {joint.name} is not {joint.other} (got {joint.got}, expected {joint.expected}){says}"
            raise CheckpointError(what, where=where, fix=advice(family.kind(configs), family, "model"))
