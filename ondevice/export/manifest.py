"""What an export says of itself: export.json, from which a folder of another format's files draws pictures.

Format, in words: docs/export.md. Everything is checked before it is given out: a folder is untrusted input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ondevice import __version__
from ondevice.bundle import format as f
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.errors import BundleError

MANIFEST = "export.json"
FORMAT, VERSION = "ondevice export", 1
DTYPES = ("float32", "float16", "int32", "int64")
MAX_ENTRIES, MAX_FILES, MAX_PORTS, MAX_HELD = 256, 16, 320, 100_000  # a text encoder gives all its states
MAX_NUMBERS = 1 << 28  # of a port: a picture of 8192x8192 has fewer


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a component as its files have it.

    Args:
        name, dtype: there.
        shape: there; 0 for a size that is free.
        axes: of our tensor, in the order in which the file has them; () where it is the same. The file's shape may
            join or split them, or repeat a first dimension of 1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A component at some sizes.

    Args:
        files: relative to the export; where there are several, each takes what those before it give.
        inputs, outputs: by our names.
        shapes: of our tensors, by our names; 0 for a size that is free.
        sizes: batch, and height and width in latent units; without those that are free.
    """

    component: str
    files: tuple[str, ...]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """export.json, checked.

    Args:
        kind: the format's name.
        options: what was chosen, for people.
        size: (width, height) in pixels where nobody names one.
        tokenizers: (folder, length) by the names that the pipeline calls them.
        holds: every file of the export but this one.
    """

    kind: str
    model: Mapping[str, Any]
    options: Mapping[str, Any]
    size: tuple[int, int]
    entries: tuple[Entry, ...]
    pipeline: PipelineSpec
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, tuple[str, int]]
    holds: tuple[str, ...]


def dump_manifest(
    kind: str,
    options: Mapping[str, Any],
    entries: Sequence[Entry],
    folder: Path,
    facts: Mapping[str, Any],
) -> bytes:
    """The file's text, for what is in `folder`.

    Args:
        facts: `model`, `size`, `pipeline`, `scheduler` and `tokenizers` as JSON.

    Raises:
        BundleError: something cannot be written as JSON.
    """
    holds = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    head = {"format": FORMAT, "version": VERSION, "producer": f"ondevice {__version__}", "kind": kind}
    content = head | {"options": dict(options), **facts, "entries": [asdict(entry) for entry in entries]}
    return f.dump_json(content | {"holds": holds}, MANIFEST)


def read_manifest(folder: Path, kinds: Sequence[str]) -> Manifest:
    """The manifest of an export.

    Raises:
        BundleError: there is none, or it is damaged, of another version, or names what is not there.
    """
    where = folder / MANIFEST
    try:
        if where.stat().st_size > f.MAX_JSON_BYTES:
            raise BundleError(f"is larger than {f.MAX_JSON_BYTES} bytes.", where=MANIFEST, fix=f.DAMAGED)
        data = where.read_bytes()
    except OSError as error:
        what = f"is not an export ({error.strerror or error})."
        raise BundleError(what, where=str(where), fix="name the folder that `convert --format` wrote") from None
    return parse_manifest(f.load_json(data, MANIFEST), folder, kinds)


def parse_manifest(value: Any, folder: Path, kinds: Sequence[str]) -> Manifest:
    """The manifest of parsed JSON; files that it names must be in `folder`. Raises BundleError."""
    check = f.Checker(MANIFEST)
    if type(value) is not dict or value.get("format") != FORMAT:
        raise BundleError(f'is not of an export (expected format "{FORMAT}").', where=MANIFEST, fix=f.DAMAGED)
    if value.get("version") != VERSION:
        what = f"has version {f.shown(value.get('version'))} (expected {VERSION})."
        raise BundleError(what, where=MANIFEST, fix="install a newer ondevice, or convert again")
    keys = ("kind", "model", "options", "size", "entries", "pipeline", "scheduler", "tokenizers", "holds")
    kind, model, options, size, entries, pipeline, scheduler, tokenizers, holds = check.record(value, keys)
    check.one_of(kind, kinds, "kind")
    held = [_file(check, one, ("holds", i)) for i, one in enumerate(check.array(holds, (1, MAX_HELD), "holds"))]
    rows = check.array(entries, (1, MAX_ENTRIES), "entries")
    known = [_entry(check, row, ("entries", i), frozenset(held)) for i, row in enumerate(rows)]
    places: set[tuple[Any, ...]] = set()
    for i, entry in enumerate(known):
        if (place := (entry.component, *sorted(entry.sizes.items()))) in places:
            check.fail(f"is a second {entry.component} at {dict(entry.sizes)}", "entries", i)
        places.add(place)
        for name in entry.files:
            path = folder / name
            if not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
                check.fail(f"names {name}, which is not there", "entries", i, "files")
    cutters = {}
    for name, row in check.table(tokenizers, 16, "tokenizers").items():
        check.identifier(name, "tokenizers")
        place, length = check.record(row, ("folder", "length"), "tokenizers", (name,))
        at = ("tokenizers", (name,))
        cutters[name] = (_file(check, place, (*at, "folder")), check.integer(length, 1, f.MAX_SIZE, *at, "length"))
    sampler = pipeline.get("sampler") if type(pipeline) is dict else None
    tables = [f"{sampler.get('name')}_{sampler.get('steps')}"] if type(sampler) is dict else []
    components = list(dict.fromkeys(entry.component for entry in known))
    spec = parse_pipeline(check, pipeline, components, list(cutters), tables)
    width, height = check.integers(size, spec.latents.scale, f.MAX_SIZE, (2, 2), "size")
    if width % spec.latents.scale or height % spec.latents.scale:
        check.fail(f"is {[width, height]} (expected multiples of {spec.latents.scale})", "size")
    about = check.table(model, 64, "model")
    for name in ("family", "source"):
        check.text(check.record(about, (name,), "model")[0], "model", name)
    return Manifest(
        kind=kind,
        model=about,
        options=check.table(options, 64, "options"),
        size=(width, height),
        entries=tuple(known),
        pipeline=spec,
        scheduler=check.table(scheduler, 256, "scheduler"),
        tokenizers=cutters,
        holds=tuple(held),
    )


At = tuple[str | int | tuple[str], ...]


def _file(check: f.Checker, value: Any, at: At) -> str:
    """A path inside the export, of names joined by slashes."""
    text = check.text(value, *at)
    for part in text.split("/"):
        check.name(part, *at)
        if part in (".", ".."):
            check.fail(f"is {f.shown(text)} (expected a path inside the export)", *at)
    return text


def _entry(check: f.Checker, value: Any, at: At, held: frozenset[str]) -> Entry:
    keys = ("component", "files", "inputs", "outputs", "shapes", "sizes")
    component, files, inputs, outputs, shapes, sizes = check.record(value, keys, *at)
    check.identifier(component, *at, "component")
    names = [
        _file(check, one, (*at, "files", i)) for i, one in enumerate(check.array(files, (1, MAX_FILES), *at, "files"))
    ]
    for i, name in enumerate(names):
        if name not in held and not any(one.startswith(f"{name}/") for one in held):
            check.fail(f"is {name}, which is not in holds", *at, "files", i)
    ports = [
        {
            check.identifier(name, *at, key): _port(check, row, (*at, key, (name,)))
            for name, row in check.table(table, MAX_PORTS, *at, key).items()
        }
        for key, table in (("inputs", inputs), ("outputs", outputs))
    ]
    ours = {}
    for name, shape in check.table(shapes, 2 * MAX_PORTS, *at, "shapes").items():
        ours[name] = _shape(check, shape, (*at, "shapes", (name,)))
    for key, table in zip(("inputs", "outputs"), ports, strict=True):
        for name, port in table.items():
            if name not in ours:
                check.fail(f"has no {name}", *at, "shapes")
            if port.axes and sorted(port.axes) != list(range(len(ours[name]))):
                check.fail(
                    f"is {list(port.axes)} (expected each axis of {list(ours[name])} once)", *at, key, (name,), "axes"
                )
            if not _holds(port.shape, ours[name], again=key == "inputs"):
                check.fail(f"is {list(port.shape)}, which {list(ours[name])} is not", *at, key, (name,), "shape")
    return Entry(component, tuple(names), ports[0], ports[1], ours, check.sizes(sizes, *at, "sizes"))


def _holds(theirs: tuple[int, ...], ours: tuple[int, ...], *, again: bool) -> bool:
    """Whether a tensor of ours has the numbers that a file's has, or, given `again` and again, some of them. Where
    sizes are free it is seen when it runs."""
    if 0 in theirs or 0 in ours:
        return True
    return prod(theirs) == prod(ours) or (again and ours[:1] == (1,) and prod(theirs) % prod(ours) == 0)


def _port(check: f.Checker, value: Any, at: At) -> Port:
    name, dtype, shape, axes = check.record(value, ("name", "dtype", "shape", "axes"), *at)
    order = check.integers(axes, 0, f.MAX_RANK - 1, (0, f.MAX_RANK), *at, "axes")
    return Port(
        check.text(name, *at, "name"),
        check.one_of(dtype, DTYPES, *at, "dtype"),
        _shape(check, shape, (*at, "shape")),
        order,
    )


def _shape(check: f.Checker, value: Any, at: At) -> tuple[int, ...]:
    shape = check.integers(value, 0, MAX_NUMBERS, (0, f.MAX_RANK), *at)
    if prod(size for size in shape if size) > MAX_NUMBERS:
        check.fail(f"is {list(shape)} (expected at most {MAX_NUMBERS} numbers)", *at)
    return shape
