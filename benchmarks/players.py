"""od_player beside Python on one bundle and device: `python -m benchmarks.players BUNDLE [--steps N] [--rounds N]`.

Each draws the same picture in turns, as a process of its own, after one turn that builds kernels and does not count.
Prints medians: seconds from the process's start to the end of the first step, steps per second after it, seconds in
all, and the largest resident memory; and whether both wrote the same bytes. Pin both with `taskset -c 0`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from ondevice.base.columns import columns
from ondevice.run.opencl import choose_device
from tests.player.opencl_environment import environment

PROMPT = "a photo of an astronaut riding a horse on mars"
DONE = {"od_player": re.compile(rb"(\d+) of \d+: "), "python": re.compile(rb" (\d+)/\d+ \[")}
HEAD = ("", "to the end of the first step", "steps per second", "in all", "peak RSS")


def drawn(name: str, command: list[str]) -> dict[str, float]:
    """One process's figures; what it says of its steps is read from a terminal, as a user sees it."""
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 120))
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end, env=environment())
    os.close(end)
    said, whole, times = b"", b"", dict[int, float]()
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said, whole = said + part, whole + part
        for found in DONE[name].findall(said):
            times.setdefault(int(found), time.perf_counter() - began)
        said = said[-200:]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    os.close(terminal)
    if process.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {process.returncode}: {whole[-500:].decode(errors='replace')}"
        )
    last = max(times)  # both say at least the first
    rate = (last - 1) / (times[last] - times[1]) if last > 1 else 0.0
    return {
        "first": times[1],
        "rate": rate,
        "seconds": time.perf_counter() - began,
        "bytes": usage.ru_maxrss * 1024,
    }


def main(argv: list[str] | None = None) -> int:
    """Draw in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--player", type=Path, default=Path("build/player/od_player"), help="a built od_player")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    device = choose_device().name
    with tempfile.TemporaryDirectory() as folder:
        words = [str(args.bundle), PROMPT, "--steps", str(args.steps), "--device", device, "--out"]
        pictures = {name: Path(folder) / f"{name}.png" for name in DONE}
        commands = {
            "od_player": [str(args.player), "draw", *words, str(pictures["od_player"])],
            "python": [sys.executable, "-m", "ondevice.generate", *words, str(pictures["python"])],
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for turn in range(args.rounds + 1):
            for name, command in commands.items():
                one = drawn(name, command)
                if turn:
                    found[name].append(one)
        same = len({path.read_bytes() for path in pictures.values()}) == 1
    medians = {
        name: {key: statistics.median(one[key] for one in rows) for key in rows[0]} for name, rows in found.items()
    }
    if args.json:
        print(json.dumps(medians | {"same": same}))
        return 0
    table = [
        (
            name,
            f"{one['first']:.2f} s",
            f"{one['rate']:.3f}",
            f"{one['seconds']:.2f} s",
            f"{one['bytes'] / 1e6:,.0f} MB",
        )
        for name, one in medians.items()
    ]
    print("\n".join(columns([HEAD, *table], left=1)))
    print(f"the same file: {same}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
