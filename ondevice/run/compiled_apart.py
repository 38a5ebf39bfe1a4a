"""Programs compiled by a process of its own, which ends with all that its compiler leaves behind.

A compiler keeps most of what it once needed: after the kernels of one model Intel's runtime holds 200 MB more than
where all came from the cache (docs/memory.md). What draws in little memory has them compiled here, into the cache, and
loads their binaries.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ondevice.errors import OnDeviceError
from ondevice.run.cache import KernelCache

log = logging.getLogger(__name__)
Programs = Sequence[tuple[str, str]]


def compile_apart(index: str, cache: KernelCache, options: Sequence[str], programs: Programs) -> None:
    """Have these programs, each a source and the name of its kernel, compiled into the cache. What could not be, for
    whatever reason, is not there then: who needs it compiles it, and hears why it cannot be.

    Args:
        index: of the device that they are for, as `Found` has it.
        options: of the compiler, as `OpenCLDevice` has them.
    """
    if not cache.keeps or not sys.executable:
        return
    whole, _, _ = index.partition("/")  # of a part of a device the whole: what is compiled is for both
    asked = {"index": whole, "folder": str(cache.folder), "options": [*options], "programs": [*programs]}
    words = [sys.executable, "-m", "ondevice.run.compiled_apart"]
    try:
        done = subprocess.run(words, input=json.dumps(asked).encode(), capture_output=True, check=False)
    except OSError as error:
        log.info("kernels are compiled here: another process could not be started (%s)", error)
        return
    if done.returncode:
        log.info("kernels are compiled here: another process ended with %s", done.returncode)


def main(given: IO[bytes]) -> int:
    """Compile what is asked for on a stream."""
    from ondevice.run.discovery import discover  # which have programs compiled here
    from ondevice.run.opencl import OpenCLDevice

    asked = json.load(given)
    found = next((one for one in discover()[0] if one.index == asked["index"]), None)
    if found is None:
        return 1
    device = OpenCLDevice(found, KernelCache(Path(asked["folder"])), asked["options"])
    for source, entry in asked["programs"]:
        try:
            device.build(source, entry, entry)
        except OnDeviceError:
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.stdin.buffer))
