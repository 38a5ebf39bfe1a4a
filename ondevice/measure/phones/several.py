"""Several phones at once: a process per phone, so that one that fails takes no other with it; rows are joined."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ondevice.errors import DeviceError, NoDeviceError
from ondevice.measure.phones.adb import Adb, find_phones


def phones_of(specs: Sequence[str]) -> list[Adb]:
    """The phones that several --device name, each once. Raises NoDeviceError."""
    found: dict[str, Adb] = {}
    for spec in specs:
        for adb in find_phones(spec):
            found.setdefault(adb.serial, adb)
    return list(found.values())


def together(phones: Sequence[Adb], words: Sequence[str]) -> tuple[list[dict[str, Any]], DeviceError | None]:
    """Run `ondevice bench WORDS --device adb:SERIAL --json` for each phone at the same time.

    Returns:
        The rows of those that came to their end, in the phones' order; and what to raise for the others, if any.
    """
    command = [sys.executable, "-m", "ondevice.bench", *words, "--json", "--device"]
    running = []
    try:
        for adb in phones:
            running.append(subprocess.Popen([*command, adb.where], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL))
        outputs = [one.communicate()[0] for one in running]
    except BaseException:  # Ctrl-C reaches the processes, too: they clean up, and are waited for
        for one in running:
            one.wait()
        raise
    rows: list[dict[str, Any]] = []
    failed = []
    for adb, one, output in zip(phones, running, outputs, strict=True):
        if one.returncode:
            failed.append(adb)
        else:
            rows += json.loads(output)
    return rows, _failure(failed, phones)


def _failure(failed: Sequence[Adb], phones: Sequence[Adb]) -> DeviceError | None:
    if not failed:
        return None
    names = ", ".join(adb.where for adb in failed)
    what = f"{len(failed)} of {len(phones)} phones failed ({names}), as said above; the rows of the others are there."
    return DeviceError(what, where="--device", fix="run it again for these alone")


def is_phone(device: str) -> bool:
    """Whether a --device names phones that adb knows."""
    return device == "adb" or device.startswith("adb:")


def only_phones(devices: Sequence[str]) -> None:
    """Raise NoDeviceError where phones and other devices are named side by side."""
    if other := next((one for one in devices if not is_phone(one)), None):
        what = f"phones and {other!r} cannot be measured in one run."
        raise NoDeviceError(what, where="--device", fix="name phones only, or one other device")


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """Flags with what was given, as words of a command line; None and False were not given, True has no value."""
    words = []
    for flag, value in flags.items():
        if value is not None and value is not False:
            words += [flag] if value is True else [flag, str(value)]
    return words
