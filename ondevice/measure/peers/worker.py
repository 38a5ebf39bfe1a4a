"""One peer in a process of its own: `python -m ondevice.measure.peers.worker convert|serve NAME FOLDER
CORES`, driven over a pipe.

FOLDER is a task's: task.json, inputs.npz, and a folder for what each peer reads. Each line in is a request, each line
out a JSON object that answers it: `run` (seconds of one run, by the wall and of all its threads), `save PATH` (the last
output as .npy), `memory` (bytes, at the most so far). The end of the input ends the process, so none outlives its
driver. What went wrong is `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from ondevice.errors import OnDeviceError, PeerError

CONVERT, SERVE = "convert", "serve"


def main(argv: list[str]) -> int:
    """Convert once, or serve until the input ends."""
    verb, name, folder, cores = argv[0], argv[1], Path(argv[2]), [int(core) for core in argv[3].split(",")]
    # Before anything that starts threads is imported. Runtimes print on stdout, too: the answers get a
    # pipe of their own.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        try:
            convert(name, folder) if verb == CONVERT else serve(name, folder, len(cores), sys.stdin, answers)
        except Exception as error:  # whatever a runtime raises becomes the reason why it is left out
            message = error.what if isinstance(error, OnDeviceError) else f"{type(error).__name__}: {error}"
            answers.write(json.dumps({"error": message}) + "\n")
            return 1
        return 0


def convert(name: str, folder: Path) -> None:
    """Write what the peer reads into its folder, whole or not at all, with a stamp of what it was made by."""
    from ondevice.base.publish import published
    from ondevice.measure.peers.peer import PEERS, STAMP, Task, stamp

    peer = PEERS[name]
    with published(folder / peer.files, PeerError) as new:
        peer.load_module().convert(Task.read(folder / "task.json"), new, peer.option)
        (new / STAMP).write_text(json.dumps(stamp(peer)), encoding="utf-8")


def serve(name: str, folder: Path, threads: int, requests: IO[str], answers: IO[str]) -> None:
    """Load, say so, then answer requests until they end."""
    from ondevice.measure.peers.peer import PEERS

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")

    peer = PEERS[name]
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        inputs = dict(file)
    started = time.perf_counter()
    loaded = peer.load_module().load(folder / peer.files, inputs, threads, peer.option)
    answer(loaded=time.perf_counter() - started, once=loaded.once_s)
    output: np.ndarray | None = None
    for line in requests:
        what, _, path = line.strip().partition(" ")
        if what == "run":
            output = None  # what the caller of a runtime would have freed
            start, used = time.perf_counter(), time.process_time()
            output = loaded.run()
            answer(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - used)
        elif what == "save" and output is not None:
            np.save(path, np.asarray(output, np.float32))
            answer(saved=path)
        elif what == "memory":
            answer(peak=peak_memory())
        else:
            answer(error=f"not a request: {line.strip()!r}")


def peak_memory() -> int:
    """Bytes of memory this process held at its most, files that it mapped and touched included."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # no Linux; on macOS ru_maxrss is in bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
