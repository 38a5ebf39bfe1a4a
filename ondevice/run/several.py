"""Several devices at once, as a user names them: "0,1", or "cpu/2" for a CPU that is cut into parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from ondevice.errors import NoDeviceError, UsageError
from ondevice.run.discovery import Found, code, find_device, opencl

FLAG = "--device"
MOST = 16  # devices
_CUT: list[str] = []  # by this process
_KEPT: list[object] = []
Kept = TypeVar("Kept")


def find_devices(spec: str | None = None) -> list[Found]:
    """The devices that `spec` (else `ONDEVICE_DEVICE`) names: words of `find_device` with commas between, each with
    "/N" behind it where the device is cut into N parts with as many of its cores each. Without a word the best there
    is, alone.

    Raises:
        NoDeviceError: there is none that fits a word, or it cannot be cut so.
        UsageError: a device is named twice, or there are more than MOST.
    """
    spec = spec or os.environ.get("ONDEVICE_DEVICE") or ""
    found: list[Found] = []
    for word in spec.split(","):
        name, slash, count = word.strip().rpartition("/")
        if slash and count.isdecimal() and count.isascii() and len(count) < 4:
            found += _parts(find_device(name or None), int(count), word.strip())
        else:
            found.append(find_device(word.strip() or None))
    if len(found) > MOST:
        raise UsageError(f"names {len(found)} devices (expected at most {MOST}).", where=FLAG, fix="name fewer")
    twice = next((one for number, one in enumerate(found) if one in found[:number]), None)
    if twice is not None:
        fix = f"name it once, as {twice.index}/2 to cut it in two" if twice.kind == "cpu" else "name each once"
        raise UsageError(f"{twice.title} is named twice.", where=FLAG, fix=fix)
    return found


def names_several(spec: str | None) -> bool:
    """Whether `spec` (else `ONDEVICE_DEVICE`) is spelled as several devices."""
    spec = spec or os.environ.get("ONDEVICE_DEVICE") or ""
    return "," in spec or ("/" in spec and spec.rpartition("/")[2].isdecimal())


def was_cut() -> bool:
    """Whether this process has parts of a device. Intel's CPU runtime often crashes as these are given back, which at
    the latest is as the process ends; so what uses them is kept (`kept`), and the process better leaves with
    os._exit."""
    return bool(_CUT)


def kept(runner: Kept) -> Kept:
    """What runs on devices, kept for as long as the process is there if it may run on parts of one."""
    if was_cut():
        _KEPT.append(runner)
    return runner


def _parts(whole: Found, count: int, word: str) -> list[Found]:
    """A device in parts of equally many compute units; what is left over is in none."""
    cl, units = opencl(), whole.handle.max_compute_units
    if count < 2:
        raise UsageError(f"{word}: {count} parts are none (expected 2 or more).", where=FLAG, fix="use cpu/2")
    if units < count:
        cores = "core" if units == 1 else "cores"
        what = f"{word}: {whole.name} has {units} {cores} here, too few for {count} parts."
        fix = f"use /{units}" if units > 1 else "let it run on more cores, or name another device"
        raise NoDeviceError(what, where=FLAG, fix=fix)
    by_cores = [cl.device_partition_property.EQUALLY, units // count]
    try:
        made: Sequence[object] = whole.handle.create_sub_devices(by_cores)
        _CUT.append(word)
    except cl.Error as error:
        what = f"{word}: {whole.name} cannot be cut into parts: {code(error)}."
        raise NoDeviceError(what, where=FLAG, fix="name another device, or several as 0,1") from None
    return [
        replace(whole, index=f"{whole.index}/{number + 1}", handle=handle, part=f"part {number + 1} of {count}")
        for number, handle in enumerate(made[:count])
    ]
