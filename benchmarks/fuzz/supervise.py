"""Start workers, watch them, start others where one died or hangs, add up what they counted, keep what they found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.fuzz.minimise import smaller
from benchmarks.fuzz.worker import WINDOW, Window

ROOT = Path(__file__).resolve().parents[2]
# seconds on one input, on a machine that others use, too; a worker stops itself after 2 of CPU, unless it is in C
HANG = 90.0
DEATHS = 20  # of one worker, before it is given up
LEAST = 5.0  # seconds that are left must be worth a worker's start
TELL = 30.0  # seconds from one sign of life to the next


@dataclass(slots=True)
class Total:
    """Of one reader, over all workers."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: int = 0
    kept: int = 0
    cpu: float = 0.0
    taken: int = 0

    @property
    def edges(self) -> int:
        """Branches of the code that were taken."""
        return sum(byte != 0 for byte in self.taken.to_bytes((self.taken.bit_length() + 7) // 8, "little"))


@dataclass(slots=True)
class Finding:
    """A fault: which reader, what kind, where, in words; and the input that shows it."""

    reader: str
    kind: str
    place: str
    what: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Order:
    """What each worker is to do: feed `readers` for so many seconds, or until each had so many `inputs`.
    It gets this as JSON."""

    readers: Sequence[str]
    seconds: float = 0.0
    inputs: int = 0
    guided: bool = True
    nice: int = 0
    modules: Sequence[str] = ()


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    deaths: int = 0
    given: int = -1
    since: float = 0.0


def scratch() -> Path:
    """A folder in memory where there is one and TMPDIR names no other: most readers take a path."""
    shared = Path("/dev/shm")
    parent = shared if "TMPDIR" not in os.environ and shared.is_dir() and os.access(shared, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))


def run(
    order: Order,
    *,
    seed: int = 0,
    workers: int = 1,
    hang: float = HANG,
    show: Callable[[int, int], None] = lambda inputs, findings: None,
) -> tuple[dict[str, Total], list[Finding]]:
    """Start `workers` with that order, and others where they die. What is counted goes by reader.

    `show` is told now and then how many inputs and findings there were.

    Raises:
        RuntimeError: a worker failed, not a reader; says what it printed.
    """
    folder = scratch()
    counted: list[dict[str, Any]] = []
    findings: list[Finding] = []
    begun = last_report = time.monotonic()
    going: list[_Worker] = []
    try:
        going += [_start(folder, number, order, f"{seed}/{number}") for number in range(workers)]
        while going:
            time.sleep(0.1)
            if time.monotonic() > last_report + TELL:
                last_report = time.monotonic()
                rows = [
                    row
                    for stats in (*counted, *(_stats(folder, worker.number) for worker in going))
                    for row in stats.values()
                ]
                show(sum(row["inputs"] for row in rows), len(findings) + len(list(folder.glob("*.finding"))))
            for worker in list(going):
                code = worker.process.poll()
                if code is None and not _hangs(folder, worker, hang):
                    continue
                going.remove(worker)
                if code is None:
                    worker.process.kill()
                    worker.process.wait()
                if code != 0:
                    findings.append(_death(folder, worker, order.modules, code))
                counted.append(_stats(folder, worker.number))
                left = order.seconds - (time.monotonic() - begun)
                if code != 0 and left > LEAST and worker.deaths < DEATHS:
                    (folder / f"stats-{worker.number}.json").unlink(missing_ok=True)
                    again = _start(
                        folder,
                        worker.number,
                        replace(order, seconds=left),
                        f"{seed}/{worker.number}/{worker.deaths + 1}",
                    )
                    again.deaths = worker.deaths + 1
                    going.append(again)
        for path in sorted(folder.glob("*.finding")):
            findings.append(Finding(**json.loads(path.read_text()), data=path.with_suffix(".input").read_bytes()))
    finally:
        for worker in going:
            worker.process.kill()
            worker.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return _added(order.readers, counted, findings), _distinct(findings)


def _start(folder: Path, number: int, order: Order, seed: str) -> _Worker:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz.worker",
        str(folder),
        str(number),
        json.dumps(asdict(order) | {"seed": seed}),
    ]
    (folder / f"window-{number}").unlink(missing_ok=True)
    with open(folder / f"log-{number}", "wb") as log:
        env = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=env)
    return _Worker(number, process, since=time.monotonic())


def _seen(folder: Path, worker: _Worker) -> tuple[int, str, bytes]:
    path = folder / f"window-{worker.number}"
    return Window(path).seen() if path.exists() and path.stat().st_size >= WINDOW else (0, "", b"")


def _hangs(folder: Path, worker: _Worker, hang: float) -> bool:
    given = _seen(folder, worker)[0]
    if given != worker.given:
        worker.given, worker.since = given, time.monotonic()
    return time.monotonic() - worker.since > hang + (HANG if not given else 0)  # at first it imports and makes seeds


def _stats(folder: Path, number: int) -> dict[str, Any]:
    path = folder / f"stats-{number}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _death(folder: Path, worker: _Worker, modules: Sequence[str], code: int | None) -> Finding:
    """The input on which a worker died or hung, or after which it failed itself.
    Raises RuntimeError where it had none yet."""
    given, name, data = _seen(folder, worker)
    text = (folder / f"log-{worker.number}").read_text(errors="replace")[-2000:]
    if not given:
        raise RuntimeError(f"a worker ended with {code}:\n{text}")
    if (code or 0) > 0:  # what the others found in the meantime must not be lost with it
        return Finding(name, "the harness failed", text.strip().rpartition("\n")[2], text, data)
    kind = "hang" if code is None else f"death by {signal.Signals(-code).name}"
    if code is not None:
        data = smaller(data, lambda other: _dies(name, other, modules) == code, tries=40, seconds=60)
    return Finding(name, kind, name, f"the process ended ({kind})", data)


def _dies(reader: str, data: bytes, modules: Sequence[str]) -> int:
    """The exit code of a process that reads one input."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input"
        file.write_bytes(data)
        more = [word for module in modules for word in ("--module", module)]
        command = [sys.executable, "-m", "benchmarks.fuzz", "--reader", reader, *more, "--replay", str(file)]
        env = os.environ | {"TMPDIR": folder}  # what a process leaves that dies goes with it
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=HANG, env=env).returncode


def _added(readers: Sequence[str], counted: Sequence[dict[str, Any]], findings: Sequence[Finding]) -> dict[str, Total]:
    totals = {name: Total() for name in readers}
    for rows in counted:
        for name, row in rows.items():
            total = totals[name]
            total.taken |= int(row["taken"], 16)
            for key in ("inputs", "accepted", "refused", "findings", "kept", "cpu"):
                setattr(total, key, getattr(total, key) + row[key])
    for finding in findings:
        if finding.kind.startswith(("hang", "death")):
            totals[finding.reader].findings += 1
    return totals


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    """One finding per fault, the one with the smallest input."""
    best: dict[tuple[str, str, str], Finding] = {}
    for finding in sorted(findings, key=lambda finding: len(finding.data)):
        best.setdefault((finding.reader, finding.kind, finding.place), finding)
    return list(best.values())
