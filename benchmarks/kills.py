"""End runs of convert, generate, batch, tune and bench at random moments:
`python -m benchmarks.kills [--count 100] [--seed 0] [--work DIR]`.

Each run works on the demo model and writes over what an earlier one wrote. Every second kill is at a moment drawn over
the verb's whole duration; the others come up to 60 ms after something hidden has appeared in the folder, that is while
files are written. Signals are drawn from SIGKILL, SIGTERM, SIGHUP and SIGINT. After each: every file under its final
name is there and whole, by the readers that users have; the signals that can be heard left nothing hidden and ended the
run as they should; what SIGKILL left is gone after the next run that ends by itself. Prints counts by verb and signal;
exits with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from ondevice.base.process.signals import SAID
from ondevice.base.publish import PARTIAL
from ondevice.bundle.reader import open_bundle
from ondevice.run.cache import KernelCache
from ondevice.target.tuning import read_tuning

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
AIM_S = 0.06  # within which of a file's first moment an aimed kill comes
LINES = 4  # of the batch
FORGOTTEN = 3  # compiled kernels that a run has to make again, so that kills meet that, too
KINDS = ("kills", "had ended", "while writing", "left", "faults")


def verbs(work: Path) -> dict[str, list[str]]:
    """Command lines by what they are called here; all write into `work`."""
    bundle, size, latents = str(work / "demo.ondevice"), ["--size", "64x64"], str(work / "a.npy")
    return {
        "convert": ["convert", "demo", *size, "--force", "--out", str(work / "written.ondevice")],
        "convert onnx": ["convert", "demo", *size, "--force", "--format", "onnx", "--out", str(work / "written-onnx")],
        "generate": [
            "generate",
            bundle,
            "a red circle",
            "--steps",
            "1",
            "--out",
            str(work / "a.png"),
            "--save-latents",
            latents,
        ],
        "batch": ["batch", str(work / "lines.jsonl"), "--bundle", bundle, "--steps", "1", "--out", str(work / "batch")],
        "tune": ["tune", bundle, "--kernel", "layer_norm", "--budget", "0.5", "--out", str(work / "tuned.toml")],
        "bench": ["bench", bundle, "--component", "text_encoder", "--repeat", "3", "--rows", str(work / "rows.jsonl")],
    }


def readers(work: Path) -> dict[str, Callable[[], object]]:
    """What reads each file or folder under its final name, and raises where it is damaged."""

    def rows() -> object:
        text = (work / "rows.jsonl").read_text(encoding="utf-8")
        assert text.endswith("\n"), "half a row"
        return [json.loads(line) for line in text.splitlines()]

    def pictures() -> None:
        for path in sorted((work / "batch").glob("[!.]*.png")):
            Image.open(path).load()

    def graphs() -> None:
        for path in sorted((work / "written-onnx").glob("*/model.onnx")):
            onnx.checker.check_model(str(path))

    return {
        "demo.ondevice": lambda: open_bundle(work / "demo.ondevice", verify=True),
        "written.ondevice": lambda: open_bundle(work / "written.ondevice", verify=True),
        "written-onnx": graphs,
        "batch": pictures,
        "a.png": lambda: Image.open(work / "a.png").load(),
        "a.npy": lambda: np.load(work / "a.npy"),
        "tuned.toml": lambda: read_tuning(work / "tuned.toml"),
        "rows.jsonl": rows,
    }


def damaged(work: Path, expected: set[str]) -> list[str]:
    """What is missing or damaged of `expected`, compiled kernels included."""
    faults = []
    for name in sorted(expected):
        try:
            readers(work)[name]()
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")
    cache = KernelCache(work / "cache" / "kernels")
    return faults + [
        f"kernel {path.name}"
        for path in sorted((work / "cache" / "kernels").glob("*.bin"))
        if cache.load(path.stem) is None
    ]


def hidden(work: Path) -> list[Path]:
    """Hidden names of what is not whole."""
    found: list[Path] = []
    for folder, folders, files in os.walk(work):  # passes over what is gone before it is looked into
        found += [Path(folder, name) for name in (*folders, *files) if PARTIAL in name]
        folders[:] = [name for name in folders if PARTIAL not in name]
    return sorted(found)


def start(words: list[str], work: Path) -> subprocess.Popen[str]:
    """A verb in a process of its own, which hears signals as one in a terminal does,
    wherever this script runs (nohup, the background)."""
    environment = os.environ | {"ONDEVICE_CACHE": str(work / "cache")}
    ours = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": environment,
        "start_new_session": True,
    }
    return subprocess.Popen([sys.executable, "-m", "ondevice", *words], **ours, preexec_fn=_hear)


def _hear() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def whole(words: list[str], work: Path) -> float:
    """Seconds of a run that ends by itself."""
    began = time.perf_counter()
    run = start(words, work)
    _, said = run.communicate()
    if run.returncode:
        raise SystemExit(f"{' '.join(words)} failed by itself: {said}")
    return time.perf_counter() - began


def kill(words: list[str], work: Path, number: int, delay: float, aimed: bool) -> tuple[int, str]:
    """Exit code and stderr of a run that gets a signal; aimed: `delay` seconds after it has begun to write."""
    before, began = set(hidden(work)), time.perf_counter()
    run = start(words, work)
    while aimed and run.poll() is None and not set(hidden(work)) - before and time.perf_counter() - began < 120:
        time.sleep(0.001)
    time.sleep(delay)
    run.send_signal(number)
    _, said = run.communicate()
    return run.returncode, said


def ended_wrong(number: int, code: int, said: str) -> str | None:
    """What is wrong with how a run ended that got this signal, or None. 0: it had ended by itself."""
    at_the_edge = code in (-number, 1) and "ondevice" not in said  # Python itself was starting or ending
    if code == 0 or at_the_edge or (code == 128 + number and said.endswith(f"{SAID}\n") and "Traceback" not in said):
        return None
    return f"ended with {code}: {said[-300:]}"


def main(argv: list[str] | None = None) -> int:
    """Kill, check, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of verbs, signals and moments")
    parser.add_argument("--work", type=Path, help="an empty folder to work in (default: a temporary one)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.work, prefix="kills-") as folder:
        return _kills(Path(folder), args.count, random.Random(args.seed))


def _kills(work: Path, count: int, draw: random.Random) -> int:
    whole(["convert", "demo", "--size", "64x64", "--out", str(work / "demo.ondevice")], work)
    lines = [json.dumps({"prompt": "a red circle", "seed": seed}) for seed in range(LINES)]
    (work / "lines.jsonl").write_text("\n".join(lines))
    commands, expected = verbs(work), set(readers(work))
    seconds = {}
    for verb, words in commands.items():
        whole(words, work)
        seconds[verb] = whole(words, work)  # with compiled kernels, as the runs to come
        print(f"{verb}: {seconds[verb]:.1f} s by itself", flush=True)
    counts: dict[tuple[str, str], Counter[str]] = {}
    faults = damaged(work, expected)
    for turn in range(count):
        verb, number, aimed = draw.choice(list(commands)), draw.choice(SIGNALS), turn % 2 == 1
        delay = draw.uniform(0, AIM_S) if aimed else draw.uniform(0, seconds[verb])
        kernels = sorted((work / "cache" / "kernels").glob("*.bin"))
        for path in draw.sample(kernels, min(FORGOTTEN, len(kernels))):
            path.unlink()
        drawn = sorted((work / "batch").glob("[!.]*.png"))
        for path in draw.sample(drawn, min(LINES // 2, len(drawn))) if verb == "batch" else ():
            path.unlink()
        code, said = kill(commands[verb], work, number, delay, aimed)
        row, left = counts.setdefault((verb, signal.Signals(number).name), Counter()), hidden(work)
        found = damaged(work, expected)
        if number != signal.SIGKILL:
            found += [f"left {path.name}" for path in left] + (
                [wrong] if (wrong := ended_wrong(number, code, said)) else []
            )
        elif left:
            whole(commands[verb], work)
            found += [f"{path.name} is still there" for path in left if path.exists()]
        row.update(kills=1, faults=len(found))
        row["had ended"] += code == 0
        row["while writing"] += aimed and code != 0
        row["left"] += len(left)
        faults += [
            f"{verb}, {signal.Signals(number).name} after {delay:.3f} s{' of writing' * aimed}: {fault}"
            for fault in found
        ]
    print(table(counts))
    print("\n".join(faults) or "no fault: nothing under a final name was broken, no leftover survived the next run")
    return 1 if faults else 0


def table(counts: dict[tuple[str, str], Counter[str]]) -> str:
    """Counts by verb and signal, and their sums."""
    rows = [(*key, *(str(row[kind]) for kind in KINDS)) for key, row in sorted(counts.items())]
    rows.append(("all", "", *(str(sum(row[kind] for row in counts.values())) for kind in KINDS)))
    return "\n".join(
        f"{verb:<14}{name:<10}" + "".join(f"{cell:>15}" for cell in cells)
        for verb, name, *cells in [("", "", *KINDS), *rows]
    )


if __name__ == "__main__":
    raise SystemExit(main())
