"""A whole picture by this project and by OpenVINO at the precision it chooses, drawn in turns on the same cores.

ondevice convert sd14 --random-weights 0 --math bf16 --out sd14.ondevice
ondevice convert sd14 --random-weights 0 --format onnx --without all --dtype fp32 --out sd14-onnx
python -m benchmarks.picture_turns sd14.ondevice sd14-onnx [--steps 20] [--rounds 3] [--cores 0]

Both run the same pipeline, sampler, noise and prompt; OpenVINO has each component's plain graph, compiled for latency.
Each is loaded in a process of its own, and a short picture of each warms up. Ratios are of one round each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.math_modes import decibels
from ondevice.base import machine
from ondevice.base.publish import append_lines
from ondevice.bundle.reader import open_bundle
from ondevice.export.manifest import Entry
from ondevice.export.opened import open_export
from ondevice.export.runner import ExportRunner
from ondevice.measure.peers.client import Worker
from ondevice.measure.peers.driver import PAUSE_S
from ondevice.measure.peers.figures import ratio_of
from ondevice.measure.peers.peer import PEERS, cores_of
from ondevice.run.guard import GuardedSession
from ondevice.run.opencl import choose_device

PROMPT = "a photo of an astronaut riding a horse on mars"
OURS, OTHER = "ours", "openvino-default"
Draw = Callable[[int], np.ndarray]


class OpenVinoComponent:
    """A component that OpenVINO runs: what `ondevice.export.runtimes.Component` asks of one."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"}
        settings |= {"INFERENCE_NUM_THREADS": str(threads)}
        self._request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name."""
        made = self._request.infer(dict(inputs), share_inputs=True)
        return {name: np.array(array) for port, array in made.items() for name in port.names}

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Not asked for here."""
        raise NotImplementedError


class OpenVinoRunner(ExportRunner):
    """An export of ONNX files whose components OpenVINO runs."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.export, self._threads = open_export(folder), threads
        self._compiled: dict[tuple[str, ...], OpenVinoComponent] = {}
        super().__init__(self.export)

    def loaded(self, entry: Entry) -> OpenVinoComponent:
        """A component, compiled once."""
        if entry.files not in self._compiled:
            (file,) = entry.files
            self._compiled[entry.files] = OpenVinoComponent(self.export.path / file, self._threads)
        return self._compiled[entry.files]

    def release(self, component: str) -> None:
        """Nothing: a picture compiles nothing twice."""


def drawing(name: str, path: Path, threads: int) -> Draw:
    """What draws a picture in so many steps."""
    from ondevice.diffusion.pipeline import Pipeline

    if name == OURS:
        bundle = open_bundle(path)
        paint = Pipeline.of(bundle, GuardedSession(bundle, choose_device("cpu")))
    else:
        runner = OpenVinoRunner(path, threads)
        paint = Pipeline.of(runner.export, runner)
    return lambda steps: paint(PROMPT, num_inference_steps=steps, seed=0).pixels


def serve(name: str, path: Path, cores: Sequence[int]) -> None:
    """Answer requests, a number of steps each, until the input ends; `save PATH` writes the last picture."""
    os.sched_setaffinity(0, cores)
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        draw, pixels = drawing(name, path, len(cores)), None
        for line in sys.stdin:
            what, _, where = line.strip().partition(" ")
            if what == "save":
                np.save(where, pixels)
                answers.write(json.dumps({"saved": where}) + "\n")
                continue
            start, used = time.perf_counter(), time.process_time()
            pixels = draw(int(what))
            seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
            answers.write(json.dumps(seconds) + "\n")


def in_turns(paths: Mapping[str, Path], cores: list[int], steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of each picture, ratios of OpenVINO's to ours by round, and how alike the pictures are."""
    words = [sys.executable, "-m", "benchmarks.picture_turns", "--cores", ",".join(map(str, cores)), "--serve"]
    peers = {name: PEERS[name] for name in (OURS, OTHER)}
    with (
        Worker(peers[OURS], [*words, OURS, str(paths[OURS])], len(cores)) as ours,
        Worker(peers[OTHER], [*words, OTHER, str(paths[OTHER])], len(cores)) as other,
        tempfile.TemporaryDirectory() as folder,
    ):
        for worker in (ours, other):
            worker.ask("2")
        times: dict[str, list[dict[str, float]]] = {OURS: [], OTHER: []}
        for number in range(rounds):
            for worker in (ours, other) if number % 2 == 0 else (other, ours):
                time.sleep(PAUSE_S)
                times[worker.peer.name].append(worker.ask(str(steps)))
                print(
                    f"{worker.peer.name}: {times[worker.peer.name][-1]['seconds']:.1f} s", file=sys.stderr, flush=True
                )
        pictures = []
        for worker in (ours, other):
            worker.ask(f"save {folder}/{worker.peer.name}.npy")
            pictures.append(np.load(f"{folder}/{worker.peer.name}.npy"))
    row: dict[str, Any] = {"kind": "pictures", "steps": steps, "db": decibels(*pictures)}
    for clock in ("seconds", "cpu_seconds"):
        row[clock] = {name: [turn[clock] for turn in own] for name, own in times.items()}
        row[f"ratio_{clock}"] = ratio_of([b / a for a, b in zip(row[clock][OURS], row[clock][OTHER], strict=True)])
    median = statistics.median(row["seconds"][OURS])
    return row | {"name": f"picture of {steps} steps {OURS}", "median_ms": median * 1e3, "spread": 0.0}


def to_text(row: Mapping[str, Any]) -> str:
    """Seconds, and the ratio."""
    lines = []
    for name, own in row["seconds"].items():
        lines.append(f"{name}: {statistics.median(own):.1f} s (of {', '.join(f'{one:.1f}' for one in own)})")
    for clock in ("seconds", "cpu_seconds"):
        ratio = row[f"ratio_{clock}"]
        words = f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
        lines.append(f"{OTHER} takes {words} of {OURS}, by {'the clock' if clock == 'seconds' else 'processor time'}")
    return "\n".join([*lines, f"the two pictures: {row['db']:.1f} dB"])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="a bundle, and a folder of ONNX files")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", help="numbers of the cores that both may use (default: all)")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="append the result there")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    cores = cores_of(args.cores)
    if args.serve:
        serve(args.serve[0], Path(args.serve[1]), cores)
        return
    if len(args.paths) != 2:
        parser.error("PATH: name a bundle and a folder of ONNX files")
    row = in_turns(dict(zip((OURS, OTHER), args.paths, strict=True)), cores, args.steps, args.rounds)
    if args.rows:
        append_lines(args.rows, [json.dumps(row | {"machine": machine.facts(cores)})])
    print(to_text(row))


if __name__ == "__main__":
    main()
