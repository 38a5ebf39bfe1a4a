"""Kernel files: read the header (header.py checks it), join the body with a dialect's prelude,
say which shapes fit and how to launch.

A header is eleven TOML lines after `//:` (`op class caps why in out args grid group tune needs`), and more where they
are needed (shaders/README.md). The argument list is written there and in the body's KERNEL(...) line; `read` refuses a
file where the two differ, so binding by the header is safe.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.base.paths import SHADERS
from ondevice.base.text.toml import parse_toml
from ondevice.errors import NoKernelError
from ondevice.lower.expression import ceil_div, evaluate
from ondevice.lower.header import IMAGES, OPERAND, check_header, words_of
from ondevice.lower.prelude import ANYWHERE, DIALECTS, prelude
from ondevice.lower.program import USES
from ondevice.target import CLASSES


@functools.lru_cache(maxsize=256)
def _header(name: str, text: str) -> dict[str, Any]:
    """A file's header, checked once however often the file is read. Raises NoKernelError."""
    where = f"{name}.cl"
    try:
        header = parse_toml("\n".join(line[3:] for line in text.splitlines() if line.startswith("//:")).encode())
    except ValueError as error:
        raise NoKernelError(f"the header is not TOML: {error}.", where=where, fix="see shaders/README.md") from None
    check_header(name, header, text, where)
    return header


@dataclass(frozen=True, slots=True)
class KernelFile:
    """One `shaders/CLASS/*.cl` file: what it computes, how it is launched, what may be tuned."""

    name: str
    header: dict[str, Any]
    text: str

    @classmethod
    def read(cls, path: Path) -> KernelFile:
        """Read and check one file. Raises NoKernelError naming the file and the rule it breaks."""
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"byte {error.start} is not UTF-8."
            raise NoKernelError(what, where=path.name, fix="see shaders/README.md") from None
        return cls.parse(path.stem, text)

    @classmethod
    def parse(cls, name: str, text: str) -> KernelFile:
        """Check a file's text, wherever it was read. Raises NoKernelError naming the file and the rule it breaks."""
        return cls(name, _header(name, text), text)

    @property
    def ops(self) -> tuple[str, ...]:
        """The graph ops this file computes."""
        op = self.header["op"]
        return (op,) if isinstance(op, str) else tuple(op)

    @property
    def kernel_class(self) -> str:
        """The class of targets that it is for; "portable" for all."""
        return str(self.header["class"])

    @property
    def caps(self) -> tuple[str, ...]:
        """The capabilities of a device that it needs."""
        return tuple(self.header["caps"])

    @property
    def uses(self) -> tuple[str, ...]:
        """The capabilities that it takes advantage of where a device has them: a define each."""
        return tuple(self.header.get("uses", ()))

    @property
    def maths(self) -> tuple[str, ...]:
        """Of `ondevice.target.MATHS` those that it multiplies in, a define each (`math_define`); none: float32."""
        return tuple(self.header.get("math", ()))

    def built_on(self, defines: Mapping[str, int]) -> set[str]:
        """The capabilities without which a build with these defines does not run, whatever the dialect."""
        used = {cap for cap in self.uses if cap in USES and defines.get(USES[cap])}
        images = any(defines.get(f"IMAGE_{name}") for name in self.textures)
        return {*self.caps, *used, *(["image2d"] if images else [])} - ANYWHERE

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, in order."""
        return tuple(entry.partition(":")[0] for entry in self.header["in"])

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types of its operands, inputs then outputs: keys of `ondevice.lower.header.STORAGE`."""
        found = [OPERAND.fullmatch(entry) for entry in (*self.header["in"], *self.header["out"])]
        return tuple(entry[2] for entry in found if entry is not None)

    @property
    def textures(self) -> dict[str, tuple[str, str]]:
        """Its inputs that may be read as images, with the define IMAGE_<name>: expressions of the elements of a row,
        and of those that are touched in all."""
        found = [entry for text in self.header["in"] if (entry := OPERAND.fullmatch(text)) and entry[2] in IMAGES]
        return {entry[1]: (entry[3].rpartition(",")[2].strip(), self.touched(entry)) for entry in found}

    def touched(self, operand: re.Match[str]) -> str:
        """Expression of how many elements of an operand, as OPERAND finds it in the header, a launch may touch."""
        return str(self.header.get("reach", {}).get(operand[1], f"({operand[3].replace(',', ') * (')})"))

    def asked(self, defines: Mapping[str, int]) -> dict[str, int]:
        """Those defines that it asks for."""
        words = words_of(self.text)
        return {name: value for name, value in defines.items() if name in words}

    @property
    def method(self) -> str:
        """The method that it is a kernel of; "" for the plain way to compute its ops."""
        return str(self.header.get("method", ""))

    @property
    def after(self) -> str:
        """The kernel whose work it goes on with; "" where it is the first, or the only one."""
        return str(self.header.get("after", ""))

    @property
    def tuned_needs(self) -> frozenset[str]:
        """Those of its needs that name a tunable."""
        tune = self.header["tune"]
        return frozenset(
            dim
            for dim, rule in self.header["needs"].items()
            if any(isinstance(v, str) and v in tune for v in rule.values())
        )

    @property
    def arg_types(self) -> dict[str, str]:
        """Scalar arguments in order: name -> "int" or "float"."""
        return dict(entry.split(": ") for entry in self.header["args"])

    @property
    def stored_by(self) -> tuple[str, ...]:
        """The tunables that say how a weight is stored.
        They are the same for every call that reads it, so `weight_at` alone picks them."""
        return tuple(self.header.get("layout", {}).get("tune", ()))

    def at(self, sizes: Mapping[str, int | float]) -> dict[str, int]:
        """What the tunables of a call may depend on: the sizes of its operands, its storage (F16),
        and what `layout` goes by.

        Args:
            sizes: a call's arguments and defines by name; a define that is 0 is as good as none.
        """
        gives = self.header.get("layout", {}).get("gives", ())
        own = [name for name in self._sizes if name in sizes and name not in gives]
        flags = [
            name
            for name in ("F16", *self.header.get("layout", {}).get("by", ()))
            if name not in own and sizes.get(name)
        ]
        return {name: int(sizes[name]) for name in sorted({*own, *flags})}

    def weight_at(self, at: Mapping[str, int]) -> dict[str, int]:
        """The part of `at` that is about the weight: what `layout` goes by."""
        names = self.header.get("layout", {}).get("by", ())
        return {name: value for name, value in at.items() if names and name in (*names, "F16")}

    def variant(self, at: Mapping[str, int]) -> dict[str, int]:
        """The part of `at` for which the header's own tunables differ: the defines of its `with` that are set."""
        return {name: 1 for name in self.header.get("with", {}) if at.get(name)}

    @property
    def _sizes(self) -> list[str]:
        """Names in the brackets of the operands; all whole numbers where there are none (a strided walk)."""
        text = " ".join(
            found[3] for field in ("in", "out") for entry in self.header[field] if (found := OPERAND.fullmatch(entry))
        )
        return sorted(set(re.findall(r"[A-Za-z_]\w*", text))) or [
            name for name, kind in self.arg_types.items() if kind == "int"
        ]

    def source(self, dialect: str, **defines: int) -> str:
        """Full source. `#line` keeps the driver's errors pointing at the file a person edits."""
        if dialect not in DIALECTS:
            raise NoKernelError(
                f"unknown dialect (got {dialect!r}, expected one of {', '.join(DIALECTS)}).", where=f"{self.name}.cl"
            )
        flags = "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items()))
        return f'{flags}{prelude(dialect)}#line 1 "{self.name}.cl"\n{self.text}'

    def misfit(self, dims: Mapping[str, int | float], only: Collection[str] | None = None) -> str | None:
        """Why this kernel cannot run on `dims`; None if it can.
        `only` these of its needs are looked at, where they are given."""
        for dim, rule in self.header["needs"].items():
            if only is not None and dim not in only:
                continue
            if missing := [name for name in (dim, *rule.values()) if isinstance(name, str) and name not in dims]:
                return f"{missing[0]} is not given"
            value = dims[dim]
            limits = {kind: dims[limit] if isinstance(limit, str) else limit for kind, limit in rule.items()}
            shown = {
                kind: f"{rule[kind]}={limit}" if isinstance(rule[kind], str) else limit
                for kind, limit in limits.items()
            }
            if value % limits.get("multiple", 1):
                return f"{dim}={value} is not a multiple of {shown['multiple']}"
            if value < limits.get("min", value):
                return f"{dim}={value} is under {shown['min']}"
            if value > limits.get("max", value):
                return f"{dim}={value} is over {shown['max']}"
            if value != limits.get("equal", value):
                return f"{dim}={value} is not {shown['equal']}"
        return None

    def tuning(self, at: Mapping[str, int | float] | None = None, /, **chosen: int) -> dict[str, int]:
        """Values for every tunable: `chosen` where given, else the header's own.
        Raises NoKernelError outside the lists.

        The header's own are the first listed, changed by `with` for each of its defines that is set in `at` (a call's
        sizes and defines).
        """
        tune: dict[str, list[int]] = self.header["tune"]
        for name, value in chosen.items():
            if value not in tune.get(name, ()):
                allowed = f"one of {tune[name]}" if name in tune else f"a tunable, which are {sorted(tune)}"
                raise NoKernelError(
                    f"bad tunable (got {name}={value}, expected {allowed}).",
                    where=f"{self.name}.cl",
                    fix="use a listed value",
                )
        own = {name: values[0] for name, values in tune.items()}
        for define, others in self.header.get("with", {}).items():
            own |= others if (at or {}).get(define) else {}
        return own | chosen

    def inplace(self, dims: Mapping[str, int | float], defines: Mapping[str, int]) -> int | None:
        """Which input may stand where the output is written;
        None where there is none, or where some elements are computed twice.

        The header's `inplace` is {INPUT = DIM}: vectors along DIM that would pass its end move back to end there,
        unless the weights are in panels; "" where that never happens.
        """
        for name, dim in self.header.get("inplace", {}).items():
            width = defines.get("V", 1) * defines.get("NV", 1)
            if not dim or defines.get("PANELS") or dims[dim] % width == 0:
                return self.inputs.index(name)
        return None

    def scalars(self, dims: Mapping[str, int | float]) -> tuple[int | float, ...]:
        """The header's `args` in order, taken from `dims` by name.
        Raises NoKernelError if one is missing or over 32 bits."""
        values: list[int | float] = []
        for name, kind in self.arg_types.items():
            if name not in dims:
                raise NoKernelError(f"argument {name!r} is not given (got {sorted(dims)}).", where=f"{self.name}.cl")
            value = float(dims[name]) if kind == "float" else int(dims[name])
            if kind == "int" and not -(2**31) <= value < 2**31:
                raise NoKernelError(
                    f"argument does not fit 32 bits (got {name}={value}).",
                    where=f"{self.name}.cl",
                    fix="use a smaller picture",
                )
            values.append(value)
        return tuple(values)

    def launch(
        self, dims: Mapping[str, int | float], tuning: Mapping[str, int]
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Work-items (rounded up to whole groups) and group size for `dims` and `tuning`."""
        names = {**dims, **tuning}
        try:
            grid = [evaluate(text, names) for text in self.header["grid"]]
            group = [evaluate(text, names) for text in self.header["group"]]
        except KeyError as error:
            raise NoKernelError(
                f"the launch needs {error.args[0]!r} (got {sorted(names)}).", where=f"{self.name}.cl"
            ) from None
        except ZeroDivisionError:
            raise NoKernelError(f"the launch divides by zero (got {dict(names)}).", where=f"{self.name}.cl") from None
        if min(grid + group) < 1:
            raise NoKernelError(
                f"nothing to launch (got grid {grid}, group {group} for {dict(dims)}).", where=f"{self.name}.cl"
            )
        x, y, z = (ceil_div(size, step) * step for size, step in zip(grid, group, strict=True))
        return (x, y, z), (group[0], group[1], group[2])


def kernel_paths(folder: Path = SHADERS) -> dict[str, Path]:
    """Where every kernel file is, by its name: `folder`/CLASS/NAME.cl. A bundle keeps them by name alone.

    Raises:
        NoKernelError: two classes have a kernel of one name.
    """
    paths: dict[str, Path] = {}
    for path in sorted(path for kind in CLASSES for path in (folder / kind).glob("*.cl")):
        if (other := paths.setdefault(path.stem, path)) != path:
            what = (
                f"{other.parent.name} has a kernel of this name, too (expected one kernel per name: "
                "bundles keep them by name)."
            )
            raise NoKernelError(what, where=f"{path.parent.name}/{path.name}", fix="rename one of them")
    return paths


def load_all(folder: Path = SHADERS) -> dict[str, KernelFile]:
    """Every kernel file, by name.

    Raises:
        NoKernelError: one cannot be read, says that it is of another class than its folder, or goes on after a kernel
            of another way.
    """
    kernels = {}
    for name, path in sorted(kernel_paths(folder).items()):
        kernels[name] = kernel = KernelFile.read(path)
        if kernel.kernel_class != path.parent.name:
            what = f"its header says class {kernel.kernel_class} (expected {path.parent.name}, as its folder)."
            raise NoKernelError(what, where=f"{path.parent.name}/{path.name}", fix="move the file, or change its class")
    for kernel in kernels.values():
        before = kernels.get(kernel.after)
        same = before and (before.ops, before.kernel_class, before.method) == (
            kernel.ops,
            kernel.kernel_class,
            kernel.method,
        )
        if kernel.after and not same:
            what = f"it goes on after {kernel.after}, which is no kernel of the same ops, class and method."
            raise NoKernelError(what, where=f"{kernel.name}.cl", fix="see shaders/README.md")
    return kernels
