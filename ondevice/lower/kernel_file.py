"""Kernel files: read and check the header, join the body with a dialect's prelude, say which shapes fit and how to launch.

A header is nine TOML lines after `//:` (`op why in out args grid group tune needs`), `layout` where tunables say how a weight is stored,
and `inplace` where the kernel can work so. The argument list is written there and in the body's KERNEL(...) line; `read` refuses a file
where the two differ, so binding by the header is safe.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.base.paths import SHADERS
from ondevice.base.text.toml import parse_toml
from ondevice.errors import NoKernelError
from ondevice.lower.expression import ceil_div, evaluate
from ondevice.lower.expression import names as names_of

FIELDS = {
    "op": (str, list),
    "why": (str,),
    "in": (list,),
    "out": (list,),
    "args": (list,),
    "grid": (list,),
    "group": (list,),
    "tune": (dict,),
    "needs": (dict,),
}
LAYOUT = {"tune", "by", "gives"}
OPTIONAL = {"inplace": (dict,), "layout": (dict,), "with": (dict,), "reach": (dict,), "holds": (list,)}
# A header's type of an operand -> the body's.
STORAGE = {"stg": "stg", "wgt": "wgt", "bits": "bits", "src": "src", "dst": "dst", "f32": "float", "i32": "int"}
SCALARS = ("int", "float")
RULES = {"multiple": int, "min": int, "max": int, "equal": str}
DIALECTS = ("opencl", "metal")
OPERAND = re.compile(r"(\w+): (\w+)\[([^\]]+)\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARAMETER = re.compile(r"\b(IN|OUT|ARG)\((\w+), (\w+)\)")


@dataclass(frozen=True, slots=True)
class KernelFile:
    """One `shaders/*.cl` file: what it computes, how it is launched, what may be tuned."""

    name: str
    header: dict[str, Any]
    text: str

    @classmethod
    def read(cls, path: Path) -> KernelFile:
        """Read and check one file. Raises NoKernelError naming the file and the rule it breaks."""
        where = path.name
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoKernelError(f"byte {error.start} is not UTF-8.", where=where, fix="see shaders/README.md") from None
        try:
            header = parse_toml("\n".join(line[3:] for line in text.splitlines() if line.startswith("//:")).encode())
        except ValueError as error:
            raise NoKernelError(f"the header is not TOML: {error}.", where=where, fix="see shaders/README.md") from None
        _check(path.stem, header, text, where)
        return cls(path.stem, header, text)

    @property
    def ops(self) -> tuple[str, ...]:
        """The graph ops this file computes."""
        op = self.header["op"]
        return (op,) if isinstance(op, str) else tuple(op)

    @property
    def arg_types(self) -> dict[str, str]:
        """Scalar arguments in order: name -> "int" or "float"."""
        return dict(entry.split(": ") for entry in self.header["args"])

    @property
    def stored_by(self) -> tuple[str, ...]:
        """The tunables that say how a weight is stored. They are the same for every call that reads it, so `weight_at` alone picks them."""
        return tuple(self.header.get("layout", {}).get("tune", ()))

    def at(self, sizes: Mapping[str, int | float]) -> dict[str, int]:
        """What the tunables of a call may depend on: the sizes of its operands, its storage (F16), and what `layout` goes by.

        Args:
            sizes: a call's arguments and defines by name; a define that is 0 is as good as none.
        """
        gives = self.header.get("layout", {}).get("gives", ())
        own = [name for name in self._sizes if name in sizes and name not in gives]
        flags = [name for name in ("F16", *self.header.get("layout", {}).get("by", ())) if name not in own and sizes.get(name)]
        return {name: int(sizes[name]) for name in sorted({*own, *flags})}

    def weight_at(self, at: Mapping[str, int]) -> dict[str, int]:
        """The part of `at` that is about the weight: what `layout` goes by."""
        names = self.header.get("layout", {}).get("by", ())
        return {name: value for name, value in at.items() if names and name in (*names, "F16")}

    @property
    def _sizes(self) -> list[str]:
        """Names in the brackets of the operands; all whole numbers where there are none (a strided walk)."""
        text = " ".join(found[3] for field in ("in", "out") for entry in self.header[field] if (found := OPERAND.fullmatch(entry)))
        return sorted(set(re.findall(r"[A-Za-z_]\w*", text))) or [name for name, kind in self.arg_types.items() if kind == "int"]

    def source(self, dialect: str, **defines: int) -> str:
        """Full source. `#line` keeps the driver's errors pointing at the file a person edits."""
        if dialect not in DIALECTS:
            raise NoKernelError(f"unknown dialect (got {dialect!r}, expected one of {', '.join(DIALECTS)}).", where=f"{self.name}.cl")
        flags = "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items()))
        return f'{flags}{prelude(dialect)}#line 1 "{self.name}.cl"\n{self.text}'

    def misfit(self, dims: Mapping[str, int | float], only: Collection[str] | None = None) -> str | None:
        """Why this kernel cannot run on `dims`; None if it can. `only` these of its needs are looked at, where they are given."""
        for dim, rule in self.header["needs"].items():
            if only is not None and dim not in only:
                continue
            if dim not in dims:
                return f"{dim} is not given"
            value = dims[dim]
            if value % rule.get("multiple", 1):
                return f"{dim}={value} is not a multiple of {rule['multiple']}"
            if value < rule.get("min", value):
                return f"{dim}={value} is under {rule['min']}"
            if value > rule.get("max", value):
                return f"{dim}={value} is over {rule['max']}"
            if "equal" in rule and value != dims.get(rule["equal"]):
                return f"{dim}={value} is not {rule['equal']}={dims.get(rule['equal'])}"
        return None

    def tuning(self, at: Mapping[str, int | float] | None = None, /, **chosen: int) -> dict[str, int]:
        """Values for every tunable: `chosen` where given, else the header's own. Raises NoKernelError outside the lists.

        The header's own are the first listed, changed by `with` for each of its defines that is set in `at` (a call's sizes and defines).
        """
        tune: dict[str, list[int]] = self.header["tune"]
        for name, value in chosen.items():
            if value not in tune.get(name, ()):
                allowed = f"one of {tune[name]}" if name in tune else f"a tunable, which are {sorted(tune)}"
                raise NoKernelError(
                    f"bad tunable (got {name}={value}, expected {allowed}).", where=f"{self.name}.cl", fix="use a listed value"
                )
        own = {name: values[0] for name, values in tune.items()}
        for define, others in self.header.get("with", {}).items():
            own |= others if (at or {}).get(define) else {}
        return own | chosen

    def inplace(self, dims: Mapping[str, int | float], defines: Mapping[str, int]) -> int | None:
        """Which input may stand where the output is written; None where there is none, or where some elements are computed twice.

        The header's `inplace` is {INPUT = DIM}: vectors along DIM that would pass its end move back to end there, unless the weights are
        in panels; "" where that never happens.
        """
        for name, dim in self.header.get("inplace", {}).items():
            width = defines.get("V", 1) * defines.get("NV", 1)
            if not dim or defines.get("PANELS") or dims[dim] % width == 0:
                return [entry.partition(":")[0] for entry in self.header["in"]].index(name)
        return None

    def scalars(self, dims: Mapping[str, int | float]) -> tuple[int | float, ...]:
        """The header's `args` in order, taken from `dims` by name. Raises NoKernelError if one is missing or over 32 bits."""
        values: list[int | float] = []
        for name, kind in self.arg_types.items():
            if name not in dims:
                raise NoKernelError(f"argument {name!r} is not given (got {sorted(dims)}).", where=f"{self.name}.cl")
            value = float(dims[name]) if kind == "float" else int(dims[name])
            if kind == "int" and not -(2**31) <= value < 2**31:
                raise NoKernelError(
                    f"argument does not fit 32 bits (got {name}={value}).", where=f"{self.name}.cl", fix="use a smaller picture"
                )
            values.append(value)
        return tuple(values)

    def launch(self, dims: Mapping[str, int | float], tuning: Mapping[str, int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Work-items (rounded up to whole groups) and group size for `dims` and `tuning`."""
        names = {**dims, **tuning}
        try:
            grid = [evaluate(text, names) for text in self.header["grid"]]
            group = [evaluate(text, names) for text in self.header["group"]]
        except KeyError as error:
            raise NoKernelError(f"the launch needs {error.args[0]!r} (got {sorted(names)}).", where=f"{self.name}.cl") from None
        except ZeroDivisionError:
            raise NoKernelError(f"the launch divides by zero (got {dict(names)}).", where=f"{self.name}.cl") from None
        if min(grid + group) < 1:
            raise NoKernelError(f"nothing to launch (got grid {grid}, group {group} for {dict(dims)}).", where=f"{self.name}.cl")
        x, y, z = (ceil_div(size, step) * step for size, step in zip(grid, group, strict=True))
        return (x, y, z), (group[0], group[1], group[2])


@functools.cache
def prelude(dialect: str) -> str:
    """What stands before every kernel in that dialect: its own words, then those that both spell alike."""
    return "\n".join((SHADERS / "prelude" / f"{name}.h").read_text(encoding="utf-8") for name in (dialect, "common"))


def _check(name: str, header: dict[str, Any], text: str, where: str) -> None:
    """Raise NoKernelError unless the header is complete, well typed, and says the same as the body."""

    def refuse(what: str) -> NoKernelError:
        return NoKernelError(what, where=where, fix="see shaders/README.md")

    if wrong := sorted((header.keys() - OPTIONAL.keys()) ^ FIELDS.keys()):
        raise refuse(f"the header has missing or extra fields {wrong}.")
    if bad := [key for key, kinds in (FIELDS | OPTIONAL).items() if key in header and not isinstance(header[key], kinds)]:
        raise refuse(f"the header's {bad[0]} has the wrong type (got {header[bad[0]]!r}).")
    ops = header["op"] if isinstance(header["op"], list) else [header["op"]]
    if not ops or not all(isinstance(op, str) and op.isidentifier() for op in ops):
        raise refuse(f"op is not the name of an op, or a list of names (got {header['op']!r}).")

    expected: list[tuple[str, str, str]] = []
    dims: set[str] = set()
    for word, field in (("IN", "in"), ("OUT", "out")):
        for entry in header[field]:
            found = OPERAND.fullmatch(entry) if isinstance(entry, str) else None
            if not found or found[2] not in STORAGE:
                raise refuse(f"cannot read {field} entry (got {entry!r}, expected 'name: type[dims]' with a type of {sorted(STORAGE)}).")
            expected.append((word, STORAGE[found[2]], found[1]))
            dims |= set(re.findall(r"[A-Za-z_]\w*", found[3]))
    for entry in header["args"]:
        arg, _, kind = str(entry).partition(": ")
        if kind not in SCALARS:
            raise refuse(f"cannot read args entry (got {entry!r}, expected 'name: int' or 'name: float').")
        expected.append(("ARG", kind, arg))
        dims.add(arg)

    opening = re.search(r"\bKERNEL\((\w+)\)\((.*?) GRID\)", text, re.DOTALL)
    if not opening or opening[1] != name:
        raise refuse(f"the body does not open with KERNEL({name})(... GRID).")
    written = _PARAMETER.findall(opening[2])
    if written != expected:
        raise refuse(f"header and KERNEL(...) list different parameters (got {written}, expected {expected}).")

    body = "\n".join(line for line in text.splitlines() if not line.startswith("//:"))
    inputs = [name for word, _, name in expected if word == "IN"]
    for name, dim in header.get("inplace", {}).items():
        if name not in inputs or len(header["inplace"]) > 1 or not isinstance(dim, str) or (dim and dim not in dims):
            raise refuse(f"cannot read inplace (got {header['inplace']!r}, expected one input of {inputs} and a dim or '').")
        if not re.search(rf"\bOVERWRITTEN\({name}, \w+\)", body):
            raise refuse(f"it may find {name} where it writes, but its body does not read it as OVERWRITTEN({name}, ...).")
    for tunable, values in header["tune"].items():
        if not _NAME.fullmatch(tunable):
            raise refuse(f"tune.{tunable} has a name that is none.")
        if not isinstance(values, list) or not values or any(type(v) is not int or v < 1 for v in values) or len(set(values)) < len(values):
            raise refuse(f"tune.{tunable} is not a list of different positive numbers (got {values!r}).")
        used_by_launch = any(re.search(rf"\b{tunable}\b", str(e)) for e in header["grid"] + header["group"])
        if not used_by_launch and not re.search(rf"\b{tunable}\b", body):
            raise refuse(f"tunable {tunable} is used neither in the body nor in the launch.")
    for define, others in header.get("with", {}).items():
        listed = isinstance(others, dict) and all(value in header["tune"].get(tunable, ()) for tunable, value in others.items())
        if not listed or not _is_define(define, header, body):
            raise refuse(f"cannot read with.{define} (got {others!r}, expected listed values of tunables, and a define that is asked for).")
    _check_layout(header, dims, body, refuse)
    _check_bounds(header, body, refuse)
    for dim, rule in header["needs"].items():
        good = isinstance(rule, dict) and rule and all(type(v) is RULES.get(k) and (k != "equal" or v in dims) for k, v in rule.items())
        if not good:
            raise refuse(f"cannot read needs.{dim} (got {rule!r}, expected rules of {sorted(RULES)}).")
    for field, known in (("grid", dims | header["tune"].keys()), ("group", set(header["tune"]))):
        if len(header[field]) != 3:
            raise refuse(f"{field} needs three expressions (got {header[field]!r}).")
        for expression in header[field]:
            try:
                unknown = names_of(expression) - known
            except (SyntaxError, ValueError, TypeError) as error:
                raise refuse(f"cannot read {field} expression {expression!r}: {error}.") from None
            if unknown:
                raise refuse(f"{field} uses unknown names {sorted(unknown)}.")


def _is_define(name: object, header: dict[str, Any], body: str) -> bool:
    """Whether it is a define, spelled as those are, that the body or the prelude asks for and that is no tunable."""
    spelled = isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*|(ACT|OP)_\w+", name) is not None
    return spelled and name not in header["tune"] and re.search(rf"\b{name}\b", prelude("opencl") + body) is not None


def _check_layout(header: dict[str, Any], dims: set[str], body: str, refuse: Callable[[str], NoKernelError]) -> None:
    """A header's `layout` lists tunables, what they go by (dims, or defines), and the dims that follow from them."""
    layout = header.get("layout")
    if layout is None:
        return
    lists = isinstance(layout, dict) and layout.keys() == LAYOUT and all(map(_are_names, layout.values()))
    known = lists and set(layout["tune"]) <= header["tune"].keys() and set(layout["gives"]) <= dims
    if not known or not all(name in dims or _is_define(name, header, body) for name in layout["by"]):
        what = f"cannot read layout (got {layout!r}, expected lists: `tune` of tunables, `by` of dims or defines, `gives` of dims)."
        raise refuse(what)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _check_bounds(header: dict[str, Any], body: str, refuse: Callable[[str], NoKernelError]) -> None:
    """What a header says of memory, `reach` and `holds`, is in terms of what a call of it has: arguments, tunables and defines."""
    arguments = {str(entry).partition(": ")[0] for entry in header["args"]}
    shapes = {found[1]: found[3] for field in ("in", "out") for entry in header[field] if (found := OPERAND.fullmatch(entry))}
    reach, holds = header.get("reach", {}), header.get("holds", [])
    if unknown := sorted(reach.keys() - shapes.keys()):
        raise refuse(f"reach is of unknown operands {unknown}.")
    of_shapes = {f"the shape of {name}": f"({shape.replace(',', ') * (')})" for name, shape in shapes.items() if name not in reach}
    of_reach = {f"reach.{name}": text for name, text in reach.items()}
    for where, text, comparison in [
        *((where, text, False) for where, text in (of_reach | of_shapes).items()),
        *((f"holds {text!r}", text, True) for text in holds),
    ]:
        try:
            unknown = sorted(names_of(text, comparison=comparison) - arguments - header["tune"].keys())
        except (SyntaxError, ValueError, TypeError) as error:
            raise refuse(f"cannot read {where} ({text!r}): {error}.") from None
        if missing := [name for name in unknown if not _is_define(name, header, body)]:
            raise refuse(f"{where} uses {missing}, which are no arguments, tunables or defines; `reach` says what is meant.")


def load_all(folder: Path = SHADERS) -> dict[str, KernelFile]:
    """Every kernel file, by name."""
    return {path.stem: KernelFile.read(path) for path in sorted(folder.glob("*.cl"))}
