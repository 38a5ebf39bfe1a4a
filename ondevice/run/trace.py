"""A profile's launches as a timeline in the trace event format,
which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A run is one slice, its launches are slices in it, and the track is the device's queue. Times are microseconds of the
device's own clock, counted from the first launch. `Profile.to_json` has sums and averages of the same times; a timeline
has each of them, and the gaps.
"""

from __future__ import annotations

from typing import Any

from ondevice.run.profile import Launch, Profile, rate

PROCESS, QUEUE = 1, 1  # the format's ids: one process, one track


def to_trace(profile: Profile) -> dict[str, Any]:
    """The trace as plain data. The profile must have kept its launches (`Session(..., trace=True)`)."""
    assert profile.launches is not None
    runs = [run for run in profile.launches if run]
    zero = min((launch.start for run in runs for launch in run), default=0.0)
    events: list[dict[str, Any]] = [
        {
            "ph": "M",
            "pid": PROCESS,
            "name": "process_name",
            "args": {"name": str(profile.device.get("name", "device"))},
        },
        {"ph": "M", "pid": PROCESS, "tid": QUEUE, "name": "thread_name", "args": {"name": "queue"}},
    ]
    for run in runs:
        row = run[0].row
        events.append(
            _slice(f"{row.component} {row.sizes}".rstrip(), "run", run[0].start, max(x.end for x in run), zero, {})
        )
        events += [_launch(launch, zero) for launch in run]
    return {"displayTimeUnit": "ms", "otherData": profile.device, "traceEvents": events}


def _launch(launch: Launch, zero: float) -> dict[str, Any]:
    row, took = launch.row, launch.end - launch.start
    about = {
        name: getattr(row, name) for name in ("component", "sizes", "number", "node", "op", "kernel", "grid", "group")
    }
    rates = {"GFLOP/s": round(rate(row.flops, took), 2), "GB/s": round(rate(row.nbytes, took), 2)}
    return _slice(f"{row.op} {row.kernel}", row.op, launch.start, launch.end, zero, about | rates)


def _slice(name: str, category: str, start: float, end: float, zero: float, args: dict[str, Any]) -> dict[str, Any]:
    """A complete event. Rounded to nanoseconds, as the clocks are: sums of floats must not make neighbours overlap."""
    begin = round((start - zero) * 1e6, 3)
    lasts = round(round((end - zero) * 1e6, 3) - begin, 3)
    return {
        "ph": "X",
        "pid": PROCESS,
        "tid": QUEUE,
        "name": name,
        "cat": category,
        "ts": begin,
        "dur": lasts,
        "args": args,
    }
