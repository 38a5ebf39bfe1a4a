"""Programs compiled by processes of their own, which end with all that a compiler leaves behind.

A compiler keeps most of what it once needed: after the kernels of one model Intel's runtime holds 200 MB more than
where all came from the cache (docs/memory.md). What draws in little memory has them compiled here, into the cache, and
loads their binaries. And it compiles one program at a time, however many threads ask for one: several processes use
more than one core.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ondevice.errors import OnDeviceError
from ondevice.run.cache import KernelCache

log = logging.getLogger(__name__)
Programs = Sequence[tuple[str, str]]


def compile_apart(index: str, cache: KernelCache, options: Sequence[str], programs: Programs, most: int = 1) -> None:
    """Have these programs, each a source and the name of its kernel, compiled into the cache. What could not be, for
    whatever reason, is not there then: who needs it compiles it, and hears why it cannot be.

    Args:
        index: of the device that they are for, as `Found` has it.
        options: of the compiler, as `OpenCLDevice` has them.
        most: processes, of which each takes an equal part of the programs.
    """
    if not cache.keeps or not sys.executable or getattr(sys, "frozen", False):  # frozen: it is an app, not Python
        return
    whole, _, _ = index.partition("/")  # of a part of a device the whole: what is compiled is for both
    asked = {"index": whole, "folder": str(cache.folder), "options": [*options]}
    with contextlib.ExitStack() as started:
        try:
            # neighbours in a plan are often one kernel, which takes equally long: each part gets some of them
            parts = [programs[first::most] for first in range(min(most, len(programs)))]
            compilers = [started.enter_context(_compiler(asked | {"programs": part})) for part in parts]
        except OSError as error:
            log.info("kernels are compiled here: another process could not be started (%s)", error)
            return
        for compiler in compilers:
            if compiler.wait():
                log.info("kernels are compiled here: another process ended with %s", compiler.returncode)


@contextlib.contextmanager
def _compiler(asked: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that compiles what is asked for. It ends with the block, whatever ends that."""
    with tempfile.TemporaryFile() as given:  # not a pipe, which one process would be waited for to empty
        given.write(json.dumps(asked).encode())
        given.seek(0)
        words = [sys.executable, "-m", "ondevice.run.compiled_apart"]
        with subprocess.Popen(words, stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as compiler:
            try:
                yield compiler
            finally:
                compiler.kill()  # nothing where it has ended


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
