"""Start-up of `generate`, part by part: from the process's start to the end of the first UNet step;
and what launches add to a step.

taskset -c 0 python -m benchmarks.startup sd14.ondevice [--guidance 7.5] [--cold] [--compile] [--json]

Runs the verb in a process of its own, with marks between its parts, and ends it before the decoder. Run it twice: the
first run fills the cache of kernels; with --compile that is an empty one, and the decoder's kernels are built, too, so
that the run is the first one on a machine. Another process measures what reading the weights takes: touching every page
of them, mapped as they are for a step. With --cold both begin with the bundle's files out of the page cache.

"Beyond reading the weights" is all until the first step begins, and what launches add to that step. Its kernels are the
first to touch the weights, so what they take more than those of a later step is the reading and noise. Launches add a
step's wall time less the time in its kernels by the device's clock. CPU seconds are those of all threads: the figure to
look at where others use the core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.page_cache import forget

PAGE = 4096
RUN = "unet: run"
BUILT = "programs and buffers"  # what a part is called in which a component's kernels are built
AIM = "aimed at: at most 2"  # seconds


class Enough(BaseException):
    """Every step that is measured is done. Like Ctrl-C no error, so that nothing on the way handles it as one."""


class Marks:
    """(part, wall seconds, CPU seconds) in the order in which the parts ended;
    each begins where the one before ended."""

    def __init__(self, started: float) -> None:
        self.rows: list[tuple[str, float, float]] = []
        self._last = (started, 0.0)

    def __call__(self, part: str) -> None:
        now = (time.time(), sum(os.times()[:4]))  # and of compilers in processes of their own
        self.rows.append((part, now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


def draw(bundle: Path, started: float, steps: int, guidance: float, decoder: bool = False) -> dict[str, Any]:
    """`generate` with a mark after each of its parts, and the device's seconds in each UNet run. With `decoder` its
    programs are built at the end, and not run."""
    mark = Marks(started)
    mark("python")
    from ondevice import cli  # here: what they take to import is a part of the start-up
    from ondevice.drawing import drawer, engine, memory
    from ondevice.run.guard import GuardedSession

    mark("imports")
    device: list[float] = []

    class Watched(GuardedSession):
        def _run(self, component: str, *rest: Any) -> Generator[None, None, Any]:
            if component == "vae_decoder" and not decoder:
                raise Enough
            mark("sampler and noise")
            outputs = yield from super()._run(component, *rest)
            mark(f"{component}: run")
            if component == "unet":
                device.append(sum(row.seconds for row in self.profile.rows.values()))
            self.profile.clear()
            return outputs

        def _bind(self, plan: Any, key: tuple[Any, ...]) -> Any:
            new = key not in self._bound
            bound = super()._bind(plan, key)
            if new:
                mark(f"{plan.component}: {BUILT}")
            if plan.component == "vae_decoder":
                raise Enough
            return bound

    def marked(name: str, part: str, owner: Any) -> None:
        inner = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            result = inner(*args, **options)
            mark(part)
            return result

        setattr(owner, name, call)

    marked("open_bundle", "bundle", engine)
    marked("choose_device", "device", engine)
    marked("way_of", "plans", memory)
    marked("of", "tokenizer", drawer.Pipeline)
    engine.GuardedSession = Watched
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--sampler",
            "ddim",
            "--steps",
            str(steps),
            "--guidance",
            str(guidance),
            "--profile",
            "--out",
            f"{folder}/none.png",
        ]
        try:
            code = cli.main_for("generate", [str(bundle), "a photo of an astronaut riding a horse on mars", *words])
        except Enough:
            return {"parts": mark.rows, "device": device}
    raise SystemExit(code)


def pages(bundle_path: Path) -> dict[str, Any]:
    """Wall and CPU seconds to touch every page of the text encoder's and the UNet's weights."""
    import numpy as np

    from ondevice.bundle.reader import open_bundle

    bundle = open_bundle(bundle_path)
    plans = [bundle.plan(e.component, **e.sizes) for e in bundle.plans if e.component in ("text_encoder", "unet")]
    names = sorted({bundle.weight(x.weight)[0] for plan in plans for x in plan.operands if x.weight is not None})
    mark = Marks(time.time())
    mark("before")
    touched = sum(int(bundle.shard(name)[::PAGE].sum(dtype=np.int64)) for name in names)
    mark("pages")
    return {"pages": mark.rows[-1][1:], "mb": sum(bundle.shard(name).nbytes for name in names) / 1e6, "sum": touched}


def summary(parts: list[tuple[str, float, float]], device: list[float], reading: tuple[float, float]) -> dict[str, Any]:
    """The figures from marks; pairs are (wall, CPU) seconds.

    `parts` as `draw` gives them; `device` seconds in the kernels of each UNet run; `reading` of the weights.
    """
    end = [part for part, *_ in parts].index(RUN)
    steps = [(wall, cpu) for part, wall, cpu in parts if part == RUN]
    added = [wall - kernels for (wall, _), kernels in zip(steps, device, strict=True)]
    best = min(range(1, len(steps)), key=lambda number: steps[number][0])
    begun = [sum(row[clock] for row in parts[:end]) for clock in (1, 2)]
    return {
        "parts": parts[:end],
        "built": [sum(row[clock] for row in parts if row[0].endswith(BUILT)) for clock in (1, 2)],
        "begun": begun,
        "first": steps[0],
        "later": steps[best],
        "reading": reading,
        "beyond": [seconds + added[0] for seconds in begun],
        "overhead": added[best],
        "overhead_share": added[best] / steps[best][0],
    }


def probe(module: str, subject: Path, name: str, *more: str, **environment: str) -> dict[str, Any]:
    """What `module --probe name` says in a process of its own, as JSON on its last line."""
    words = [sys.executable, "-m", module, str(subject), "--probe", name, *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="as of `generate`; 1, the default: a UNet of batch 1",
    )
    parser.add_argument("--steps", type=int, default=3, help="the first and at least one later (default 3)")
    parser.add_argument("--cold", action="store_true", help="with the bundle's files out of the page cache")
    parser.add_argument("--compile", action="store_true", help="with no compiled kernel kept")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--probe", choices=("draw", "pages"), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps: one step has no later one to compare with (expected at least 2)")
    if args.probe:
        print(
            json.dumps(
                draw(args.bundle, args.started, args.steps, args.guidance, args.compile)
                if args.probe == "draw"
                else pages(args.bundle)
            )
        )
        return
    reports, steps = [], ("--steps", str(args.steps), "--guidance", str(args.guidance), *["--compile"] * args.compile)
    with tempfile.TemporaryDirectory() as empty:
        kept = {"ONDEVICE_CACHE": empty} if args.compile else {}
        for name, more in (("pages", ()), ("draw", steps)):
            if args.cold:
                forget(args.bundle)
            words = (name, "--started", repr(time.time()), *more)
            reports.append(probe("benchmarks.startup", args.bundle, *words, **kept))
    read, drawn = reports
    found = summary([tuple(row) for row in drawn["parts"]], drawn["device"], tuple(read["pages"]))
    print(json.dumps(found, indent=1) if args.json else to_text(found, read["mb"]))


def to_text(found: Mapping[str, Any], mb: float) -> str:
    """The table that is printed."""
    names = {"begun": "first UNet step begun after", "first": "first UNet step", "later": "a later UNet step"}
    names |= {"reading": f"reading {mb:,.0f} MB of weights", "beyond": "start-up beyond reading the weights"}
    names["built"] = "programs and buffers of all parts"
    rows = [*found["parts"], *((text, *found[name]) for name, text in names.items())]
    lines = [
        f"{'':<36} {'seconds':>8} {'of CPU':>8}",
        *(f"{part:<36} {wall:>8.3f} {cpu:>8.3f}" for part, wall, cpu in rows),
    ]
    added = f"launches add {found['overhead'] * 1e3:.0f} ms to a later step, {found['overhead_share']:.2%} of it"
    return "\n".join(
        [f"{line}  ({AIM})" if names["beyond"] in line else line for line in lines] + [f"{added} (aimed at: under 2 %)"]
    )


if __name__ == "__main__":
    main()
