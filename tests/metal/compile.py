"""A kernel in Metal for a program that is not Python (ios_demo's stand-in for Metal): its text comes by the standard
input, and what the program needs of it goes to the standard output, a line each: the kernel's name, its library, the
runtime's library, the kinds of its parameters.

    python3 tests/metal/compile.py FOLDER < kernel.metal

Nothing but the standard library and g++ is needed. What is wrong with a kernel goes to stderr, with exit code 11.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(folder: Path) -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from metal import build

    from ondevice.errors import KernelBuildError

    source = sys.stdin.read()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        entry = build.entry(source)
        library, kinds = build.library(source, entry, folder)
        print(entry, library, build.runtime(folder), " ".join(kinds), sep="\n")
    except KernelBuildError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
