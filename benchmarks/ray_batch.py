"""A batch through Ray's actors on this machine: `python -m benchmarks.ray_batch [--lines 24] [--workers 2] [--kill]`.

Draws the demo model's pictures three times: by `ondevice batch` alone, with one worker of Ray, and with several, each
into a folder of its own; with --kill one of the workers is ended by SIGKILL, again and again, while the last of them
draws. Prints seconds from the first line's end to the last's, so that starting Ray and sessions is told apart, and
exits with 1 where a folder is not what the first one is. Needs the extra `ray`.

Two workers on one machine share its cores, which one session's device uses all of: what Ray is for is more machines.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ondevice.drawing.batch_file import JOURNAL

EVERY_S = 3.0  # between two kills


def lines(count: int) -> str:
    """A batch of pictures of the demo model, each of another seed."""
    row = {"prompt": "a red circle on a blue background", "steps": 20, "sampler": "euler_a"}
    return "".join(json.dumps(row | {"seed": seed, "name": f"{seed:04}"}) + "\n" for seed in range(count))


def painters() -> list[int]:
    """The processes of Ray's actors that draw, by the title that Ray gives them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::Painter.draw"):
            found.append(int(folder.name))
    return sorted(found)


def killing(over: threading.Event, killed: list[int]) -> None:
    """End one of the workers now and then."""
    while not over.wait(EVERY_S):
        if (now := painters()) and len(killed) < 5:
            os.kill(now[0], signal.SIGKILL)
            killed.append(now[0])


def run(work: Path, bundle: Path, name: str, words: Sequence[str], kill: bool) -> tuple[float, float, int, int]:
    """Seconds until the first line was drawn, and from there to the last; lines between; workers killed."""
    command = [sys.executable, "-m", "ondevice", "batch", str(work / "lines.jsonl"), "--bundle", str(bundle)]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--out", str(work / name), *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    over, killed = threading.Event(), []
    if kill:
        threading.Thread(target=killing, args=(over, killed), daemon=True).start()
    times = [time.perf_counter() for line in process.stdout if '"drawn"' in line and '"line"' in line]
    over.set()
    if process.wait():
        raise SystemExit(f"{name} failed with {process.returncode}")
    return times[0] - began, times[-1] - times[0], len(times) - 1, len(killed)


def folder(path: Path) -> dict[str, bytes]:
    """The pictures, and the journal's rows in order."""
    found = {file.name: file.read_bytes() for file in path.iterdir()}
    found[JOURNAL] = b"\n".join(sorted(found[JOURNAL].splitlines()))
    return found


def main(argv: list[str] | None = None) -> int:
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill", action="store_true", help="end workers while the last of the three draws")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="ray-batch-") as place:
        work = Path(place)
        bundle = work / "demo.ondevice"
        subprocess.run([sys.executable, "-m", "ondevice", "convert", "demo", "--out", str(bundle)], check=True)
        (work / "lines.jsonl").write_text(lines(args.lines))
        ways = {"alone": [], "one": ["--ray", "--workers", "1"], "several": ["--ray", "--workers", str(args.workers)]}
        right = True
        for name, words in ways.items():
            first, rest, count, killed = run(work, bundle, name, words, args.kill and name == "several")
            same = folder(work / name) == folder(work / "alone")
            right = right and same
            print(
                f"{name:<8} first line after {first:5.1f} s, then {count / rest:5.2f} lines/s; {killed} killed; "
                f"{'the same files' if same else 'OTHER FILES'}",
                flush=True,
            )
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
