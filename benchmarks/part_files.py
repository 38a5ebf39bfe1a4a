"""How fast part files of training data are read, and in how much memory: `python -m benchmarks.part_files`.

Makes up parts of captions and pictures (noise of --bytes: pictures are not decoded), gzipped unless --plain, and reads
so many lines of them as one reader of `ondevice.train pretrain` does, with a buffer that mixes them. Prints lines a
second, and the peak of resident memory after a tenth of the lines and after all of them.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import itertools
import random
import resource
import tempfile
import time
from pathlib import Path

from ondevice.train.part_files import Stream

PART = 10_000  # lines of a part
BUFFER = 1000  # as `pretrain` has it


def make(folder: Path, count: int, size: int, zipped: bool) -> list[Path]:
    """Part files of `count` lines, none of which is as another."""
    draw, paths = random.Random(0), []
    for first in range(0, count, PART):
        path = folder / f"part-{first // PART:06}{'.gz' if zipped else ''}"
        with gzip.open(path, "wb", compresslevel=1) if zipped else path.open("wb") as file:
            for number in range(first, min(first + PART, count)):
                picture = base64.b64encode(draw.randbytes(size))
                file.write(b"a made-up caption of picture %d\t\t%b\n" % (number, picture))
        paths.append(path)
    return paths


def resident() -> float:
    """The peak of resident memory until now, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=4096, help="of a picture")
    parser.add_argument("--plain", action="store_true", help="parts that are not gzipped")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = make(Path(folder), args.lines, args.bytes, not args.plain)
        stream = iter(Stream(parts, buffer=BUFFER))
        started, begun = time.perf_counter(), time.process_time()
        read = sum(1 for _ in itertools.islice(stream, args.lines // 10))
        early = resident()
        read += sum(1 for _ in itertools.islice(stream, args.lines - read))
        taken, used = time.perf_counter() - started, time.process_time() - begun
    print(
        f"{read:,} lines of {args.bytes} bytes: {read / taken:,.0f} a second ({read / used:,.0f} by processor time); "
        f"peak RSS {early:.0f} MB after a tenth, {resident():.0f} MB at the end"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
