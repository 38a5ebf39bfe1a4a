"""An export that is drawn from: its pipeline, tokenizers and components' sizes, as a pipeline asks for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bundle import format as f
from ondevice.bundle.manifest import TokenizerEntry
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.ports import Seen, check_ports
from ondevice.diffusion.model_files import FREE, runs_at
from ondevice.errors import BundleError, UsageError
from ondevice.export.manifest import MANIFEST, Entry, Manifest, read_manifest
from ondevice.export.options import FORMATS
from ondevice.plan.plan import Operand, Plan
from ondevice.vocabulary.files import CHARSMAP, FILES, UNIGRAM

SIDES = {"height": 2, "width": 3}  # the axis of a picture, in our order


@dataclass(frozen=True, slots=True)
class Place:
    """A component at some sizes, FREE where it takes any."""

    component: str
    sizes: Mapping[str, int]
    entry: Entry


class Export:
    """A checked export: what `ondevice.diffusion.model_files.ModelFiles` asks for."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._places = [Place(entry.component, _sizes(entry), entry) for entry in manifest.entries]
        _check_ports(self)

    def __repr__(self) -> str:
        return f"Export({str(self.path)!r})"

    @property
    def kind(self) -> str:
        """The format's name."""
        return self.manifest.kind

    @property
    def model(self) -> Mapping[str, Any]:
        """Facts of the model for people: family and source."""
        return self.manifest.model

    @property
    def pipeline(self) -> PipelineSpec:
        """How its components make a picture."""
        return self.manifest.pipeline

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """The checkpoint's scheduler_config.json."""
        return self.manifest.scheduler

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels where nobody names one."""
        return self.manifest.size

    @cached_property
    def plans(self) -> list[Place]:
        """What it can run; one with free sizes is there at the usual ones first."""
        usual = [Place(place.component, self.usual(place.entry), place.entry) for place in self._places]
        return [*usual, *(place for place in self._places if FREE in place.sizes.values())]

    def usual(self, entry: Entry) -> dict[str, int]:
        """The sizes of an entry; of those that are free a whole picture's, with all passes of guidance."""
        scale, (width, height) = self.pipeline.latents.scale, self.size
        in_loop = entry.component in {role.component for role in self.pipeline.loop_roles()}
        passes = max(len(loop.passes) for loop in self.pipeline.denoise) if in_loop else 1
        whole = {"batch": passes, "height": height // scale, "width": width // scale}
        return {name: size if size != FREE else whole[name] for name, size in _sizes(entry).items()}

    def entry(self, component: str, sizes: Mapping[str, int]) -> Entry:
        """The entry of a component that runs at these sizes, or at them and more passes.
        Raises BundleError, listing what there is, where it has none."""
        places = [place for place in self._places if place.component == component]
        if not places:
            have = ", ".join(sorted({place.component for place in self._places}))
            raise BundleError(
                f"has no {component} (it has {have}).", where=self.path.name, fix="convert the whole checkpoint"
            )
        for place in places:
            if place.sizes.keys() == sizes.keys() and runs_at(place.sizes, sizes):
                return place.entry
        others = {name: size for name, size in sizes.items() if name != "batch"}
        larger = [
            place
            for place in places
            if place.sizes.keys() == sizes.keys()
            and runs_at(place.sizes, others)
            and place.sizes.get("batch", 0) % sizes.get("batch", 1) == 0
        ]
        if larger:
            return min(larger, key=lambda place: place.sizes["batch"]).entry
        scale = self.pipeline.latents.scale
        have = "; ".join(_shown(place.sizes, scale) for place in places)
        what = f"has no {component} for {_shown(sizes, scale)} (it has {have})."
        sides = [str(sizes[side] * scale) for side in ("width", "height") if side in sizes]
        raise BundleError(what, where=self.path.name, fix=f"convert again with --size {'x'.join(sides) or 'WxH'}")

    def port_zeros(self, component: str, sizes: Mapping[str, int], port: str) -> np.ndarray:
        """Zeros of the shape of an input or output of ours at some sizes. Raises BundleError as `entry`."""
        entry = self.entry(component, sizes)
        return np.zeros(self._shape(entry, sizes, port), np.float32)

    def _shape(self, entry: Entry, sizes: Mapping[str, int], port: str) -> tuple[int, ...]:
        """A port's shape, with free sizes as they are at `sizes`."""
        scale = self.pipeline.latents.scale if port in self._pictures(entry.component) else 1
        axes = {0: sizes.get("batch", 1)} | {axis: scale * sizes.get(side, 1) for side, axis in SIDES.items()}
        return tuple(size or axes.get(axis, 1) for axis, size in enumerate(entry.shapes[port]))

    def _pictures(self, component: str) -> set[str]:
        """The ports of a component that are pictures, in pixels, and nothing in latent units."""
        found = set()
        for role in self.pipeline.roles():
            if role.component == component:
                fed = {port for port, feed in role.feed.items() if feed.kind == "picture"}
                masks = {
                    port
                    for port in fed
                    if self.pipeline.pictures[role.feed[port].name].prepare == "mask"  # of latents
                }
                found |= fed - masks | {port for port, name in role.keep.items() if name == self.pipeline.gives}
        return found

    def stages(self, height: int, width: int, rows: int) -> list[Plan]:
        """None: a decoder of an export is in one piece."""
        return []

    @cached_property
    def tokenizers(self) -> dict[str, TokenizerEntry]:
        """Its tokenizers, by the names that the pipeline calls them."""
        found = {}
        for name, (folder, length) in self.manifest.tokenizers.items():
            held = {one.removeprefix(f"{folder}/") for one in self.manifest.holds if one.startswith(f"{folder}/")}
            files = tuple(file for file in (*FILES, UNIGRAM, CHARSMAP) if file in held)
            found[name] = TokenizerEntry("unigram" if UNIGRAM in files else "bpe", length, files)
        return found

    def tokenizer_files(self, name: str) -> dict[str, bytes]:
        """A tokenizer's files by name (vocab.json, merges.txt...). Raises BundleError where one cannot be read."""
        folder = self.manifest.tokenizers[name][0]
        return {file: self._read(f"{folder}/{file}") for file in self.tokenizers[name].files}

    def _read(self, name: str) -> bytes:
        path = self.path / name
        try:
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise BundleError("leads out of the export.", where=name, fix=f.DAMAGED)
            if path.stat().st_size > f.MAX_JSON_BYTES:
                raise BundleError(f"is larger than {f.MAX_JSON_BYTES} bytes.", where=name, fix=f.DAMAGED)
            return path.read_bytes()
        except OSError as error:
            raise BundleError(f"cannot be read ({error.strerror or error}).", where=name, fix=f.DAMAGED) from None


def open_export(path: str | os.PathLike[str]) -> Export:
    """Open and check what `convert --format` wrote. What its files hold is the runtime's to check.

    Raises:
        BundleError: it is none, or damaged.
    """
    folder = Path(path)
    return Export(folder, read_manifest(folder, tuple(FORMATS)))


def refuse_export(path: str | os.PathLike[str], fix: str = "") -> None:
    """Raise UsageError where a folder that is to be a bundle is an export; `fix`: how one draws from it there."""
    if (Path(path) / MANIFEST).is_file() and not (Path(path) / f.MANIFEST).exists():
        export = open_export(path)
        what = f"it holds {FORMATS[export.kind].what}, and no plans for a device."
        raise UsageError(what, where=os.fspath(path), fix=fix or f"draw with --runtime {export.kind}")


def _sizes(entry: Entry) -> dict[str, int]:
    """The sizes of an entry, FREE where a shape of its ports leaves one open."""
    shapes = entry.shapes.values()
    free = {"batch": FREE} if any(shape[:1] == (0,) for shape in shapes) else {}
    free |= {side: FREE for side, axis in SIDES.items() if any(len(s) == 4 and s[axis] == 0 for s in shapes)}
    return {**free, **entry.sizes}


def _shown(sizes: Mapping[str, int], scale: int) -> str:
    """Sizes for people, in pixels."""
    words = [f"{size} pass{'es' * (size != 1)}" for name, size in sizes.items() if name == "batch" and size]
    if {"width", "height"} <= sizes.keys():
        words.append(f"{sizes['width'] * scale}x{sizes['height'] * scale}" if sizes["width"] else "any size")
    return " of ".join(words) or "any sizes"


def _check_ports(export: Export) -> None:
    """Refuse components whose ports are not what the pipeline passes and expects. Raises BundleError."""
    seen, spec = Seen(), export.pipeline
    for entry in export.manifest.entries:
        role = next((role for role in spec.roles() if role.component == entry.component), None)
        if role is None:
            continue
        sizes = export.usual(entry)
        tokens = {port for port, feed in role.feed.items() if feed.kind == "tokens"}
        names = (*entry.inputs, *(name for name in entry.outputs if name in role.keep))
        shapes = [export._shape(entry, sizes, name) for name in names]
        operands = tuple(
            Operand(name, "i32" if name in tokens else "f32", shape, 4 * prod(shape))
            for name, shape in zip(names, shapes, strict=True)
        )
        inputs = range(len(entry.inputs))
        ports = Plan(
            entry.component, sizes, "f32", 0, operands, tuple(inputs), tuple(range(len(inputs), len(names))), ()
        )
        check_ports(ports, MANIFEST, export, seen)
