"""Pictures on several devices at once: docs/parallel.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ondevice import flags
from ondevice.bundle.reader import Bundle
from ondevice.diffusion import parallel
from ondevice.diffusion.memory_budget import default_size
from ondevice.diffusion.parallel import BOTH, FLAG, GUIDANCE, KINDS, TENSOR, Layout
from ondevice.diffusion.request import Request
from ondevice.drawing import say
from ondevice.errors import NoDeviceError, UsageError
from ondevice.run.guard import FP32
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.own_thread import opened
from ondevice.run.several import find_devices, names_several

OF_ONE = {
    "--max-memory": "it counts the memory of one device",
    **dict.fromkeys(("--profile", "--profile-out", "--trace"), "they show the time of one device"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flag."""
    words = f"share each step between the devices that --device names (0,1, or cpu/2: a CPU cut in two): {GUIDANCE}, "
    words += f"each pass of guidance on one; {TENSOR}, each with a share of the network, for which the bundle was "
    words += f"converted with {FLAG}; or both (docs/parallel.md)"
    parser.add_argument(FLAG, choices=KINDS, metavar="|".join(KINDS), help=words)


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together. Raises UsageError that names one."""
    for flag, why in OF_ONE.items() if args.parallel is not None else ():
        flags.refuse(args, [flag], f"{why}, and {FLAG} takes several.")
    if args.parallel in (TENSOR, BOTH) and args.on_nan == FP32:
        what = "a device that has a share of the network cannot compute it again in float32 by itself."
        raise UsageError(what, where="--on-nan", fix=f"leave it out, or use {FLAG} {GUIDANCE}")


def named(args: argparse.Namespace, error: NoDeviceError) -> UsageError | NoDeviceError:
    """What is wrong where no device was found for the flags: several may be named for one, else it is `error`."""
    if args.parallel is not None or not names_several(args.device):
        return error
    what = f"{error.what.rstrip('.')}; and where several are named, they must share something."
    return UsageError(what, where=error.where, fix=f"add {FLAG} {GUIDANCE}, or name one device")


def devices(args: argparse.Namespace) -> list[OpenCLDevice]:
    """The devices that the flags name. Raises NoDeviceError, UsageError as `find_devices`."""
    return [opened(found) for found in find_devices(args.device)]


def layout(args: argparse.Namespace, bundle: Bundle, names: Sequence[str]) -> Layout:
    """How devices of these names share the steps of a bundle. Raises UsageError where they cannot."""
    return parallel.layout_of(args.parallel, names, bundle.pipeline)


def say_exchange(bundle: Bundle, made: Layout, request: Request) -> None:
    """Say on stderr what goes between the devices."""
    scale, (width, height) = bundle.pipeline.latents.scale, default_size(bundle)
    place = (request.width or width) // scale, (request.height or height) // scale
    say(f"parallel: {made.text()}; {parallel.exchanged(bundle, made, *place).text()}")
