"""Open a bundle. Everything is checked before it is given out: a bundle is untrusted input.

`open_bundle` checks the manifest and that each file is there, inside the folder, with its size. Small files (plans,
kernels, tokenizer, tables) are checked against their sha256 when read; shards of weights, which are large, only with
`verify=True`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.base.publish import recover
from ondevice.bundle import format as f
from ondevice.bundle.files import Files, Folder
from ondevice.bundle.kernels import check_launches, check_ours
from ondevice.bundle.manifest import Manifest, PlanEntry, TokenizerEntry, parse_manifest
from ondevice.bundle.packed import HEAD, Packed
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.plan_file import parse_plan, weight_bytes
from ondevice.bundle.ports import STAGE_SIZES, Seen, check_ports, check_stages
from ondevice.bundle.targets import check_serves, target_for
from ondevice.bundle.weights import STORED
from ondevice.errors import BundleError, UsageError
from ondevice.plan.plan import Plan


class Bundle:
    """A checked bundle. Plans, kernels' texts and shards are read when first asked for, and kept.

    Of a bundle for several kinds of devices its plans are those of one `target`: the last that it names, unless
    `for_target` or `for_device` is asked for another.
    """

    def __init__(self, files: Files, manifest: Manifest, target: str = "") -> None:
        self.files = files
        self.manifest = manifest
        self.target = target or (manifest.targets[-1].name if manifest.targets else "")
        self._plans: dict[str, Plan] = {}
        self._seen = Seen()  # types of values, on which plans of different components must agree
        self._shards: dict[str, np.ndarray] = {}
        self._texts: dict[str, str] = {}  # a kernel file is built with many sets of defines

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The bundle's folder, or its file."""
        return self.files.path

    @property
    def model(self) -> dict[str, Any]:
        """Facts of the model for people: family, source, target."""
        return self.manifest.model

    @property
    def pipeline(self) -> PipelineSpec:
        """How the plans make a picture. Raises BundleError where the bundle says nothing of it."""
        if self.manifest.pipeline is None:
            raise BundleError(
                "it holds plans, and no pipeline that draws with them.",
                where=str(self.path),
                fix="convert a whole checkpoint",
            )
        return self.manifest.pipeline

    @property
    def plans(self) -> tuple[PlanEntry, ...]:
        """The plans it has for its target: component, sizes, dtype, and bytes of arena and weights."""
        return tuple(entry for entry in self.manifest.plans if not entry.targets or self.target in entry.targets)

    def for_target(self, name: str) -> Bundle:
        """The bundle with the plans of another target. Raises UsageError where it names no such target."""
        names = [target.name for target in self.manifest.targets]
        if name not in names:
            have = (
                f"it has those of {', '.join(names)}" if names else "it is for one kind of devices, so none has a name"
            )
            what = f"{self.path.name} has no plans of {name} ({have})."
            raise UsageError(what, where="--plans", fix="name one of these" if names else "leave it out")
        return Bundle(self.files, self.manifest, name)

    def for_device(self, facts: Mapping[str, Any], dialect: str) -> Bundle:
        """The bundle with the plans that a device takes, whose `facts` and `dialect` are given.
        Raises DeviceError where it can run none."""
        targets = self.manifest.targets
        return self.for_target(target_for(targets, facts, dialect).name) if targets else self

    @property
    def components(self) -> dict[str, str]:
        """Storage dtype of each component."""
        return self.manifest.components

    def plan(self, component: str, **sizes: int) -> Plan:
        """The plan of a component at exactly these sizes.
        Raises BundleError, listing what there is, where it has none."""
        entry = self._entry(component, sizes)
        if entry.file not in self._plans:
            data = self.read(entry.file, f.MAX_JSON_BYTES)
            plan = parse_plan(f.load_json(data, entry.file), entry.file, self.manifest.weights, self.manifest.kernels)
            for field in ("component", "sizes", "dtype", "arena"):
                if getattr(plan, field) != (expected := getattr(entry, field)):
                    what = f"{field} is {getattr(plan, field)} (expected {expected} as in {f.MANIFEST})."
                    raise BundleError(what, where=entry.file, fix=f.DAMAGED)
            if weight_bytes(plan) != entry.weight_bytes:
                what = f"uses {weight_bytes(plan)} bytes of weights (expected {entry.weight_bytes} as in {f.MANIFEST})."
                raise BundleError(what, where=entry.file, fix=f.DAMAGED)
            check_ports(plan, entry.file, self.manifest, self._seen)
            check_serves(plan, entry.file, [x for x in self.manifest.targets if x.name in entry.targets])
            files = self.manifest.files
            check_launches(
                plan, entry.file, {name: files[f"kernels/{name}.cl"].sha256 for name in self.manifest.kernels}
            )
            self._plans[entry.file] = plan
        return self._plans[entry.file]

    def require_own_kernels(self) -> None:
        """Refuse kernels that are not this package's: what runs is then known, whoever wrote the bundle.
        Raises BundleError."""
        check_ours((name, entry.sha256) for name, entry in self.manifest.files.items())

    def stages(self, height: int, width: int, rows: int) -> list[Plan]:
        """The plans of a decoder in bands of `rows` rows for latents of this size, in order; none where it has none.

        Raises:
            BundleError: a plan is damaged, or they do not fit each other.
        """
        decoder = self.pipeline.decoder.component
        wanted = {"batch": 1, "height": height, "width": width, "rows": rows}
        sizes = [
            entry.sizes for entry in self.plans if entry.component == decoder and entry.sizes.keys() == STAGE_SIZES
        ]
        found: list[Plan] = []
        while (one := wanted | {"stage": len(found) + 1}) in sizes:
            found.append(self.plan(decoder, **one))
        if found:
            check_stages(found, self.pipeline)
        return found

    def _entry(self, component: str, sizes: Mapping[str, int]) -> PlanEntry:
        entries = [entry for entry in self.plans if entry.component == component]
        if not entries:
            have = ", ".join(sorted({entry.component for entry in self.plans}))
            raise BundleError(
                f"has no {component} (it has {have}).", where=self.path.name, fix="convert the checkpoint again"
            )
        for entry in entries:
            if entry.sizes == sizes:
                return entry
        have = "; ".join(_sizes(entry.sizes) for entry in entries)
        scale = self.manifest.pipeline.latents.scale if self.manifest.pipeline else 0
        pixels = (
            f"{sizes['width'] * scale}x{sizes['height'] * scale}"
            if scale and {"width", "height"} <= set(sizes)
            else "WIDTHxHEIGHT"
        )
        what = f"has no plan of {component} for {_sizes(sizes)} (it has {have})."
        raise BundleError(what, where=self.path.name, fix=f"convert the checkpoint again with `--size {pixels}`")

    def weight(self, key: str) -> tuple[str, int, int]:
        """(shard, offset, bytes) of a weight. Raises BundleError for a key it does not have."""
        if (entry := self.manifest.weights.get(key)) is None:
            raise BundleError(f"has no weight {f.shown(key)}.", where=self.path.name, fix=f.DAMAGED)
        return entry.file, entry.offset, entry.bytes

    def shard(self, name: str) -> np.ndarray:
        """All bytes of a file of weights: uint8, read-only, mapped, so that pages are read when they are touched."""
        if name not in self._shards:
            if not name.startswith("weights/"):
                raise BundleError(
                    f"{f.shown(name)} is not a file of weights.",
                    where=self.path.name,
                    fix="ask `weight(key)` for the name",
                )
            self._check(name)
            self._shards[name] = self.files.map(name)
        return self._shards[name]

    def unmap(self, name: str) -> None:
        """Forget a file of weights; its pages go once nobody holds an array of it, or touches one."""
        if self._shards.pop(name, None) is not None:
            self.files.forget(name)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Have bytes of a file of weights in memory now. Raises BundleError where it was cut or changed since it was
        mapped."""
        self.files.fetch(name, start, nbytes)

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Begin to read these bytes from the disk."""
        self.files.expect(name, start, nbytes)

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Let the pages of these bytes leave memory; who touches them reads them again."""
        self.files.drop(name, start, nbytes)

    def array(self, key: str) -> np.ndarray:
        """A weight as an array: a read-only view of the mapped shard."""
        shard, offset, size = self.weight(key)
        entry = self.manifest.weights[key]
        return self.shard(shard)[offset : offset + size].view(STORED[entry.dtype]).reshape(entry.shape)

    def kernel_source(self, file: str) -> str:
        """Text of a kernel (`Kernel.file`: a file's stem), without prelude and defines."""
        if file not in self.manifest.kernels:
            raise BundleError(f"has no kernel {f.shown(file)}.", where=self.path.name, fix=f.DAMAGED)
        return self._text(f"kernels/{file}.cl")

    def prelude(self, dialect: str) -> str:
        """Text of a dialect's prelude: "opencl" or "metal"."""
        if dialect not in self.manifest.preludes:
            have = ", ".join(self.manifest.preludes) or "none"
            fix = "use a device of one of these dialects, or convert again"
            raise BundleError(
                f"has no kernels for the dialect {f.shown(dialect)} (it has {have}).", where=self.path.name, fix=fix
            )
        return self._text(f"kernels/prelude/{dialect}.h")

    def source(self, file: str, dialect: str, defines: Mapping[str, int] | tuple[tuple[str, int], ...]) -> str:
        """The program to build: defines, prelude, then the kernel with its own line numbers."""
        flags = "".join(f"#define {name} {value}\n" for name, value in sorted(dict(defines).items()))
        return f'{flags}{self.prelude(dialect)}\n#line 1 "{file}.cl"\n{self.kernel_source(file)}'

    def port_zeros(self, component: str, sizes: Mapping[str, int], port: str) -> np.ndarray:
        """Zeros of the shape and dtype of an input or output of a plan. Raises BundleError as `plan`."""
        plan = self.plan(component, **sizes)
        found = next(plan.operands[i] for i in (*plan.inputs, *plan.outputs) if plan.operands[i].name == port)
        return np.zeros(found.shape, STORED[found.dtype])

    @property
    def tokenizers(self) -> Mapping[str, TokenizerEntry]:
        """Its tokenizers, by the names that the pipeline calls them."""
        return self.manifest.tokenizers

    def tokenizer_files(self, name: str) -> dict[str, bytes]:
        """A tokenizer's files by name (vocab.json, merges.txt...). Raises BundleError where there is none of `name`."""
        if name not in self.manifest.tokenizers:
            raise BundleError(f"has no tokenizer {f.shown(name)}.", where=self.path.name, fix=f.DAMAGED)
        return {
            file: self.read(f"tokenizers/{name}/{file}", f.MAX_JSON_BYTES)
            for file in self.manifest.tokenizers[name].files
        }

    @property
    def scheduler(self) -> dict[str, Any]:
        """The checkpoint's scheduler_config.json."""
        return self._table(f.SCHEDULER)

    def sampler(self, name: str) -> dict[str, Any]:
        """A sampler's table of coefficients."""
        if name not in self.manifest.samplers:
            have = ", ".join(self.manifest.samplers) or "none"
            raise BundleError(
                f"has no sampler table {f.shown(name)} (it has {have}).", where=self.path.name, fix="use one of these"
            )
        return self._table(f"samplers/{name}.json")

    def component_bytes(self) -> dict[str, int]:
        """Bytes of weights that each component keeps on the device."""
        return {
            name: max((p.weight_bytes for p in self.plans if p.component == name), default=0)
            for name in self.components
        }

    def verify(self) -> None:
        """Check the sha256 of every file and read every plan, kernel and table. Raises BundleError."""
        for name, entry in self.manifest.files.items():
            self._check(name)
            digest = hashlib.sha256()
            for chunk in self.files.chunks(name):
                digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                _wrong_digest(name)
        for target in [entry.name for entry in self.manifest.targets] or [""]:
            Bundle(self.files, self.manifest, target)._verify_plans()
        for kernel in self.manifest.kernels:
            self.kernel_source(kernel)
        for dialect in self.manifest.preludes:
            self.prelude(dialect)
        for sampler in self.manifest.samplers:
            self.sampler(sampler)
        _ = self.scheduler

    def _verify_plans(self) -> None:
        for plan in self.plans:
            self.plan(plan.component, **plan.sizes)
            drawn = self.manifest.pipeline and plan.component == self.pipeline.decoder.component
            if drawn and plan.sizes.keys() == STAGE_SIZES and plan.sizes["stage"] == 1:
                self.stages(plan.sizes["height"], plan.sizes["width"], plan.sizes["rows"])

    def read(self, name: str, limit: int) -> bytes:
        """A small file of the bundle, checked against its sha256. Raises BundleError above `limit` bytes."""
        entry = self.manifest.files[name]
        if entry.bytes > limit:
            raise BundleError(
                f"is too large (got {entry.bytes} bytes, expected at most {limit}).", where=name, fix=f.DAMAGED
            )
        self._check(name)
        data = self.files.read(name)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            _wrong_digest(name)
        return data

    def _text(self, name: str) -> str:
        try:
            if name not in self._texts:
                self._texts[name] = self.read(name, f.MAX_TEXT_BYTES).decode("utf-8")
            return self._texts[name]
        except UnicodeDecodeError:
            raise BundleError("is not UTF-8 text.", where=name, fix=f.DAMAGED) from None

    def _table(self, name: str) -> dict[str, Any]:
        value = f.load_json(self.read(name, f.MAX_JSON_BYTES), name)
        return f.Checker(name).table(value, f.MAX_FILES)

    def _check(self, name: str) -> None:
        """Raise BundleError unless a file is there with the size that the manifest states."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"is not a file of {self.path.name}.", where=name, fix=f.DAMAGED)
        if (size := self.files.size(name)) != entry.bytes:
            raise BundleError(
                f"is cut or changed (got {size} bytes, expected {entry.bytes}).", where=name, fix=f.DAMAGED
            )


def open_bundle(path: str | os.PathLike[str], *, verify: bool = False) -> Bundle:
    """Open and check a bundle, a folder or one file; with `verify`, every byte of it. Raises BundleError."""
    if not os.path.lexists(path):
        recover(Path(path))
    files = _files(path)
    if (size := files.size(f.MANIFEST)) > f.MAX_JSON_BYTES:
        raise BundleError(
            f"is too large (got {size} bytes, expected at most {f.MAX_JSON_BYTES}).",
            where=f.MANIFEST,
            fix=f.DAMAGED,
        )
    bundle = Bundle(files, parse_manifest(f.load_json(files.read(f.MANIFEST), f.MANIFEST)))
    for name in bundle.manifest.files:
        bundle._check(name)
    if verify:
        bundle.verify()
    return bundle


def _files(path: str | os.PathLike[str]) -> Files:
    """The files at `path`. Raises BundleError unless it is a folder with a manifest, or a packed bundle."""
    fix, why = "give the folder that `ondevice convert` wrote", "there is no such file or folder"
    try:
        root = Path(path).resolve(strict=True)
        if not root.is_file():
            why = f"no {f.MANIFEST} in it"
            (root / f.MANIFEST).resolve(strict=True)
            return Folder(root)
    except (OSError, RuntimeError, ValueError):
        raise BundleError(f"is not a bundle ({why}).", where=os.fspath(path), fix=fix) from None
    try:
        with root.open("rb") as file:
            head = file.read(len(HEAD))
    except OSError as exc:
        what = f"cannot be read ({exc.strerror})."
        raise BundleError(what, where=os.fspath(path), fix="check the file's permissions") from exc
    if head != HEAD:
        fix = "give a folder that `ondevice convert` wrote, or a file that `ondevice pack` wrote"
        raise BundleError("is not a bundle (its first bytes are others).", where=os.fspath(path), fix=fix)
    return Packed(root)


def _wrong_digest(name: str) -> None:
    raise BundleError(f"was changed: its sha256 is not the one in {f.MANIFEST}.", where=name, fix=f.DAMAGED)


def _sizes(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in sizes.items()) or "no sizes"
