"""What draws: a device that runs a bundle's plans, or another runtime that runs an export's files."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ondevice import flags
from ondevice.bundle.format import MANIFEST
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion import memory_budget
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.parallel import FLAG, Layout, shared
from ondevice.diffusion.request import Request
from ondevice.diffusion.values import Runner
from ondevice.drawing import memory, parallel
from ondevice.errors import NoDeviceError, UsageError
from ondevice.export.opened import Export, open_export, refuse_export
from ondevice.export.options import FORMATS
from ondevice.export.runner import ExportRunner
from ondevice.export.runtimes import RUNTIMES, Runtime
from ondevice.run.device import Device
from ondevice.run.guard import ON_NAN, STOP, GuardedSession
from ondevice.run.opencl import choose_device
from ondevice.run.passes_apart import PassesApart
from ondevice.run.profile import Profile
from ondevice.run.ranks import Ranks
from ondevice.target import is_for_cpus

log = logging.getLogger(__name__)
OF_DEVICES = {
    **dict.fromkeys(
        ("--device", "--max-memory", "--stream-weights"),
        "the runtime chooses what it runs on and how much memory that takes",
    ),
    **dict.fromkeys(("--plans", "--tile-vae"), "an export has one graph of each component, in one piece"),
    FLAG: "the runtime chooses what it runs on",
    "--kernels": "an export has no kernels",
    "--on-nan": "the runtime computes as its files say",
    "--check": "the runtime shows no op's result while it draws; `ondevice check` compares them",
    **dict.fromkeys(("--profile", "--profile-out", "--trace"), "the runtime says nothing of its ops' times"),
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What sessions keep of the dispatches that they run: what each took, and when each ran."""

    times: bool = False
    moments: bool = False


NOTHING = Recorded()


class Opened(Protocol):
    """A model that is drawn with."""

    @property
    def files(self) -> ModelFiles: ...

    def session(self) -> DrawingRunner:
        """What runs it, one for all of its pictures."""
        ...

    @property
    def has_mended(self) -> bool:
        """Whether its session computes something otherwise by now than a new one would (--on-nan fp32)."""
        ...

    def forget(self) -> None:
        """Begin with a new session."""
        ...

    @property
    def runs_on(self) -> str:
        """The device or the runtime, and its version, as far as they are told."""
        ...

    def way_of(self, request: Request, changed: frozenset[str] = frozenset()) -> memory_budget.Way:
        """How a picture is drawn in the memory that there is, with weights that adapters change; says so on stderr.
        Raises UsageError and PlanError as `ondevice.drawing.memory.way_of`."""
        ...

    def profile(self) -> Profile | None:
        """Where the time went, of what is measured."""
        ...


class DrawingRunner(Runner, Protocol):
    """A runner whose memory can be given back."""

    def release_all(self) -> None: ...


class Engine(Protocol):
    """Opens models for one kind of runner."""

    def open(self, path: Path) -> Opened:
        """The model at a path. Raises OnDeviceError where it cannot be drawn with here."""
        ...


class Opening:
    """An engine whose models stay open from one picture to the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._models: dict[Path, Opened] = {}

    def open(self, path: Path) -> Opened:
        """As `Engine` has it."""
        if path not in self._models:
            self._models[path] = self._engine.open(path)
        return self._models[path]

    def forget_mended(self) -> None:
        """What was mended for one picture is not for the next: each is what it would be by itself."""
        for model in self._models.values():
            if model.has_mended:
                model.forget()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of what draws."""
    parser.add_argument(
        "--runtime",
        choices=list(RUNTIMES),
        help="draw from a folder of `convert --format` by this runtime instead of a device: "
        + ", ".join(f"{row.name}: {row.what}" for row in RUNTIMES.values()),
    )
    flags.add_device(parser)
    parallel.add_arguments(parser)
    flags.add_plans(parser)
    flags.add_kernels(parser)
    parser.add_argument(
        "--on-nan",
        choices=ON_NAN,
        help=f"where values become NaN or infinite: {STOP} and name the op (the default), or compute the ops around it "
        "in float32 and go on",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look for NaN after every dispatch, not only in what a component gives (slow)",
    )


def engine_of(args: argparse.Namespace, recorded: Recorded = NOTHING) -> Engine:
    """What the flags ask for. Raises UsageError for those that mean nothing to it."""
    if args.runtime is None:
        parallel.check(args)
        return OnDevice(args, recorded)
    for flag, why in OF_DEVICES.items():
        flags.refuse(args, [flag], f"{why}.")
    return InRuntime(RUNTIMES[args.runtime])


class OnDevice:
    """Bundles on an OpenCL device, or on several, which are chosen once the first is open."""

    def __init__(self, args: argparse.Namespace, recorded: Recorded) -> None:
        self._args, self._recorded = args, recorded
        self._devices: Sequence[Device] = ()

    def open(self, path: Path) -> OpenedBundle:
        """As `Engine` has it."""
        args = self._args
        refuse_export(path)
        bundle = open_bundle(path)
        if args.kernels == "ours":
            bundle.require_own_kernels()
        if not self._devices:
            try:
                self._devices = [choose_device(args.device)] if args.parallel is None else parallel.devices(args)
            except NoDeviceError as error:
                raise parallel.named(args, error) from None
            for device in self._devices:
                warn_of_target(bundle.model.get("target"), device)
        planned = flags.with_plans(bundle, args, self._devices[0])
        return OpenedBundle(planned, self._devices, args, self._recorded)


class OpenedBundle:
    """A bundle on a device, or on several, as `Opened` has it.

    Raises:
        UsageError: several devices cannot share its steps.
    """

    def __init__(self, bundle: Bundle, devices: Sequence[Device], args: argparse.Namespace, recorded: Recorded) -> None:
        self.files, self._devices, self._args, self._recorded = bundle, devices, args, recorded
        self._session: GuardedSession | PassesApart | Ranks | None = None
        names = [device.name for device in devices]
        self._layout: Layout | None = None if args.parallel is None else parallel.layout(args, bundle, names)

    def session(self) -> GuardedSession | PassesApart | Ranks:
        if self._session is None:
            if self._layout is None:
                self._session = self._on(self._devices[0])
            else:
                self._session = shared(self.files, self._layout, self._devices, self._on, self._args.check)
        return self._session

    def _on(self, device: Device) -> GuardedSession:
        args = self._args
        return GuardedSession(
            self.files,
            device,
            on_nan=args.on_nan or STOP,
            strict=getattr(args, "strict", False),  # of verbs that have it
            profile=self._recorded.times,
            trace=self._recorded.moments,
            check=args.check,
        )

    @property
    def has_mended(self) -> bool:
        return self._session is not None and self._session.has_mended

    def forget(self) -> None:
        self._session = None

    @property
    def runs_on(self) -> str:
        each = [device.facts() for device in self._devices]
        named = "; ".join(" ".join(str(one.get(key, "")) for key in ("name", "vendor", "driver")) for one in each)
        return named if self._layout is None else f"{named}; {self._args.parallel}"

    def way_of(self, request: Request, changed: frozenset[str] = frozenset()) -> memory_budget.Way:
        facts, session = self._devices[0].facts(), self.session()
        if isinstance(session, PassesApart | Ranks):
            assert self._layout is not None
            apart = isinstance(session, PassesApart)
            way = memory.way_of(self._args, self.files, facts, request, changed, apart=apart)
            parallel.say_exchange(self.files, self._layout, request)
            session.stream_weights(None if way.stream is None else way.stream.nbytes)
            # a device runs one pass, and all run at once
            return replace(way, split=way.split and not apart)
        way = memory.way_of(self._args, self.files, facts, request, changed)
        session.stream_weights(None if way.stream is None else way.stream.nbytes)
        session.room = memory.room_of(self._args, self.files, facts, request, way)
        return way

    def profile(self) -> Profile | None:
        session = self._session
        return None if session is None or isinstance(session, PassesApart | Ranks) else session.profile


def warn_of_target(target: object, device: Device) -> None:
    """Say so where a GPU is to draw with kernels that leave all but a few of its cores idle."""
    if device.facts()["kind"] == "gpu" and is_for_cpus(target):
        log.warning(
            "%s is a GPU and this bundle is tuned for a CPU; convert with --target gpu, or draw with --device cpu",
            device.name,
        )


class InRuntime:
    """Exports in another runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def open(self, path: Path) -> OpenedExport:
        """As `Engine` has it."""
        if path.is_file() or (path / MANIFEST).exists():
            what = f"a bundle runs on a device, and not by {self._runtime.what}."
            raise UsageError(what, where=os.fspath(path), fix="leave --runtime out, or name a folder of another format")
        export = open_export(path)
        if export.kind != self._runtime.name:
            what = f"it holds {FORMATS[export.kind].what}, which {self._runtime.what} does not run."
            fix = f"draw with --runtime {export.kind}"
            raise UsageError(what, where=os.fspath(path), fix=fix)
        return OpenedExport(export)


class OpenedExport:
    """An export in its runtime, as `Opened` has it."""

    def __init__(self, export: Export) -> None:
        self.files = export
        self._session: ExportRunner | None = None

    def session(self) -> ExportRunner:
        if self._session is None:
            self._session = ExportRunner(self.files)
        return self._session

    @property
    def has_mended(self) -> bool:
        return False

    def forget(self) -> None:
        self._session = None

    @property
    def runs_on(self) -> str:
        return self.files.kind

    def way_of(self, request: Request, changed: frozenset[str] = frozenset()) -> memory_budget.Way:
        return memory_budget.Way()

    def profile(self) -> Profile | None:
        return None
