"""Adapters on a bundle that is there, switched on and off between pictures: docs/adapters.md.

Reference: `load_lora_weights`, `set_adapters` and `unload_lora_weights` of diffusers' pipelines (loaders/lora_base.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ondevice.bundle.changed import ChangedWeights, changes_of
from ondevice.bundle.reader import Bundle
from ondevice.errors import UsageError
from ondevice.graph.adapted import Change, Changes
from ondevice.run.source import Changed

LARGEST = 1e4  # of a scale
Scale = float | Mapping[str, float]


class Changing(Protocol):
    """A session whose weights can be changed (`ondevice.run.session.Session`)."""

    def change_weights(self, changed: Changed | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that was loaded: what it changes, how much where nobody says, and how many of its modules are for
    weights of the model; `rest` says which are not, None where all are; `files` are what it was read from."""

    name: str
    changes: Changes
    scale: float
    modules: int
    applied: int
    rest: str | None = None
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.applied} of {self.modules} applied"


def open_adapter(bundle: Bundle, source: str | os.PathLike[str], name: str | None = None) -> Loaded:
    """What a file holds for a bundle's model, or what the bundle carries under that name.

    Args:
        name: what it is called; by default that of the carried one, else the file's without its ending.

    Raises:
        UsageError: there is no such thing, or the bundle does not say how its weights are made.
        CheckpointError: the file is no adapter, or for another model.
    """
    carried, text = bundle.manifest.adapters, os.fspath(source)
    if text in carried:
        count = len(carried[text].changes)
        return Loaded(name or text, changes_of(bundle, carried[text]), carried[text].scale, count, count)
    if not bundle.manifest.modules:
        what = "it does not say how its weights come from a checkpoint's, so no adapter can change them."
        raise UsageError(what, where=bundle.path.name, fix="convert the checkpoint again, from weights")
    path = Path(source).expanduser()
    if not path.exists():
        have = f"it carries {', '.join(carried)}" if carried else "it carries none"
        what = f"there is no such file, and no adapter of that name in {bundle.path.name} ({have})."
        raise UsageError(what, where=text[:200], fix="give a .safetensors file")
    from ondevice.converters.read.adapters import read_adapter  # a second to import, which other pictures need not wait

    found = read_adapter(path, bundle.manifest.modules)
    read = tuple(sorted(one for one in path.iterdir() if one.is_file())) if path.is_dir() else (path,)
    return Loaded(name or path.stem, found.changes, 1.0, found.modules, found.applied, found.rest(), read)


class Adapters:
    """The adapters of one bundle on one session.

    Args:
        bundle: says how its weights come from the checkpoint's; and carries some adapters itself.
    """

    def __init__(self, bundle: Bundle, session: Changing) -> None:
        self._bundle, self._session = bundle, session
        self._loaded: dict[str, Loaded] = {}
        self._used: dict[str, Scale] = {}

    @property
    def loaded(self) -> Sequence[str]:
        """The names of all that were loaded."""
        return list(self._loaded)

    @property
    def used(self) -> Mapping[str, Scale]:
        """Those that are in use, with their scales, in order."""
        return dict(self._used)

    def open(self, source: str | os.PathLike[str], name: str | None = None) -> Loaded:
        """`open_adapter` of the bundle; without a name it is `default_0`, `default_1`..., as diffusers counts."""
        return open_adapter(self._bundle, source, name or f"default_{len(self._loaded)}")

    def load(self, adapter: Loaded) -> None:
        """Keep an adapter under its name, and use it alone. Raises UsageError where the name is taken."""
        if adapter.name in self._loaded:
            what = f"an adapter called {adapter.name!r} is loaded already."
            raise UsageError(what, where="adapter_name", fix="give another name, or unload_lora_weights first")
        self._apply({adapter.name: adapter.scale}, {**self._loaded, adapter.name: adapter})
        self._loaded[adapter.name] = adapter

    def use(self, names: Sequence[str], scales: Sequence[Scale | None]) -> None:
        """Use these from now on, and no others; each at its scale, of None at its own.

        Raises:
            UsageError: a name is not loaded or there twice, there are not as many scales as names, or one is none.
        """
        if len(names) != len(scales):
            what = f"{len(names)} names and {len(scales)} weights (expected as many of each)."
            raise UsageError(what, where="adapter_weights", fix="give a weight for each name")
        if twice := next((name for name in names if list(names).count(name) > 1), None):
            raise UsageError(f"{twice!r} is there twice.", where="adapter_names", fix="name each once")
        for name in names:
            if name not in self._loaded:
                have = ", ".join(map(repr, self._loaded)) or "none"
                what = f"{name!r} is not loaded (got {name!r}, expected one of {have})."
                raise UsageError(what, where="adapter_names", fix="load it with load_lora_weights")
        given = zip(names, scales, strict=True)
        used = {name: self._loaded[name].scale if scale is None else self._checked(scale) for name, scale in given}
        self._apply(used, self._loaded)

    def unload(self) -> None:
        """Draw with the bundle's own weights again, and forget all adapters."""
        self._apply({}, {})
        self._loaded.clear()

    def _checked(self, scale: Scale) -> Scale:
        parts = self._bundle.manifest.modules
        for part, one in scale.items() if isinstance(scale, Mapping) else [("", scale)]:
            if part and part not in parts:
                what = f"there is no part {part!r} (expected {', '.join(parts)})."
                raise UsageError(what, where="adapter_weights", fix="name the model's parts, each with a number")
            if (
                isinstance(one, bool)
                or not isinstance(one, (int, float))
                or not math.isfinite(one)
                or abs(one) > LARGEST
            ):
                what = f"{one!r} is no scale (expected a number such as 0.8)."
                raise UsageError(what, where="adapter_weights", fix="use 1")
        return scale

    def _apply(self, used: Mapping[str, Scale], loaded: Mapping[str, Loaded]) -> None:
        terms: dict[str, list[tuple[float, Change]]] = {}
        for name, scale in used.items():
            for leaf, changes in loaded[name].changes.items():
                part = leaf.partition("/")[0]
                factor = float(scale.get(part, 1.0) if isinstance(scale, Mapping) else scale)
                if factor:
                    terms.setdefault(leaf, []).extend((factor, change) for change in changes)
        self._session.change_weights(ChangedWeights(self._bundle, terms) if terms else None)
        self._used = dict(used)

    def parameters(self) -> dict[str, list[str]]:
        """What a picture's parameters say of those in use; nothing where there are none."""
        said = [f"{name}:{_said(scale)}" for name, scale in self._used.items()]
        return {"lora": said} if said else {}


def changed_keys(bundle: Bundle, adapters: Sequence[Loaded]) -> frozenset[str]:
    """The stored weights that these change, by key: they take memory beside the bundle's."""
    terms = {leaf: [(1.0, change) for change in changes] for one in adapters for leaf, changes in one.changes.items()}
    return ChangedWeights(bundle, terms).keys


def _said(scale: Scale) -> str:
    if isinstance(scale, Mapping):
        return " ".join(f"{part}={one:g}" for part, one in scale.items())
    return f"{scale:g}"
