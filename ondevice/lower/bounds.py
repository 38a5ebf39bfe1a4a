"""Whether a launch of one of our kernels stays inside its operands and ends: its header, at the call's numbers.

Lowering makes launches that do. A plan that was read from a file says it does, and is asked here: what the arguments
mean, the header knows (shaders/README.md, `reach` and `holds`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ondevice.errors import NoKernelError
from ondevice.lower.expression import evaluate, names
from ondevice.lower.header import OPERAND, STORAGE, governing
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import DTYPES, MATH_DEFINE, TEXEL, USES

LIMIT = 2**31  # elements of an operand: kernels index with 32 bits
NUMBERS = ("D", "KEYS", "SPAN")  # defines that are sizes, bounded by `holds`; all others are off or on
_DEFAULT = re.compile(r"#ifndef (\w+)\b[^\n]*\n#define \1 (\d+)")
_ACTIVATION = re.compile(r"ACT_\w+")


@dataclass(frozen=True, slots=True)
class Launch:
    """A dispatch as a plan has it: of each operand its dtype and its elements, inputs first; width and height of those
    that are images, by their numbers."""

    defines: Mapping[str, int]
    operands: Sequence[tuple[str, int]]
    outputs: int
    scalars: Sequence[int | float]
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    images: Mapping[int, tuple[int, int]] = field(default_factory=dict)


class Bounds:
    """What a kernel's header says of its launches."""

    def __init__(self, kernel: KernelFile) -> None:
        self.kernel, header = kernel, kernel.header
        reach: dict[str, str] = header.get("reach", {})
        self._operands: list[tuple[str, str, str]] = []  # name, type, elements that are touched from the first on
        self._sizes: set[str] = set(header["grid"])  # expressions of what is 1 or more
        for operands in ("in", "out"):
            for entry in header[operands]:
                found = OPERAND.fullmatch(entry)
                assert found is not None, "KernelFile.read has seen it"
                name, kind, shape = found.groups()
                self._operands.append((name, kind, kernel.touched(found)))
                self._sizes |= set() if name in reach else {part.strip() for part in shape.split(",")}
        self._sizes = set().union(*map(names, self._sizes)) & (
            {name for name, kind in kernel.arg_types.items() if kind == "int"} | {"D"}
        )
        self._holds: list[str] = header.get("holds", [])
        self._defaults = {name: int(value) for name, value in _DEFAULT.findall(kernel.text)}
        said = set().union(
            *(names(text) for _, _, text in self._operands), *(names(text, comparison=True) for text in self._holds)
        )
        moved = {"SRC_F16", "DST_F16"} if any(kind in ("src", "dst") for _, kind, _ in self._operands) else set()
        self._defines = (
            said - kernel.arg_types.keys() | self._defaults.keys() | moved | {"F16", *(f"OP_{op}" for op in kernel.ops)}
        )
        self._defines |= {"INPLACE"} if "inplace" in header else set()
        self._maths = {f"{MATH_DEFINE}{math}" for math in kernel.maths}
        self._defines |= self._maths
        self._folds = {f"FOLD_{name}": f"IMAGE_{name}" for name in kernel.textures}
        self._defines |= {*self._folds, *self._folds.values()} | {USES[cap] for cap in kernel.uses if cap in USES}

    def misuse(self, launch: Launch) -> str | None:
        """What is wrong with a launch, as a field and what is wrong with it; None where nothing is."""
        header, tune = self.kernel.header, self.kernel.header["tune"]
        for name, value in launch.defines.items():
            if name in tune:
                if value not in tune[name]:
                    return f"define {name} is {value} (expected one of {tune[name]})"
            elif name not in self._defines and not _ACTIVATION.fullmatch(name):
                return f"define {name} is none of the kernel's"
            elif name in self._folds:
                if value < 1 or value & (value - 1) or not launch.defines.get(self._folds[name]):
                    return f"define {name} is {value} (expected a power of two, beside {self._folds[name]}=1)"
            elif name not in NUMBERS and value not in (0, 1):
                return f"define {name} is {value} (expected 0 or 1)"
        if missing := sorted(tune.keys() - launch.defines.keys()):
            return f"define {missing[0]} is missing"
        if self._maths and sum(launch.defines.get(name, 0) for name in self._maths) != 1:
            return f"it multiplies in none, or in several maths (expected one of {', '.join(sorted(self._maths))})"
        counts = len(header["in"]), len(header["out"]), len(header["args"])
        if counts != (len(launch.operands) - launch.outputs, launch.outputs, len(launch.scalars)):
            return (
                f"it has other arguments than the kernel (expected {counts[0]} inputs, "
                f"{counts[1]} outputs, {counts[2]} scalars)"
            )
        return self._values(launch) or self._launch(launch)

    def _values(self, launch: Launch) -> str | None:
        """Sizes, what must hold between them, and how far each operand is used."""
        values: dict[str, int | float] = {**dict.fromkeys(self._defines, 0), **self._defaults, **launch.defines}
        for (name, kind), value in zip(self.kernel.arg_types.items(), launch.scalars, strict=True):
            if kind == "int" and (type(value) is not int or value < 0):
                return f"{name} is {value} (expected a whole number, 0 or more)"
            if kind == "float" and type(value) is not float:
                return f"{name} is {value} (expected a float)"
            values[name] = value
        for name in sorted(self._sizes):
            if values[name] < 1:
                return f"{name} is {values[name]} (expected 1 or more)"
        given = {name: value for name, value in values.items() if name in self.kernel.header["needs"]}
        if given and (why := self.kernel.misfit(values, given)):
            return why
        try:
            if broken := next((text for text in self._holds if not evaluate(text, values, comparison=True)), None):
                shown = ", ".join(f"{name}={values[name]}" for name in sorted(names(broken, comparison=True)))
                return f"{broken} does not hold ({shown})"
            for number, ((name, kind, text), (dtype, elements)) in enumerate(
                zip(self._operands, launch.operands, strict=True)
            ):
                if launch.defines.get("INPLACE") and name in self.kernel.header["inplace"]:
                    continue  # a stand-in
                used = evaluate(text, values)
                if wrong := self._no_image(number, name, launch, values):
                    return f"operand {number} ({name}) {wrong}"
                if used <= 0:
                    continue
                if wrong := _mistyped(kind, dtype, values):
                    return f"operand {number} ({name}) is {dtype} (expected {wrong})"
                if used > elements or elements >= LIMIT:
                    most = min(elements, LIMIT - 1)
                    return (
                        f"operand {number} ({name}) has {elements} elements, and the kernel uses {used} "
                        f"(expected at most {most})"
                    )
        except ZeroDivisionError:
            return "a size that others are divided by is 0"
        return None

    def _no_image(self, number: int, name: str, launch: Launch, values: Mapping[str, int | float]) -> str | None:
        """What is wrong with an operand that is an image, or should be one; None where nothing is.
        That an image has all elements that are touched, in rows of as many as it is read in, is all that must hold."""
        size = launch.images.get(number)
        if not launch.defines.get(f"IMAGE_{name}") or name not in self.kernel.textures:
            return None if size is None else "is an image (expected a buffer)"
        if (fold := launch.defines.get(f"FOLD_{name}")) is None:
            return f"has no define FOLD_{name}"
        row = evaluate(self.kernel.textures[name][0], values)
        if size is None or TEXEL * size[0] != fold * row:
            got = "a buffer" if size is None else f"an image of {size[0]} texels per row"
            return f"is {got} (expected an image with rows of {fold} x {row} values)"
        return None

    def _launch(self, launch: Launch) -> str | None:
        dims = dict(zip(self.kernel.arg_types, launch.scalars, strict=True))
        try:
            grid, group = self.kernel.launch(dims, {name: launch.defines[name] for name in self.kernel.header["tune"]})
        except NoKernelError as error:
            return error.what
        if (grid, group) != (launch.grid, launch.group):
            return f"grid is {list(launch.grid)} of {list(launch.group)} (expected {list(grid)} of {list(group)})"
        return None


def _mistyped(kind: str, dtype: str, defines: Mapping[str, int | float]) -> str | None:
    """The dtype that a header's type of an operand has with these defines, where it is not this one."""
    define = governing(kind, defines)
    if kind == "bits":  # moved as it is
        wide = 2 if defines[define] else 4
        return None if DTYPES[dtype] == wide else f"{wide} bytes per element"
    if define:
        wanted = "f16" if defines[define] else "f32"
    elif kind == "scl":
        wanted = "f16" if defines["W4"] else "f32"
    elif STORAGE[kind] == "wgt":
        wanted = "i8" if defines["W8"] else "u4x2"
    else:
        wanted = kind
    return None if dtype == wanted else wanted
