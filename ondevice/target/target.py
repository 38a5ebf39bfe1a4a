"""What a plan is made for, as data: methods that pay, tunables, what the devices can do, and what they cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ondevice.target.avoid import Avoided
from ondevice.target.tuning import Tuning

CLASSES = ("portable", "cpu", "mobile")  # of kernels: a folder of shaders/ each
# Of computing an op: what a target bounds and `--without` leaves out one by one. An op has a plain way beside them.
METHODS = ("flash", "winograd", "two_commands")
ALL = "all"  # of `--without`: leaves every fusion and every method out
# What a kernel may need of a device beyond OpenCL 1.2, and a target says that its devices have.
CAPABILITIES = {
    "half": "arithmetic in half precision",
    "image2d": "operands that are read as images",
    "matrix_unit": "products of small matrices in one instruction",
    "subgroups": "exchange between the work-items that run side by side",
    "wave_constants": "loads of constants for all work-items that run side by side at once",
}
# What the products of a kernel are multiplied in; sums, norms and softmax are in float32 in all of them.
MATHS = {
    "fp32": "single precision",
    "bf16": "bfloat16 (8 bits): one product",
    "bf16x3": "halves split in two of bfloat16 (16 bits): three products",
}
FP32 = "fp32"  # of MATHS what a kernel computes in that does not say
BOUNDS = {
    "winograd": {"min_channels", "min_outputs", "min_tiles", "stored", "groups"},
    "flash": {"max_head", "min_queries", "min_keys"},
    "group_norm": {"two_commands"},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a target's devices take; None where a target does not say.

    `work_group` is work-items of a group, whatever registers a kernel needs; `local_memory` and `allocation` (of one
    buffer) are bytes; an image is `image_width` texels by `image_height` rows at most, and its rows begin at multiples
    of `pitch_alignment` texels; `sub_group` is how many work-items run side by side.
    """

    work_group: int | None = None
    local_memory: int | None = None
    image_width: int | None = None
    image_height: int | None = None
    allocation: int | None = None
    sub_group: int | None = None
    pitch_alignment: int | None = None

    def refuses_group(self, group: Sequence[int]) -> str | None:
        """Why a work-group of these sizes cannot be; None if it can."""
        return _over("a work-group", prod(group), self.work_group, "work-items")

    def refuses_local(self, nbytes: int) -> str | None:
        """The same of a group's local memory."""
        return _over("local memory", nbytes, self.local_memory, "bytes")


def _over(what: str, value: int, most: int | None, unit: str) -> str | None:
    return f"{what} of {value:,} {unit} is over {most:,}" if most is not None and value > most else None


@dataclass(frozen=True, slots=True)
class Roofline:
    """What a target's devices reach at best: 10^12 operations per second in single and in half precision, 10^9 bytes
    per second, and the microseconds that a launch takes before it does any work. `source` says where from."""

    fp32_tflops: float
    fp16_tflops: float
    gb_per_s: float
    launch_us: float
    source: str


@dataclass(frozen=True, slots=True)
class Target:
    """`tuning` are measured tunables, most specific file first; `tune` holds those of kernels that are in none of them,
    by kernel name. A kernel that is in neither keeps the defaults of its header.

    `kernel_class` is the class of kernels that it has beside the portable ones, which run anywhere: "cpu" for one
    work-item per group with a cache of its own, "mobile" for GPUs of phones. `caps` are the CAPABILITIES that its
    devices have, and `limits` what they do not exceed. For "cpu" and "mobile", weights of products are stored in
    `panels`: as the kernels' tiles read them, columns after columns, not row by row. `winograd` and `flash` bound the
    shapes for which these methods are chosen (a missing bound allows all): least channels of a 3x3 convolution's input
    and output and least 4x4 tiles of its result; the largest head and the least queries and keys of an attention.
    `winograd.stored`: from so many tiles per picture on, class "cpu" stores weights transformed (never by default);
    `winograd.groups`: how many work-items share a convolution then, each with scratch of its own (8 by default).
    `group_norm.two_commands`: from so many pixels on, a group norm is two commands (never by default).
    `scratch` is how many bytes a method may use between its own kernels; what needs more is done in bands. For
    "mobile", it may have what is idle in the arena, too (`ondevice.compiler.programs`).
    `device_words`: a device whose name or version contains one of them is one of this target's.
    `avoided`: files of programs that its devices compute wrongly, of which no plan has one.
    `maths`: in which of MATHS beside float32 its matrix unit multiplies faster than that; `outruns`: methods that are
    faster there than the plain way in the unit, in its math where there is a kernel, and in float32. `math`: in which
    of MATHS products are asked for.
    """

    name: str
    why: str
    kernel_class: str
    winograd: Mapping[str, int]
    flash: Mapping[str, int]
    group_norm: Mapping[str, int]
    scratch: int
    tune: Mapping[str, Mapping[str, int]]
    tuning: Sequence[Tuning] = ()
    caps: frozenset[str] = frozenset()
    limits: Limits = field(default=Limits())
    roofline: Roofline | None = None
    device_words: tuple[str, ...] = ()
    avoided: Sequence[Avoided] = ()
    maths: tuple[str, ...] = ()
    outruns: tuple[str, ...] = ()
    math: str = FP32

    @property
    def panels(self) -> bool:
        return self.kernel_class != "portable"

    def bounds(self, method: str) -> Mapping[str, int]:
        """Where it says that one of METHODS pays."""
        return {"flash": self.flash, "winograd": self.winograd, "two_commands": self.group_norm}.get(method, {})

    def asked(self, math: str) -> Target:
        """The target with products asked for in one of MATHS."""
        return replace(self, math=math)

    def unwanted(self, maths: Collection[str]) -> str | None:
        """Why a kernel that multiplies in these beside float32 is not taken for what is asked for; None if it is."""
        if self.math == FP32 or self.math not in maths or self.math in self.maths:
            return None
        return f"{self.math} does not pay on target {self.name}"

    def refuses(self, kernel_class: str, caps: Collection[str]) -> str | None:
        """Why a kernel of this class that needs these capabilities does not run on it; None if it does."""
        if kernel_class not in ("portable", self.kernel_class):
            return f"it is of class {kernel_class} (target {self.name} has {self.kernel_class})"
        missing = sorted(set(caps) - self.caps)
        return f"it needs {', '.join(missing)}, which target {self.name} has not" if missing else None
