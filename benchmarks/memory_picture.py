"""Memory of a whole picture, from a process's start to its PNG: what was resident at most, of what kind, and when.

python -m benchmarks.memory_picture sd15.ondevice [--steps N] [--size WxH] [--player od_player] [--whole]
    [--flush SECONDS] [--more "FLAGS OF generate"] [--json]

Draws with `--stream-weights`, or with --whole without it, by `ondevice generate` or by a built `od_player`, in a
process of its own that is looked at every 20 ms. Linux counts three kinds of resident pages: a process's own, those
that it shares (a driver's), and those of mapped files: the libraries' and, of weights, those that are loaded. Pages of
weights that were dropped are in no process; the system keeps them as long as nobody needs the memory, and what it kept
at the end is said, too. With --flush it is made to forget them every so many seconds, as it does where memory is short,
so that all is read from the disk again.

Run it twice: the first run fills the cache of kernels, and compiling takes memory too (with an empty ONDEVICE_CACHE it
is the first run on a machine).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.page_cache import cached_bytes, forget

PROMPT = "a photo of an astronaut riding a horse on mars"
KINDS = {"RssAnon": "own", "RssShmem": "shared", "RssFile": "mapped"}  # as Linux names them
BOUND = re.compile(r"(\w+) [\w= ]*: arena [\d.]+ MB")  # what a session logs when a plan first runs
LOOK = 0.02  # seconds between two looks


@dataclass(slots=True)
class Figures:
    """What a drawing took.

    Attributes:
        peak: MB resident at most, as the system kept count.
        kinds: MB of each kind in the look at which most were resident.
        stages: the most MB in a look from the time on at which a component was made ready.
        kept: MB of the bundle that the system kept at the end.
        wall, cpu: seconds in all.
    """

    peak: float = 0.0
    kinds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    kept: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0

    def see(self, fields: dict[str, float], stage: str) -> None:
        """Take a look into account."""
        kinds = {name: fields.get(key, 0.0) for key, name in KINDS.items()}
        now = sum(kinds.values())
        if now > sum(self.kinds.values()):
            self.kinds = kinds
        self.stages[stage] = max(now, self.stages.get(stage, 0.0))
        self.peak = max(self.peak, fields.get("VmHWM", 0.0))

    def text(self) -> str:
        """For people."""
        kinds = ", ".join(f"{size:,.0f} {name}" for name, size in self.kinds.items())
        stages = ", ".join(f"{name} {size:,.0f}" for name, size in self.stages.items())
        return (
            f"at most {self.peak:,.0f} MB resident ({kinds}); by what ran: {stages}; {self.kept:,.0f} MB of the bundle "
            f"kept by the system; {self.wall:.1f} s, {self.cpu:.1f} s of processor"
        )


def status(pid: int) -> dict[str, float]:
    """MB by field of /proc/PID/status; none of a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = (line.split(":", 1) for line in lines if line.startswith(("Vm", "Rss")))
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, value in found}


def watched(words: Sequence[str], bundle: Path, flush: float = 0.0) -> Figures:
    """Run a command that draws. Raises SystemExit where it fails."""
    figures, stage, said = Figures(), ["start"], list[str]()

    def listen(stream: IO[str]) -> None:
        for line in stream:
            said.append(line)
            if found := BOUND.search(line):
                stage[0] = found[1]

    began = flushed = time.perf_counter()
    environment = os.environ | {"ONDEVICE_LOG": "info"}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    listener = threading.Thread(target=listen, args=(process.stderr,), daemon=True)
    listener.start()
    while True:
        pid, code, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if fields := status(process.pid):
            figures.see(fields, stage[0])
        if flush and time.perf_counter() - flushed > flush:
            forget(bundle)
            flushed = time.perf_counter()
        time.sleep(LOOK)
    process.returncode = os.waitstatus_to_exitcode(code)
    listener.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{''.join(said)[-2000:]}")
    figures.wall, figures.cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    figures.kept = cached_bytes(bundle) / 1e6
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--steps", type=int, default=2, help="more of them take no more memory (default 2)")
    parser.add_argument("--size", metavar="WxH")
    parser.add_argument("--player", metavar="PATH", help="draw by this od_player, and not by Python")
    parser.add_argument("--whole", action="store_true", help="without --stream-weights")
    parser.add_argument("--flush", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--more", default="", metavar="FLAGS", help="more flags of `generate`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verb = [args.player, "draw"] if args.player else [sys.executable, "-m", "ondevice.generate"]
        words = [*verb, str(args.bundle), PROMPT, "--steps", str(args.steps), "--out", f"{folder}/a.png"]
        words += shlex.split(args.more)
        words += ["--size", args.size] if args.size else []
        words += [] if args.whole else ["--stream-weights"]
        words += ["--verbose"] if args.player else []
        figures = watched(words, args.bundle, args.flush)
    print(json.dumps(asdict(figures)) if args.json else figures.text())


if __name__ == "__main__":
    main()
