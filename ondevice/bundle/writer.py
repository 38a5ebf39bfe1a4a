"""Write a bundle: all of it or nothing.

Everything goes into a hidden folder beside the target, which is renamed over it at the end. Weights are read, converted
and written one tensor at a time. What is written has passed the reader's checks.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ondevice import __version__
from ondevice.base.publish import check_space, foreign, hidden_folder, published, real, recover, system
from ondevice.bundle import format as f
from ondevice.bundle.carried import carried
from ondevice.bundle.kernels import check_launches
from ondevice.bundle.made_file import adaptable, dump_made, dump_modules, key_of
from ondevice.bundle.manifest import parse_manifest, parse_version
from ondevice.bundle.plan_file import parse_plan
from ondevice.bundle.ports import Seen, check_ports
from ondevice.bundle.reader import open_bundle
from ondevice.bundle.targets import check_serves
from ondevice.bundle.weights import WeightSource, in_shards, lay_out, shard_chunks, shard_sizes
from ondevice.bundle.writer_plans import TargetPlans, distinct_plans, readers, target_rows
from ondevice.errors import BundleError
from ondevice.graph.adapted import Changes, Modules
from ondevice.lower.kernel_file import load_all
from ondevice.lower.prelude import DIALECTS, prelude
from ondevice.lower.stored import leaves_of
from ondevice.plan.plan import Plan

MARGIN = 1 << 20  # bytes of disk beyond the files themselves: folders and block rounding
Written = Callable[[int, int], None]  # bytes written, bytes in all


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer of a bundle: its files by name, how many ids it makes of a text,
    and its kind ("bpe" or "unigram")."""

    files: Mapping[str, bytes]
    length: int
    kind: str = "bpe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a bundle is written from.

    Attributes:
        plans: for one kind of devices; none where there are `targets`.
        targets: of a bundle for several kinds, in the order in which a device takes the first that is its own; a device
            of no kind takes the last's plans.
        weights: by the keys that plans read them under.
        model: facts for people: `family`, `source` and any others.
        scheduler: the checkpoint's scheduler_config.json, as diffusers' pipeline has it.
        samplers: tables by name ("pndm_20").
        tokenizers: by the name that the pipeline calls them.
        pipeline: how the plans make a picture (docs/pipeline.md); None: they do not.
        rewrites: how each component's graph was rewritten, as the manifest says it; left out where it is not known.
        modules: the layers of the model that adapters may change.
        adapters: those that the bundle carries, by name: what each adds to weights of the checkpoint.
        kernels: texts by file name under kernels/ ("matmul.cl", "prelude/opencl.h"); None: the package's own, as
            the plans need.
    """

    weights: Mapping[str, WeightSource]
    model: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    samplers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokenizers: Mapping[str, TokenizerFiles] = field(default_factory=dict)
    pipeline: Mapping[str, Any] | None = None
    rewrites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kernels: Mapping[str, str] | None = None
    plans: Sequence[Plan] = ()
    targets: Sequence[TargetPlans] = ()
    modules: Modules = field(default_factory=dict)
    adapters: Mapping[str, Changes] = field(default_factory=dict)


def write_bundle(
    path: str | os.PathLike[str],
    contents: Contents,
    *,
    progress: Written | None = None,
    force: bool = False,
    shard_bytes: int = f.SHARD_BYTES,
) -> Path:
    """Write the folder `path` and return it.

    force: replace a bundle that is there. Anything else that is there is never touched.

    Raises BundleError where the target cannot be written or replaced, the disk is too full, or what was given is no
    valid bundle. Whatever is raised, by a weight's source too, or on Ctrl-C: nothing new is left and an old bundle
    stays as it was.
    """
    target = writable_target(path, force)
    written_plans, weights = distinct_plans(contents.targets or [TargetPlans("", (), contents.plans)]), contents.weights
    plans = [one.plan for one in written_plans]
    placed = lay_out(plans, weights, shard_bytes, readers(written_plans))
    made = adaptable(contents.modules, {key: weights[key].made for key in placed})
    read = frozenset(leaf.weight for one in made.values() for leaf in leaves_of(one))
    adapters = {}
    for name, changes in contents.adapters.items():
        adapters[name], factors = carried(name, changes, read)
        weights = {**weights, **factors}
        placed |= in_shards(factors, f"adapters/{name}", shard_bytes)
    small = {one.row["file"]: one.data for one in written_plans}
    small |= _kernel_files(plans, contents.kernels)
    small |= {
        f"tokenizers/{name}/{file}": data
        for name, one in contents.tokenizers.items()
        for file, data in one.files.items()
    }
    small[f.SCHEDULER] = f.dump_json(dict(contents.scheduler), f.SCHEDULER)
    small |= {
        f"samplers/{name}.json": f.dump_json(dict(table), f"samplers/{name}.json")
        for name, table in contents.samplers.items()
    }
    shards = shard_sizes(placed)

    sizes = {name: len(data) for name, data in small.items()} | shards
    manifest: dict[str, Any] = {
        "format": f.FORMAT,
        "version": f"{f.MAJOR}.{f.MINOR}",
        "producer": f"ondevice {__version__}",
        "model": dict(contents.model),
        "components": _components(plans, contents.rewrites),
        "plans": [one.row for one in written_plans],
        "kernels": sorted({kernel.file for plan in plans for kernel in plan.kernels}),
        "preludes": sorted(Path(name).stem for name in small if name.startswith("kernels/prelude/")),
        "tokenizers": {
            name: {"kind": one.kind, "length": one.length, "files": sorted(one.files)}
            for name, one in contents.tokenizers.items()
        },
        "samplers": list(contents.samplers),
        "pipeline": contents.pipeline,
        "weights": {
            key: {"dtype": e.dtype, "shape": list(e.shape), "file": e.file, "offset": e.offset, "bytes": e.bytes}
            | ({key_of(made[key]): dump_made(made[key])} if key in made else {})
            for key, e in placed.items()
        },
        "files": {name: {"bytes": size, "sha256": "0" * 64} for name, size in sizes.items()},
    }
    if contents.modules:
        manifest["modules"] = dump_modules(contents.modules)
    if adapters:
        manifest["adapters"] = adapters
    if contents.targets:
        texts = {name: small[f"kernels/{name}.cl"].decode() for name in manifest["kernels"]}
        manifest["targets"] = target_rows(contents.targets, written_plans, placed, texts)
    # Checked as a reader would, before the long part: what is refused here costs seconds, not minutes.
    with _ours():
        draft = parse_manifest(f.load_json(f.dump_json(manifest, f.MANIFEST), f.MANIFEST))
        seen: defaultdict[tuple[str, ...], Seen] = defaultdict(Seen)
        digests = {name: hashlib.sha256(small[f"kernels/{name}.cl"]).hexdigest() for name in draft.kernels}
        for entry in draft.plans:
            file = entry.file
            plan = parse_plan(f.load_json(small[file], file), file, draft.weights, draft.kernels)
            check_ports(plan, file, draft, seen[entry.targets])
            check_serves(plan, file, [target for target in draft.targets if target.name in entry.targets])
            check_launches(plan, file, digests)

    total, written = sum(sizes.values()), 0
    check_space(target.parent, total + MARGIN, "the bundle does")

    def report(size: int) -> None:
        nonlocal written
        written += size
        if progress:
            progress(written, total)

    with published(target, check=lambda there: _check_target(there, target, force)) as folder:
        for name in sizes:
            chunks = shard_chunks(name, placed, weights) if name in shards else iter((small[name],))
            manifest["files"][name]["sha256"] = _put(folder, name, chunks, report, total + MARGIN)
        _put(folder, f.MANIFEST, iter((f.dump_json(manifest, f.MANIFEST),)), lambda size: None, total + MARGIN)
        open_bundle(folder)
    return target


def writable_target(path: str | os.PathLike[str], force: bool) -> Path:
    """Where `path` leads. Raises BundleError unless a bundle can be written there:
    cheap, so that it is asked before the work, too."""
    with system(str(path)):
        target = real(Path(path))
        recover(target)
        _check_target(target, target, force)
    with hidden_folder(target):  # permissions do not say it all: disks are read-only, names too long
        return target


def _components(plans: list[Plan], rewrites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    dtypes: dict[str, str] = {}
    for plan in plans:
        if (known := dtypes.setdefault(plan.component, plan.dtype)) != plan.dtype:
            what = f"has plans of two dtypes (got {plan.dtype}, expected {known} as in its first plan)."
            raise BundleError(what, where=plan.component, fix="write one bundle per dtype")
    return {
        name: {"dtype": dtype} | ({"rewrite": rewrites[name]} if name in rewrites else {})
        for name, dtype in dtypes.items()
    }


def _kernel_files(plans: list[Plan], given: Mapping[str, str] | None) -> dict[str, bytes]:
    """Kernels that the plans call, and the preludes."""
    if given is None:
        given = {f"{name}.cl": kernel.text for name, kernel in load_all().items()}
        given |= {f"prelude/{dialect}.h": prelude(dialect) for dialect in DIALECTS}
    called = sorted({f"{kernel.file}.cl" for plan in plans for kernel in plan.kernels})
    for name in called:
        if name not in given:
            raise BundleError(
                "a plan calls this kernel, but its text was not given.", where=name, fix="give write_bundle its text"
            )
    names = called + sorted(name for name in given if name.startswith("prelude/"))
    return {f"kernels/{name}": given[name].encode() for name in names}


def _put(
    folder: Path, name: str, chunks: Iterator[bytes | memoryview], report: Callable[[int], None], needed: int
) -> str:
    """Write one file to the disk, report the bytes of each chunk, return the file's sha256.
    The whole bundle takes `needed` bytes."""
    digest = hashlib.sha256()
    with system(name, needed=needed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        handle = (folder / name).open("xb")
    try:
        for chunk in chunks:  # not inside `system`: what a weight's source raises is its own error
            with system(name, needed=needed):
                handle.write(chunk)
            digest.update(chunk)
            report(len(chunk))
        with system(name, needed=needed):
            handle.flush()
            os.fsync(handle.fileno())
    finally:
        with suppress(OSError):  # tries again to write what was refused; the refusal itself was raised above
            handle.close()
    return digest.hexdigest()


@contextmanager
def _ours() -> Iterator[None]:
    """The reader's refusals where nothing was copied or damaged: what we were given to write is wrong."""
    try:
        yield
    except BundleError as exc:
        raise BundleError(
            exc.what, where=exc.where, fix="report this: what is to be written is no valid bundle"
        ) from exc


def _check_target(there: Path, target: Path, force: bool) -> None:
    """Refuse what is not ours to replace: the folder `there`, which is at `target`, or was until a moment ago."""
    if not target.parent.is_dir():
        raise BundleError(
            f"the folder {target.parent} does not exist.",
            where=target.name,
            fix="create it, or choose another with --out",
        )
    if not there.exists() or (there.is_dir() and not any(there.iterdir())):
        return
    if not (there / f.MANIFEST).is_file():
        raise BundleError(
            "is there already and is not a bundle.", where=str(target), fix="choose another name with --out"
        )
    if not force:
        raise BundleError(
            "is there already.", where=str(target), fix="choose another name with --out, or replace it with --force"
        )
    try:
        value = f.load_json((there / f.MANIFEST).read_bytes(), f.MANIFEST)
        parse_version(value, oldest=1)
        ours = {f.MANIFEST, *value["files"]}
    except (BundleError, KeyError, TypeError, OSError) as exc:
        fix = "delete the folder yourself, or choose another name with --out"
        raise BundleError(
            "is there already and is not a bundle that this version can read.", where=str(target), fix=fix
        ) from exc
    if name := foreign(there, ours):
        fix = "move it elsewhere, or choose another name with --out"
        raise BundleError(f"cannot be replaced: {name} in it is not part of the bundle.", where=str(target), fix=fix)
