"""`bundle.json` as data: what is in a bundle and where. The specification is docs/bundle.md, section "Manifest"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ondevice.bundle import format as f
from ondevice.bundle.adapters_file import AdapterEntry, parse_adapters
from ondevice.bundle.made_file import check_all, check_stored, key_of, parse_any, parse_modules
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import Path, parse_pipeline
from ondevice.bundle.targets import TargetEntry, parse_targets
from ondevice.bundle.weight_entry import WeightEntry
from ondevice.errors import BundleError
from ondevice.graph.adapted import Modules
from ondevice.lower.program import DTYPES
from ondevice.plan.plan import ALIGN

TOKENIZERS = ("bpe", "unigram")  # kinds: docs/tokenizer.md


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle other than the manifest."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A plan of the bundle, with the memory it needs known before it is read."""

    component: str
    sizes: dict[str, int]
    dtype: str
    file: str
    arena: int  # bytes
    weight_bytes: int
    targets: tuple[str, ...] = ()  # that it serves; of a bundle for one kind of devices none is named


@dataclass(frozen=True, slots=True)
class TokenizerEntry:
    """A tokenizer: how it cuts a text, how many ids it makes of one, and its files under tokenizers/NAME/."""

    kind: str
    length: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """What became of a fusion rule: how often it applied, and how many matches were left alone for which reason."""

    rule: str
    family: str
    applied: int
    skipped: dict[str, int]
    off: bool


@dataclass(frozen=True, slots=True)
class RewriteEntry:
    """How a component's graph was rewritten: nodes before and after, and every rule in order."""

    nodes: tuple[int, int]
    rules: tuple[RuleEntry, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The checked manifest. Everything it names is in `files`, and every weight lies inside its shard."""

    version: tuple[int, int]
    producer: str
    model: dict[str, Any]
    components: dict[str, str]  # name -> dtype
    plans: tuple[PlanEntry, ...]
    kernels: tuple[str, ...]  # kernels/<name>.cl
    preludes: tuple[str, ...]  # dialects: kernels/prelude/<dialect>.h
    tokenizers: dict[str, TokenizerEntry]
    samplers: tuple[str, ...]  # samplers/<name>.json
    pipeline: PipelineSpec | None  # None: plans that draw nothing by themselves
    weights: dict[str, WeightEntry]
    files: dict[str, FileEntry]
    rewrites: dict[str, RewriteEntry]  # by component, where it is known
    targets: tuple[TargetEntry, ...] = ()  # kinds of devices that it has plans for, where there are several
    modules: Modules = field(default_factory=dict)  # layers whose weights adapters may change
    adapters: dict[str, AdapterEntry] = field(default_factory=dict)


def parse_version(value: Any, oldest: int = f.MAJOR) -> tuple[int, int]:
    """Version of parsed JSON, or BundleError: not a bundle, or of another major version than this package reads.

    `oldest`: the lowest major version to take: an old bundle can be replaced, though not read.
    """
    if type(value) is not dict or value.get("format") != f.FORMAT:
        got = f.shown(value.get("format")) if type(value) is dict else f.shown(value)
        raise BundleError(
            f'is not the manifest of a bundle (got format {got}, expected "{f.FORMAT}").',
            where=f.MANIFEST,
            fix=f.DAMAGED,
        )
    check = f.Checker(f.MANIFEST)
    major, minor = map(int, check.match(value.get("version"), f.VERSION, "MAJOR.MINOR", "version").split("."))
    if not oldest <= major <= f.MAJOR:
        what = f"has format {major}.{minor} (expected {f.MAJOR}.x)."
        fix = (
            "install a newer ondevice" if major > f.MAJOR else "convert the checkpoint again; --force replaces this one"
        )
        raise BundleError(what, where=f.MANIFEST, fix=fix)
    return major, minor


def parse_manifest(value: Any) -> Manifest:
    """Manifest of parsed JSON. Raises BundleError with the field that is wrong."""
    version = parse_version(value)
    check = f.Checker(f.MANIFEST)
    keys = (
        "producer", "model", "components", "plans", "kernels", "preludes", "tokenizers", "samplers", "pipeline",
        "weights",
    )  # fmt: skip
    producer, model, components, plans, kernels, preludes, tokenizers, samplers, pipeline, weights = check.record(
        value, keys
    )
    check.text(producer, "producer")
    files = _files(check, check.record(value, ("files",))[0])

    dtypes, rewrites = {}, {}
    for name, row in check.table(components, f.MAX_PLANS, "components").items():
        check.identifier(name, "components")
        dtypes[name] = check.one_of(
            check.record(row, ("dtype",), "components", (name,))[0], DTYPES, "components", (name,), "dtype"
        )
        if "rewrite" in row:
            rewrites[name] = _rewrite(check, name, row["rewrite"])

    def listed(names: Any, most: int, at: Path, folder: str, ending: str = "") -> tuple[str, ...]:
        found = tuple(check.name(name, *at, i) for i, name in enumerate(check.array(names, (0, most), *at)))
        check.distinct(found, *at)
        for i, name in enumerate(found):
            if (file := f"{folder}/{name}{ending}") not in files:
                check.fail(f"is {f.shown(name)}, but {file} is not in files", *at, i)
        return found

    kernels = listed(kernels, f.MAX_KERNELS, ("kernels",), "kernels", ".cl")
    for i, name in enumerate(kernels):
        check.identifier(name, "kernels", i)  # it is the entry point's name too
    preludes = listed(preludes, 16, ("preludes",), "kernels/prelude", ".h")
    samplers = listed(samplers, f.MAX_FILES, ("samplers",), "samplers", ".json")
    cutters = {}
    for name, row in check.table(tokenizers, 16, "tokenizers").items():
        at: Path = ("tokenizers", (name,))
        check.identifier(name, "tokenizers")
        kind, length, names = check.record(row, ("kind", "length", "files"), *at)
        check.one_of(kind, TOKENIZERS, *at, "kind")
        check.integer(length, 1, f.MAX_SIZE, *at, "length")
        cutters[name] = TokenizerEntry(kind, length, listed(names, 64, (*at, "files"), f"tokenizers/{name}"))
    if f.SCHEDULER not in files:
        check.fail(f"has no {f.SCHEDULER}", "files")
    table = {
        key: _weight(check, key, row, files) for key, row in check.table(weights, f.MAX_WEIGHTS, "weights").items()
    }
    modules = parse_modules(check, value["modules"]) if "modules" in value else {}
    check_all(check, table, modules)
    adapters = parse_adapters(check, value["adapters"], table) if "adapters" in value else {}
    targets = parse_targets(check, value["targets"]) if "targets" in value else ()
    names = tuple(target.name for target in targets)
    entries = tuple(
        _plan(check, row, i, dtypes, files, names)
        for i, row in enumerate(check.array(plans, (1, f.MAX_PLANS), "plans"))
    )
    known: set[tuple[Any, ...]] = set()
    owners: dict[str, int] = {}  # a plan that was read is known by its file
    for i, entry in enumerate(entries):
        for target in entry.targets or ("",):
            if (place := (target, entry.component, *sorted(entry.sizes.items()))) in known:
                whose = f" for {target}" * bool(target)
                check.fail(f"is a second plan of {entry.component} at {entry.sizes}{whose}", "plans", i)
            known.add(place)
        if (owner := owners.setdefault(entry.file, i)) != i:
            check.fail(f"is {f.shown(entry.file)}, as in plans[{owner}] (expected another)", "plans", i, "file")
    spec = None if pipeline is None else parse_pipeline(check, pipeline, dtypes, cutters, samplers)
    return Manifest(
        version=version,
        producer=producer,
        model=_model(check, model),
        components=dtypes,
        plans=entries,
        kernels=kernels,
        preludes=preludes,
        tokenizers=cutters,
        samplers=samplers,
        pipeline=spec,
        weights=table,
        files=files,
        rewrites=rewrites,
        targets=targets,
        modules=modules,
        adapters=adapters,
    )


def _files(check: f.Checker, value: Any) -> dict[str, FileEntry]:
    files = {}
    for name, row in check.table(value, f.MAX_FILES, "files").items():
        parts = name.split("/")
        if len(parts) > 3 or not all(f.NAME.fullmatch(part) for part in parts) or name.casefold() == f.MANIFEST:
            check.fail(
                f"names {f.shown(name)} (expected a path of at most three plain names inside the bundle)", "files"
            )
        size, digest = check.record(row, ("bytes", "sha256"), "files", (name,))
        check.integer(size, 0, f.MAX_BYTES, "files", (name,), "bytes")
        check.match(digest, f.SHA256, "64 hexadecimal digits", "files", (name,), "sha256")
        files[name] = FileEntry(size, digest)
    check.distinct(tuple(files), "files")
    return files


def _weight(check: f.Checker, key: str, row: Any, files: dict[str, FileEntry]) -> WeightEntry:
    at = ("weights", (key,))
    check.text(key, "weights")
    dtype, shape, file, offset, size = check.record(row, ("dtype", "shape", "file", "offset", "bytes"), *at)
    check.one_of(dtype, DTYPES, *at, "dtype")
    shape = check.shape(shape, dtype, *at, "shape")
    if check.integer(size, 1, f.MAX_BYTES, *at, "bytes") != f.nbytes(shape, dtype):
        check.fail(f"is {size} (expected {f.nbytes(shape, dtype)} for {dtype}{list(shape)})", *at, "bytes")
    if type(file) is not str or not file.startswith("weights/") or file not in files:
        check.fail(f"is {f.shown(file)} (expected a file of weights/ in files)", *at, "file")
    check.integer(offset, 0, f.MAX_BYTES, *at, "offset")
    if offset % ALIGN or offset + size > files[file].bytes:
        check.fail(
            f"is {offset} (expected a multiple of {ALIGN} with {size} bytes before {files[file].bytes})", *at, "offset"
        )
    made = parse_any(check, row, at)
    if made is not None:
        check_stored(check, made, dtype, shape, (*at, key_of(made)))
    return WeightEntry(dtype, shape, file, offset, size, made)


def _plan(
    check: f.Checker,
    row: Any,
    i: int,
    components: dict[str, str],
    files: dict[str, FileEntry],
    targets: tuple[str, ...],
) -> PlanEntry:
    at = ("plans", i)
    component, sizes, file, arena, weight = check.record(
        row, ("component", "sizes", "file", "arena", "weight_bytes"), *at
    )
    check.one_of(component, components, *at, "component")
    sizes = check.sizes(sizes, *at, "sizes")
    if type(file) is not str or not file.startswith("plans/") or file not in files:
        check.fail(f"is {f.shown(file)} (expected a file of plans/ in files)", *at, "file")
    check.integer(arena, 0, f.MAX_BYTES, *at, "arena")
    check.integer(weight, 0, f.MAX_BYTES, *at, "weight_bytes")
    served = targets
    if "targets" in row:
        listed = check.array(row["targets"], (1, f.MAX_TARGETS), *at, "targets")
        served = tuple(check.one_of(name, targets, *at, "targets", k) for k, name in enumerate(listed))
        check.distinct(served, *at, "targets")
    return PlanEntry(component, sizes, components[component], file, arena, weight, served)


def _model(check: f.Checker, value: Any) -> dict[str, Any]:
    model = check.table(value, 256, "model")
    for key in ("family", "source"):
        check.text(check.record(model, (key,), "model")[0], "model", key)
    return model


def _rewrite(check: f.Checker, component: str, value: Any) -> RewriteEntry:
    at = ("components", (component,), "rewrite")
    nodes, rules = check.record(value, ("nodes", "rules"), *at)
    before, after = check.integers(nodes, 0, f.MAX_COUNT, (2, 2), *at, "nodes")
    rows = check.array(rules, (0, f.MAX_RULES), *at, "rules")
    return RewriteEntry((before, after), tuple(_rule(check, row, (*at, "rules", i)) for i, row in enumerate(rows)))


def _rule(check: f.Checker, row: Any, at: tuple[str | int | tuple[str], ...]) -> RuleEntry:
    rule, family, applied, skipped, off = check.record(row, ("rule", "family", "applied", "skipped", "off"), *at)
    check.identifier(rule, *at, "rule")
    check.name(family, *at, "family")
    check.integer(applied, 0, f.MAX_COUNT, *at, "applied")
    for reason, count in check.table(skipped, f.MAX_REASONS, *at, "skipped").items():
        check.text(reason, *at, "skipped")
        check.integer(count, 1, f.MAX_COUNT, *at, "skipped", (reason,))
    if type(off) is not bool:
        check.fail(f"is {f.shown(off)} (expected true or false)", *at, "off")
    return RuleEntry(rule, family, applied, skipped, off)
