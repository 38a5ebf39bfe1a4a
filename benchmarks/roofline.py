"""What a device can do at most, measured in turns with what is compared with it:
fp32 multiply-adds, and bytes of a large copy.

In turns, because machines are shared: a core that others slow down is slower at all of these, and the part that is
reached stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ondevice.run.device import Device
from ondevice.run.timing import STEADY, Timing, in_turns, spread_of, summary

TEXT = Path(__file__).with_name("peak.cl")
STEPS = 20_000  # multiply-adds of each sum in a work-item
COPY_BYTES = 256 << 20  # beyond every cache
CHAINS = 12  # a CPU core has two units that take four cycles; a GPU hides the rest with other work-items
RUNS, WARMUP = 30, 2


@dataclass(frozen=True, slots=True)
class Reached:
    """Parts of the device's peak and copy that something reached:
    medians of its rounds, and how far those lie apart."""

    of_peak: float
    of_copy: float
    spread: float  # of the larger part
    gflop_per_s: float  # of the peak
    gb_per_s: float  # of the copy, bytes read and written

    @property
    def counts(self) -> bool:
        """Whether the rounds agree, however busy the machine was: a part of a slower core is still that part."""
        return self.spread <= STEADY

    def row(self) -> dict[str, object]:
        """As plain data."""
        return {**asdict(self), "counts": self.counts}


class Limits:
    """A device's peak and copy, to be launched in turns with something else."""

    def __init__(self, device: Device) -> None:
        self._device = device
        lanes, group, groups = _shape(device)
        steps, items = (STEPS if group == 1 else STEPS // 10), group * groups
        vectors = COPY_BYTES // (4 * lanes)
        movers = vectors // (1 << 12 if group == 1 else 16)
        source, target = device.alloc(COPY_BYTES, "copy"), device.alloc(COPY_BYTES, "copy")
        device.write(source, np.ones(COPY_BYTES // 4, np.float32))
        text = _source(lanes)
        self._peak = device.bind(
            device.build(text, "peak", "peak.cl"), [device.alloc(4 * lanes * items, "peak")], [steps]
        )
        per_item, stride = vectors // movers, 1 if group == 1 else movers
        self._copy = device.bind(device.build(text, "copy", "peak.cl"), [source, target], [per_item, stride])
        self._items, self._movers, self._group = items, movers, group
        self._flops = 2 * lanes * CHAINS * steps * items

    def peak(self) -> float:
        """Seconds of a launch that only multiplies and adds."""
        return self._launch(self._peak, self._items)

    def copy(self) -> float:
        """Seconds of a large copy."""
        return self._launch(self._copy, self._movers)

    def compare(
        self, name: str, call: Callable[[], float], *, flops: int = 0, moved_bytes: int = 0, budget_s: float = 1.0
    ) -> tuple[Timing, Reached]:
        """Time `call` in turns with both limits; arguments as of `timing.measure`."""
        times, peaks, copies = in_turns([call, self.peak, self.copy], runs=RUNS, warmup=WARMUP, budget_s=budget_s)
        of_peak = [flops / time / (self._flops / peak) for time, peak in zip(times, peaks, strict=True)]
        of_copy = [moved_bytes / time / (2 * COPY_BYTES / copy) for time, copy in zip(times, copies, strict=True)]
        larger = max(of_peak, of_copy, key=statistics.median)
        reached = Reached(
            statistics.median(of_peak),
            statistics.median(of_copy),
            spread_of(larger),
            self._flops / statistics.median(peaks) / 1e9,
            2 * COPY_BYTES / statistics.median(copies) / 1e9,
        )
        return summary(name, times, flops=flops, moved_bytes=moved_bytes), reached

    def _launch(self, bound: object, items: int) -> float:
        launched = self._device.launch(bound, (items, 1, 1), (self._group, 1, 1))
        self._device.finish()
        return self._device.seconds(launched)


def _shape(device: Device) -> tuple[int, int, int]:
    """(lanes of a vector, work-items of a group, groups): a CPU's work-items are whole cores, a GPU's are lanes."""
    return (16, 1, 256) if device.facts().get("kind") == "cpu" else (4, 64, 4096)


def _source(lanes: int) -> str:
    defines = {"VEC": f"float{lanes}", "VLOAD": f"vload{lanes}", "VSTORE": f"vstore{lanes}", "CHAINS": CHAINS}
    return "".join(f"#define {name} {value}\n" for name, value in defines.items()) + TEXT.read_text(encoding="utf-8")
