"""Bundles: manifest and plan as values, a bundle on disk with its digests made right again, tables of samplers."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from bundle.adapter_bundle import write_adapters
from bundle.image_bundle import WEIGHT, image_plan
from bundle.packed_bundle import widened, write_packed
from bundle.target_bundle import write_targets
from bundle.tiny_bundle import write_tiny

from benchmarks.fuzz.mutate.data import havoc, number, of_files, pack, unpack
from benchmarks.fuzz.mutate.values import json_value, lines_of, words_of_line
from benchmarks.fuzz.reader import Mutate, Reader, Words, holds
from benchmarks.fuzz.readers import small
from ondevice.bundle.format import MANIFEST, Checker, dump_json, load_json
from ondevice.bundle.kernels import check_launches
from ondevice.bundle.made_file import dump_made, parse_made
from ondevice.bundle.manifest import parse_manifest
from ondevice.bundle.packed import LOCAL, read_directory
from ondevice.bundle.plan_file import dump_plan, parse_plan
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.bundle.weight_entry import WeightEntry
from ondevice.converters import build
from ondevice.diffusion.samplers import SamplerTable, make_table, run_table
from ondevice.errors import BundleError
from ondevice.lower import lower
from ondevice.lower.kernel_file import kernel_paths
from ondevice.lower.stored import leaves_of
from ondevice.plan import plan

_PLAN = "plans/tiny_width8.json"
_WEIGHTS = {
    "tiny/bias": WeightEntry("f16", (4,), "weights/tiny-000.bin", 0, 8),
    "picked": WeightEntry("i32", (4,), "weights/tiny-000.bin", 512, 16),
    "parts": WeightEntry("i8", (4,), "weights/tiny-000.bin", 1024, 4),
    "images/w": WeightEntry("f16", WEIGHT.shape, "weights/images-000.bin", 0, WEIGHT.nbytes),
}
_KERNELS = ("scale_add", "pick", "twice", "fetch")


def _tiny(*names: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_tiny(Path(folder) / "t")
        return [(bundle / name).read_bytes() for name in names]


def _manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        others = (write(Path(folder) / write.__name__) for write in (write_targets, write_adapters))
        return [*_tiny(MANIFEST), *((other / MANIFEST).read_bytes() for other in others)]


def _read_manifest(data: bytes, folder: Path) -> None:
    manifest = parse_manifest(load_json(data, MANIFEST))
    for target in manifest.targets:
        own = [(x.component, x.sizes) for x in Bundle(folder, manifest, target.name).plans]
        holds(all(own.count(place) == 1 for place in own), "a target has two plans of one size")
    for entry in manifest.weights.values():
        holds(entry.offset + entry.bytes <= manifest.files[entry.file].bytes, "a weight lies outside its file")
        if entry.made is not None:
            holds(entry.made.shape == entry.shape, "a weight is of another shape than what it is made of")
            holds(
                parse_made(Checker(MANIFEST), dump_made(entry.made), ()) == entry.made, "an expression is another one"
            )
    shapes = {leaf.weight: leaf.shape for x in manifest.weights.values() if x.made for leaf in leaves_of(x.made)}
    for adapter in manifest.adapters.values():
        for name, terms in adapter.changes.items():
            for factors in ([manifest.weights[key].shape for key in term.keys] for term in terms):
                holds(len(factors) == 1 or factors[0][1] == factors[1][0], "factors do not fit each other")
                holds(factors[0][:1] == shapes[name][:1], "a change does not fit its weight")


def _read_plan(data: bytes, _folder: Path) -> None:
    found = parse_plan(load_json(data, _PLAN), _PLAN, _WEIGHTS, _KERNELS)
    for operand in found.operands:
        viewed = operand if operand.view is None else found.operands[operand.view]
        holds(viewed.view is None and operand.nbytes <= viewed.nbytes, "an image leaves what it views")
        holds(
            operand.offset is None or operand.offset + operand.nbytes <= found.arena,
            "an operand lies outside the arena",
        )
    used = {call.kernel for call in found.dispatches}
    if used == set(range(len(found.kernels))):  # what nobody calls has no place in a plan that is written
        again = parse_plan(load_json(dump_plan(found, _PLAN), _PLAN), _PLAN, _WEIGHTS, _KERNELS)
        holds(again == found, "a plan is another one when it is written and read again")


@functools.cache
def _launches() -> tuple[bytes, dict[str, WeightEntry], dict[str, str]]:
    """A plan with this package's kernels; the weights that it names, and its kernels' digests."""
    program = lower(build(small.checkpoint()).graph("text_encoder", batch=1), "small", storage="f16")
    dispatch_plan = plan(program, storage="f16")
    weights = {}
    for operand in dispatch_plan.operands:
        if operand.weight is not None:
            weights[operand.weight] = WeightEntry(
                operand.dtype, operand.shape, "weights/small-000.bin", 0, operand.nbytes
            )
    names, paths = {kernel.file for kernel in dispatch_plan.kernels}, kernel_paths()
    return (
        dump_plan(dispatch_plan, _PLAN),
        weights,
        {name: hashlib.sha256(paths[name].read_bytes()).hexdigest() for name in names},
    )


def _read_launches(data: bytes, _folder: Path) -> None:
    """What launches of our own kernels mean is checked against their headers."""
    _, weights, kernels = _launches()
    check_launches(parse_plan(load_json(data, _PLAN), _PLAN, weights, kernels), _PLAN, kernels)


def _bundle_seeds() -> list[bytes]:
    names = (
        MANIFEST,
        _PLAN,
        "samplers/tiny_2.json",
        "scheduler/scheduler_config.json",
        "kernels/pick.cl",
        "tokenizers/tiny/vocab.json",
    )
    return [pack(dict(zip(names, _tiny(*names), strict=True)))]


def _read_bundle(data: bytes, folder: Path) -> None:
    """What a player does with it. The input's files replace those of a good bundle, whose digests are made to fit."""
    root = folder / "t"
    if not root.exists():
        write_tiny(root)
        shutil.copytree(root, folder / "master")
    given = unpack(data)
    names = [name for name in given if name != MANIFEST and name in _held(folder / "master")]
    for name in names:
        (root / name).write_bytes(given[name])
    (root / MANIFEST).write_bytes(_signed(given.get(MANIFEST, b""), {name: given[name] for name in names}))
    try:
        _use(root)
    finally:
        for name in names:
            shutil.copyfile(folder / "master" / name, root / name)


@functools.cache
def _held(folder: Path) -> frozenset[str]:
    """The files of a bundle."""
    return frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _signed(manifest: bytes, files: dict[str, bytes]) -> bytes:
    """The manifest with sizes and digests of the files that were changed, where it can be parsed."""
    try:
        value = json.loads(manifest)
        for name, data in files.items():
            value["files"][name] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return json.dumps(value).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return manifest


def _use(root: Path) -> None:
    bundle = open_bundle(root, verify=True)
    for entry in bundle.plans:
        plan = bundle.plan(entry.component, **entry.sizes)
        for kernel in plan.kernels:
            for dialect in bundle.manifest.preludes:
                bundle.source(kernel.file, dialect, kernel.defines)
        for operand in plan.operands:
            if operand.weight is not None:
                holds(bundle.array(operand.weight).nbytes == operand.nbytes, "a weight is not as large as its operand")
    dump_json(bundle.model, "model")
    for tokenizer in bundle.manifest.tokenizers:
        bundle.tokenizer_files(tokenizer)
    bundle.component_bytes()
    holds(isinstance(bundle.scheduler, dict), "the scheduler's config is no object")


def _packed_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        data = write_packed(Path(folder) / "t.odpack").read_bytes()
    return [data, widened(data)]


def _packed_header(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """Fields of local headers and of the directory, where the file has them still."""
    try:
        places = list(read_directory(data, "t").values())
    except BundleError:
        places = []
    if not places or rng.random() < 0.1:
        return havoc(data, rng, other, words)
    changed, directory = bytearray(data), places[-1].offset + places[-1].bytes
    for _ in range(rng.randint(1, 3)):
        begin = rng.choice(places).offset - rng.randrange(2, 2 * LOCAL.size)
        at = max(begin, 0) if rng.random() < 0.4 else rng.randrange(directory, len(data))
        width = rng.choice((1, 2, 4, 8))
        changed[at : at + width] = (number(rng, words) % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(changed)


def _read_packed(data: bytes, folder: Path) -> None:
    """Places lie in the file, and none is another's."""
    ends = [0]
    for place in sorted(read_directory(data, "t.odpack").values()):
        holds(ends[-1] <= place.offset and place.offset + place.bytes <= len(data), "a file lies on another")
        ends.append(place.offset + place.bytes)
    (folder / "t.odpack").write_bytes(data)
    _use(folder / "t.odpack")


def _table_seeds() -> list[bytes]:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return [
        json.dumps(make_table(name, 4, betas).to_json()).encode() for name in ("pndm", "euler_a", "dpmpp_2m", "unipc")
    ]


def _read_table(data: bytes, _folder: Path) -> None:
    """A table that is taken can be replayed, and written again."""
    table = SamplerTable.from_json(load_json(data, "samplers/x.json"), "samplers/x.json")
    holds(
        SamplerTable.from_json(json.loads(json.dumps(table.to_json(), allow_nan=False))) == table,
        "a table is another one when it is read again",
    )
    if len(table.calls) > 64:
        return
    ones: Any = np.ones((1, 1, 1, 1), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # coefficients of up to 1e30 multiply
        result = run_table(table, lambda sample, _: sample, table.start(ones, ones), lambda _: ones)
    holds(result.shape == ones.shape, "a replay gives another shape")


def _by_name(name: str) -> Mutate:
    return json_value if name.endswith(".json") else lines_of(words_of_line)


READERS = (
    Reader("manifest", _manifests, json_value, _read_manifest),
    Reader("plan", lambda: [*_tiny(_PLAN), dump_plan(image_plan(), _PLAN)], json_value, _read_plan),
    Reader("launches", lambda: [_launches()[0]], json_value, _read_launches),
    Reader("bundle", _bundle_seeds, of_files(_by_name), _read_bundle),
    Reader("packed", _packed_seeds, _packed_header, _read_packed),
    Reader("sampler_table", _table_seeds, json_value, _read_table),
)
