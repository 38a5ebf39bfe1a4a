"""Training in two processes of a CPU beside one:
`python -m benchmarks.train_processes [--steps 12] [--resolution 256]`.

Trains a LoRA on the demo model, of made-up pictures: in one process with one thread and with two, and by `accelerate
launch` in two processes with half the batch each; prints pictures a second by the least of the steps' times, and how
far the losses of two are from those of one. Then a run of two is ended by SIGKILL, in one of its processes and in all
that there are, and goes on: its losses must be those of a run that was not ended, to the bit. Exits with 1 where they
are not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
LAUNCH += ("--dynamo_backend", "no", "--main_process_port", "0", "-m", "ondevice.train")
BATCH = 4  # of all processes together
PATIENCE = 600.0


def pictures(folder: Path, count: int = 8, side: int = 288) -> Path:
    """A folder of made-up pictures with captions."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"colours {number}"})
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def words(data: Path, out: Path, **more: object) -> list[str]:
    """A command line of `lora`."""
    about: dict[str, object] = {"pretrained_model_name_or_path": "demo", "data_dir": data, "output_dir": out, "seed": 7}
    about |= {"dataloader_num_workers": 0, "resume_from_checkpoint": "latest"} | more
    return ["lora", *(str(word) for name, value in about.items() for word in (f"--{name}", value))]


def started(processes: int, args: list[str], threads: int = 1) -> subprocess.Popen[str]:
    """A run of one process, or of two by `accelerate launch`."""
    command = [sys.executable, "-m", "ondevice.train", *args]
    if processes > 1:
        command = [str(Path(sys.executable).with_name("accelerate")), "launch", *LAUNCH, *args]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def running(processes: int, args: list[str], threads: int = 1) -> Iterator[subprocess.Popen[str]]:
    """The same while the block runs: nothing of it is left behind."""
    run = started(processes, args, threads)
    try:
        yield run
    finally:
        end(run)


def end(run: subprocess.Popen[str]) -> None:
    """End a run and all that it started, at once."""
    if run.poll() is not None:
        return
    everyone = [*workers(run).values(), psutil.Process(run.pid)]
    for one in everyone:
        one.send_signal(signal.SIGKILL)
    psutil.wait_procs(everyone, timeout=30)


def workers(run: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes of a run by their ranks."""
    found = {}
    for one in psutil.Process(run.pid).children(recursive=True):
        try:
            about, line = one.environ(), one.cmdline()
        except psutil.Error:
            continue
        if "RANK" in about and "ondevice.train" in line:
            found[int(about["RANK"])] = one
    return found


def steps(out: Path) -> dict[int, dict[str, float]]:
    """The steps that a run has logged whole, by their numbers."""
    path = out / "training_log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row for row in rows if "step" in row}


def reached(run: subprocess.Popen[str], out: Path, step: int) -> dict[int, float]:
    """The losses when a run has logged so many steps. Raises RuntimeError where it ends before."""
    started_at = time.monotonic()
    while len(found := steps(out)) < step:
        if run.poll() is not None or time.monotonic() - started_at > PATIENCE:
            said = run.stdout.read() if run.stdout is not None and run.poll() is not None else ""
            raise RuntimeError(f"it has logged {len(found)} of {step} steps: {said[-2000:]}")
        time.sleep(0.05)
    return {number: row["loss"] for number, row in found.items()}


def finished(processes: int, args: list[str], threads: int = 1) -> None:
    """Let a run go to its end."""
    with running(processes, args, threads) as run:
        said, _ = run.communicate(timeout=PATIENCE)
        if run.returncode:
            raise RuntimeError(f"exit code {run.returncode}: {said[-2000:]}")


def speeds(work: Path, count: int, resolution: int) -> Mapping[str, dict[int, dict[str, float]]]:
    """Logged steps by how they were run."""
    data, found = pictures(work / "pictures", side=resolution + 32), {}
    for name, processes, threads in (("one process, 1 thread", 1, 1), ("one process, 2 threads", 1, 2),
                                     ("two processes, 1 thread each", 2, 1)):  # fmt: skip
        out = work / name.replace(" ", "-")
        more = {"train_batch_size": BATCH // processes, "max_train_steps": count, "resolution": resolution}
        finished(processes, words(data, out, **more), threads)
        found[name] = steps(out)
    return found


def killed(work: Path, everyone: bool) -> bool:
    """Whether a run of two that was killed in its steps goes on with the bits of one that was not."""
    data, whole, broken = work / "pictures", work / "whole", work / f"broken-{everyone}"
    more = {"train_batch_size": BATCH // 2, "resolution": 64, "checkpointing_steps": 3}
    if not whole.exists():
        finished(2, words(data, whole, max_train_steps=8, **more))
    with running(2, words(data, broken, max_train_steps=100_000, **more)) as run:
        reached(run, broken, 4)
        if everyone:
            end(run)
        else:
            workers(run)[1].send_signal(signal.SIGKILL)
            began = time.monotonic()
            said, _ = run.communicate(timeout=60)
            left = f"exit code {run.returncode} after {time.monotonic() - began:.1f} s"
            print(f"one killed: the others ended, {left}: {'SIGKILL' in said or 'Signal 9' in said}")
    for path in broken.glob("checkpoint-*"):  # to go on with the run that was not killed: from one of its checkpoints
        if path.name not in ("checkpoint-3", "checkpoint-6"):
            subprocess.run(["rm", "-r", str(path)], check=True)
    finished(2, words(data, broken, max_train_steps=8, **more))
    one, other = ({number: row["loss"] for number, row in steps(out).items()} for out in (whole, broken))
    files = [(out / "pytorch_lora_weights.safetensors").read_bytes() for out in (whole, broken)]
    return one == other and files[0] == files[1]


def main() -> int:
    """Prints a line for each way, and one for each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--resolution", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = speeds(Path(folder), args.steps, args.resolution)
        first = next(iter(found.values()))
        for name, rows in found.items():
            least = min(row["seconds"] for row in rows.values())
            off = max(abs(row["loss"] - first[step]["loss"]) / first[step]["loss"] for step, row in rows.items())
            same = rows[1]["loss"] == first[1]["loss"]
            print(f"{name}: {BATCH / least:.2f} pictures a second; first loss {'the same' if same else 'another'}, "
                  f"others within {off:.1e}")  # fmt: skip
        well = [killed(Path(folder), everyone) for everyone in (False, True)]
        print(f"killed in one, in all, and gone on: {'the same bits' if all(well) else f'DIFFERENT {well}'}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    raise SystemExit(main())
