"""Which class a folder's scheduler is of.
diffusers takes the class from model_index.json and the numbers from scheduler_config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.converters.read.json_text import read_object
from ondevice.errors import CheckpointError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,79}")


def read_scheduler(root: Path, config: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """`config`, a scheduler_config.json, with the class that the folder's model_index.json names, as `_class_name`.

    A class of another library than diffusers is named after it, "library.Class". Where there is no
    model_index.json, or it names no class, the config's own stays. `notes` gets a sentence where the two differ, or
    the index cannot be read.
    """
    path, own = root / "model_index.json", _plain(config.get("_class_name"))
    if not path.exists():
        return dict(config)
    try:
        given = read_object(path).get("scheduler")
    except CheckpointError as error:
        notes.append(
            f"model_index.json names no scheduler: {error.what.removesuffix('.')}; "
            "the class in scheduler_config.json is taken"
        )
        return dict(config)
    if not (
        isinstance(given, list)
        and len(given) == 2
        and all(isinstance(part, str) and _NAME.fullmatch(part) for part in given)
    ):
        notes.append(
            "model_index.json names no scheduler as [library, class]; the class in scheduler_config.json is taken"
        )
        return dict(config)
    library, name = given[0], _plain(given[1])
    name = name if library.partition(".")[0] == "diffusers" else f"{library}.{name}"
    if own and own != name:
        notes.append(
            f"scheduler_config.json is of {own[:80]!r} and model_index.json names {name}, "
            "which is taken, as diffusers does"
        )
    return dict(config) | {"_class_name": name}


def _plain(name: object) -> str:
    """A class by its name for torch; diffusers once had a second set of classes for Flax,
    which read the same configs."""
    return name.removeprefix("Flax") if isinstance(name, str) else ""
