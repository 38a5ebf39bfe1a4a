"""The library's front door, in diffusers' words: a bundle or a checkpoint in, pictures out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ondevice import __version__
from ondevice.base.paths import cache_dir
from ondevice.bundle.format import MAJOR, MINOR
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion import pipeline
from ondevice.diffusion.loop import OnStep
from ondevice.diffusion.loop_state import Keeper
from ondevice.diffusion.memory_budget import Way, default_size, has_plans, is_guided, parse_bytes, streamed
from ondevice.diffusion.parallel import layout_of, shared
from ondevice.diffusion.request import Picture, Request
from ondevice.diffusion.request_checks import picture_size
from ondevice.diffusion.series import Series
from ondevice.errors import BundleError, CheckpointError, UsageError
from ondevice.export.opened import open_export, refuse_export
from ondevice.export.runner import ExportRunner
from ondevice.lower.program import STORAGES
from ondevice.plan.blocks import Streaming
from ondevice.run import own_thread
from ondevice.run.guard import ON_NAN, STOP, GuardedSession
from ondevice.run.opencl import choose_device
from ondevice.run.several import find_devices
from ondevice.target import AUTO, FP32, MATHS, load_target

if TYPE_CHECKING:  # converters take a second to import, and a bundle is drawn without them
    from ondevice.converters.component import Checkpoint

log = logging.getLogger(__name__)


class How(TypedDict, total=False):
    """How a checkpoint is compiled.

    dtype: storage of weights and activations, "fp16" (the default) or "fp32".
    math: what products of UNet and VAE are multiplied in, "fp32" (the default), "bf16" or "bf16x3", where this
        machine's CPU has a matrix unit for it.
    chunks: prompts may be of so many times 75 tokens (1 by default), if they are drawn with `long="chunk"`.
    """

    dtype: str
    math: str
    chunks: int


class Pipeline(pipeline.Pipeline):
    """Draws pictures on an OpenCL device, or by another runtime.

        pipe = Pipeline.from_bundle("sd14.ondevice")
        pipe("a photo of an astronaut riding a horse on mars", num_inference_steps=20, seed=1).images[0].save("a.png")

    Call it as diffusers' pipelines are called; `ondevice.diffusion.request.Request` lists all that can be asked for.
    """

    _streams: Callable[[Request], Way | None] | None = None  # how a picture is drawn whose weights are streamed

    def draw(
        self,
        request: Request,
        way: Way | None = None,
        on_step: OnStep | None = None,
        series: Series | None = None,
        keeper: Keeper | None = None,
    ) -> Picture:
        """As `ondevice.diffusion.pipeline.Pipeline.draw`; where weights are streamed, in the least memory that this
        does without asking for more time in each step."""
        if way is None and self._streams is not None:
            way = self._streams(request)
        return super().draw(request, way, on_step, series, keeper)

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        own_kernels: bool = False,
        plans: str | None = None,
        on_nan: str = STOP,
        parallel: str | None = None,
        stream_weights: str | bool = False,
    ) -> Pipeline:
        """Open what `ondevice convert` or `ondevice pack` wrote.

        Args:
            device: an OpenCL device: a number, part of its name, "cpu" or "gpu"; None: the best there is.
            own_kernels: refuse a bundle whose kernels are not this package's, for they are programs.
            plans: of a bundle for several GPUs, the target whose plans are taken; None: the device's own.
            on_nan: what is done where values become NaN or infinite: "stop" names the op in an error; "fp32" computes
                the ops around it in float32, and goes on.
            parallel: "guidance", "tensor" or "guidance,tensor": several devices share each step (docs/parallel.md);
                then `device` names them all, as "0,1", or "cpu/2" for a CPU cut in two.
            stream_weights: load weights a block at a time, through at most so much memory as "400MB" says; True: as
                much as keeps the device busy (docs/memory.md). Of several devices each has so much.

        Raises:
            BundleError: it is no bundle, or damaged.
            UsageError: it has no plans of that name, or is an export; `on_nan` or `stream_weights` is something else;
                these devices cannot share its steps.
            NoDeviceError, DeviceError: there is nothing to run it on.
        """
        if on_nan not in ON_NAN:
            raise UsageError(
                f"unknown (got {on_nan!r}, expected {' or '.join(ON_NAN)}).", where="on_nan", fix="use fp32"
            )
        refuse_export(path, "open it with Pipeline.from_export")
        bundle = open_bundle(path)
        if own_kernels:
            bundle.require_own_kernels()
        bundle = bundle if plans is None else bundle.for_target(plans)
        through = None if stream_weights is False else 0
        if isinstance(stream_weights, str):
            through = parse_bytes(stream_weights, "stream_weights")
        if parallel is not None:
            return cls._on_several(bundle, device, parallel, chosen=plans is not None, on_nan=on_nan, stream=through)
        return cls._on(bundle, device, chosen=plans is not None, on_nan=on_nan, stream=through)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        family: str | None = None,
        size: tuple[int, int] | None = None,
        device: str | None = None,
        revision: str | None = None,
        controlnet: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        **how: Unpack[How],
    ) -> Pipeline:
        """Convert a checkpoint into the cache, once, and open it there.

        Args:
            source: a diffusers folder, a .safetensors, .gguf or .ckpt file, a folder of ONNX files, or a hub id.
            family: MODEL of the command line, such as "sd15"; None: what the checkpoint says that it is.
            size: (width, height) in pixels of the pictures; None: the size that the model was trained at.
            device: as `from_bundle` takes it.
            revision: branch, tag or commit of a hub id. What a name leads to is looked up once, when it is converted.
            controlnet: a ControlNet or several: of each a diffusers folder, a file or a hub id.
            how: `How` says what there is.

        Raises:
            UsageError: an argument is none of these.
            OnDeviceError: the checkpoint cannot be read or converted, or there is nothing to run it on.
        """
        from ondevice.compiler import Recipe, compile_bundle

        if unknown := sorted(how.keys() - How.__annotations__.keys()):
            raise TypeError(f"from_pretrained() got an unexpected keyword argument {unknown[0]!r}")
        dtype, math, chunks = how.get("dtype", "fp16"), how.get("math", FP32), how.get("chunks", 1)
        if dtype not in STORAGES:
            raise UsageError(
                f"{dtype!r} is no storage (expected {' or '.join(STORAGES)}).", where="dtype", fix="use fp16"
            )
        if math not in MATHS:
            raise UsageError(
                f"{math!r} is no math (expected one of {', '.join(MATHS)}).", where="math", fix=f"use {FP32}"
            )
        target = load_target(AUTO)
        nets = [controlnet] if isinstance(controlnet, str | os.PathLike) else list(controlnet)
        options = {"family": family, "size": size, "dtype": dtype, "revision": revision, "chunks": chunks}
        options |= {"math": math, "target": target.name}
        place = _place(source, options | {"controlnet": [(os.fspath(net), _state(net)) for net in nets]})
        try:
            return cls._on(open_bundle(place), device)
        except BundleError as error:
            if place.exists():
                log.warning("%s: %s; it is converted again", place, error)
                shutil.rmtree(place)  # of a name that only this function gives
        checkpoint = opened(os.fspath(source), family, revision, [os.fspath(net) for net in nets])
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"converted checkpoints cannot be kept in {place.parent} ({error.strerror})."
            raise UsageError(what, where="ONDEVICE_CACHE", fix="set it to a folder that can be written") from None
        recipe = Recipe(STORAGES[dtype], target=target, chunks=chunks, math=math)
        try:
            compile_bundle(checkpoint, place, recipe, sizes=[size] if size else ())
        except BundleError:
            if not place.exists():
                raise
            # another process, which was asked for the same at the same time, has converted it
        return cls._on(open_bundle(place), device)

    @classmethod
    def from_export(cls, path: str | os.PathLike[str]) -> Pipeline:
        """Open what `ondevice convert --format` wrote: it is drawn from by its format's own runtime, such as
        onnxruntime, on whatever that runs on.

        Raises:
            BundleError: it is no export, or damaged.
            UsageError: the runtime is not installed.
        """
        export = open_export(path)
        return cls.of(export, ExportRunner(export))

    @classmethod
    def _on(
        cls,
        bundle: Bundle,
        device: str | None,
        *,
        chosen: bool = False,
        on_nan: str = STOP,
        stream: int | None = None,
    ) -> Pipeline:
        """On a device, with the plans that it takes unless they are `chosen`; `stream`: bytes as
        `Session.stream_weights` takes them."""
        runs = choose_device(device)
        bundle = bundle if chosen else bundle.for_device(runs.facts(), runs.dialect)
        session = GuardedSession(bundle, runs, on_nan=on_nan)
        session.stream_weights(stream)
        made = cls.of(bundle, session)
        if stream is not None:
            how = Streaming(stream, bool(runs.facts()["maps_weights"]))
            made._streams = lambda request: _streamed_way(bundle, request, how)
        return made

    @classmethod
    def _on_several(
        cls, bundle: Bundle, names: str | None, kind: str, *, chosen: bool, on_nan: str, stream: int | None
    ) -> Pipeline:
        """The same on several devices, which share its steps."""
        found = find_devices(names)
        layout = layout_of(kind, [one.title for one in found], bundle.pipeline)
        runs = [own_thread.opened(one) for one in found]
        bundle = bundle if chosen else bundle.for_device(runs[0].facts(), runs[0].dialect)
        if layout.ranks > 1 and on_nan != STOP:
            what = "a device that has a share of the network cannot compute it again in float32 by itself."
            raise UsageError(what, where="on_nan", fix=f"use {STOP}")
        session = shared(bundle, layout, runs, lambda one: GuardedSession(bundle, one, on_nan=on_nan))
        session.stream_weights(stream)
        return cls.of(bundle, session)


def _streamed_way(bundle: Bundle, request: Request, how: Streaming) -> Way | None:
    """How a picture is drawn whose weights are streamed; None where the pipeline is to say what is missing.
    Raises PlanError for too small a window."""
    scale = bundle.pipeline.latents.scale
    width, height = (side // scale for side in picture_size(bundle.pipeline, request, default_size(bundle)))
    guided = is_guided(bundle, request.guidance_scale)
    if not any(has_plans(bundle, width, height, at_once) for at_once in (guided, False)):
        return None
    given = [*request.given_pictures()]
    return streamed(bundle, width, height, Way(fast=request.taesd, stream=how), guided=guided, given=given)


def _place(source: str | os.PathLike[str], options: dict[str, Any]) -> Path:
    """The folder of the cache for a source as it is now. Raises UsageError where there is no cache."""
    base = cache_dir()
    if base is None:
        raise UsageError(
            "there is no folder for converted checkpoints.", where="ONDEVICE_CACHE", fix="set it to a folder"
        )
    path, state = Path(source).expanduser(), _state(source)
    known = [os.fspath(source) if not state else str(path.resolve()), state, options, __version__, f"{MAJOR}.{MINOR}"]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
    return base / "bundles" / f"{path.name or 'checkpoint'}-{digest}.ondevice"


def _state(source: str | os.PathLike[str]) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a source; none of a hub id."""
    path = Path(source).expanduser()
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path] * path.is_file()
    return [(str(found), found.stat().st_size, found.stat().st_mtime_ns) for found in files]


def opened(source: str, family: str | None = None, revision: str | None = None, nets: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint as the family that it is of, with ControlNets. Raises the error of the first family where no other
    takes it."""
    from ondevice.converters.read.controlnets import with_controlnets

    return with_controlnets(_without_nets(source, family, revision), nets)


def _without_nets(source: str, family: str | None, revision: str | None) -> Checkpoint:
    from ondevice.converters.read.checkpoint import open_checkpoint

    family = family or _named(source)
    if family is not None:
        return open_checkpoint(source, family=family, revision=revision)
    refusals: list[CheckpointError] = []
    for name in _kinds():
        try:
            return open_checkpoint(source, family=name, revision=revision)
        except CheckpointError as error:  # another kind is refused by its headers, before any weight is read
            refusals.append(error)
    raise refusals[0]


def _named(source: str) -> str | None:
    """The family whose own weights the hub has under that id: of those of one kind, its numbers are the right ones."""
    from ondevice.converters.families import FAMILIES

    return next((name for name, family in FAMILIES.items() if family.hub_id == source), None)


def _kinds() -> Sequence[str]:
    """One family of each kind that has weights of its own kind's size, Stable Diffusion 1.x first."""
    from ondevice.converters.families import FAMILIES

    first: dict[str, str] = {}
    for name, family in sorted(FAMILIES.items(), key=lambda item: item[1].title):
        if family.hub_id is not None:
            first.setdefault(family.title, name)
    return list(first.values())
