"""What a device can do at most, measured in the same run as what is compared with it: fp32 multiply-adds, and bytes of a large copy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ondevice.run.device import Device
from ondevice.run.timing import Timing, measure

TEXT = Path(__file__).with_name("peak.cl")
STEPS = 20_000  # multiply-adds of each sum in a work-item
COPY_BYTES = 256 << 20  # beyond every cache
CHAINS = 12  # a CPU core has two units that take four cycles; a GPU hides the rest with other work-items


@dataclass(frozen=True, slots=True)
class Roofline:
    """GFLOP/s of fp32 multiply-adds, GB/s of a copy (bytes read and written)."""

    gflop_per_s: float
    gb_per_s: float
    spread: float  # the larger one of the two

    def row(self) -> dict[str, float]:
        """As plain data."""
        return asdict(self)


def roofline(device: Device, budget_s: float = 1.0) -> Roofline:
    """Both limits of a device, by its own clock."""
    peak, copy = _peak(device, budget_s), _copy(device, budget_s)
    return Roofline(peak.gflop_per_s, copy.gb_per_s, max(peak.spread, copy.spread))


def _shape(device: Device) -> tuple[int, int, int]:
    """(lanes of a vector, work-items of a group, groups): a CPU's work-items are whole cores, a GPU's are lanes."""
    return (16, 1, 256) if device.facts().get("kind") == "cpu" else (4, 64, 4096)


def _peak(device: Device, budget_s: float) -> Timing:
    lanes, group, groups = _shape(device)
    steps = STEPS if group == 1 else STEPS // 10
    items = group * groups
    bound = device.bind(device.build(_source(lanes), "peak", "peak.cl"), [device.alloc(4 * lanes * items, "peak")], [steps])
    flops = 2 * lanes * CHAINS * steps * items
    return measure("peak", lambda: _launch(device, bound, items, group), flops=flops, budget_s=budget_s)


def _copy(device: Device, budget_s: float) -> Timing:
    lanes, group, _ = _shape(device)
    vectors = COPY_BYTES // (4 * lanes)
    items = vectors // (1 << 12 if group == 1 else 16)
    source, target = device.alloc(COPY_BYTES, "copy"), device.alloc(COPY_BYTES, "copy")
    device.write(source, np.ones(COPY_BYTES // 4, np.float32))
    count, stride = vectors // items, 1 if group == 1 else items
    bound = device.bind(device.build(_source(lanes), "copy", "peak.cl"), [source, target], [count, stride])
    return measure("copy", lambda: _launch(device, bound, items, group), moved_bytes=2 * COPY_BYTES, budget_s=budget_s)


def _source(lanes: int) -> str:
    defines = {"VEC": f"float{lanes}", "VLOAD": f"vload{lanes}", "VSTORE": f"vstore{lanes}", "CHAINS": CHAINS}
    return "".join(f"#define {name} {value}\n" for name, value in defines.items()) + TEXT.read_text(encoding="utf-8")


def _launch(device: Device, bound: object, items: int, group: int) -> float:
    launched = device.launch(bound, (items, 1, 1), (group, 1, 1))
    device.finish()
    return device.seconds(launched)
