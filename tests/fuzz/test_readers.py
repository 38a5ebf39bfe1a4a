"""Every reader: a hundred inputs each, and those that once showed a fault. `make fuzz` gives them more."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAST = sorted((Path(__file__).parent / "regressions").iterdir())


def fuzz(*words):
    command = [sys.executable, "-m", "benchmarks.fuzz", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_no_reader_stumbles(tmp_path):
    code, printed = fuzz("--inputs", 100, "--workers", 1, "--out", tmp_path)
    assert code == 0, printed
    rows = [line.split() for line in printed.splitlines() if " 100 " in line]
    taken = {row[0]: (int(row[5]), int(row[6])) for row in rows}
    assert len(taken) >= 29
    # these leave out what they cannot use, or say what they find of anything
    lenient = ("parameters", "infotext", "journal", "frame", "host", "gallery")
    lenient += ("part_list", "shard", "training_log")
    assert all(accepted and (refused or name in lenient) for name, (accepted, refused) in taken.items()), taken


def test_what_was_found_once_is_not_found_again():
    code, printed = fuzz("--replay", *PAST)
    assert code == 0, printed
    assert all(f"{path.name}: " in printed for path in PAST)
