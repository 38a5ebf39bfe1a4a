"""What the header of a kernel file may say, and the check that it fits the body:
binding by the header is safe only then."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from ondevice.errors import NoKernelError
from ondevice.lower.expression import names as names_of
from ondevice.lower.prelude import DIALECTS, prelude, words
from ondevice.target import CAPABILITIES, CLASSES, FP32, MATHS, METHODS

FIELDS = {
    "op": (str, list),
    "class": (str,),
    "caps": (list,),
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
OPTIONAL = {
    "method": (str,),
    "after": (str,),
    "uses": (list,),
    "math": (list,),
    "inplace": (dict,),
    "layout": (dict,),
    "with": (dict,),
    "reach": (dict,),
    "holds": (list,),
}
# A header's type of an operand -> the body's.
STORAGE = {
    "stg": "stg",
    "tex": "stg",
    "wgt": "wgt",
    "wtex": "wgt",
    "blocks": "wgt",
    "stage": "stg",
    "scl": "scl",
    "bits": "bits",
    "src": "src",
    "dst": "dst",
    "f32": "float",
    "i32": "int",
}
IMAGES = ("tex", "wtex")  # types of inputs that may be read as images
WORDED = (*IMAGES, "blocks", "stage")  # types of inputs that have a word of the prelude each: IN_TEX(name)
SCALARS = ("int", "float")
# Operands that words of the prelude read as OVERWRITTEN -> those words.
READ_BY = {"residual": "ADD_RESIDUAL|FINISH|FINISH_ROW|WINOGRAD_STORE_STRIP|STORE_PRODUCT|STORE_ROWS|STORE_PIXELS"}
RULES = {"multiple": (int, str), "min": (int, str), "max": (int, str), "equal": (str,)}  # a word: a dim, or a tunable
OPERAND = re.compile(r"(\w+): (\w+)\[([^\]]+)\]")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARAMETER = re.compile(r"\b(IN|OUT|ARG)\((\w+), (\w+)\)|\bIN_(TEX|WTEX|BLOCKS|STAGE)\((\w+)\)")


@functools.lru_cache(maxsize=256)
def words_of(text: str) -> frozenset[str]:
    """The words of a prelude, or of a kernel's text."""
    return frozenset(re.findall(r"\w+", text))


def governing(kind: str, defines: Mapping[str, int | float]) -> str:
    """The define that says whether an operand of a header's type is half or single precision, in a program of these
    defines; "" where its dtype is another matter."""
    if kind in ("src", "dst"):
        return f"{kind.upper()}_F16"
    quantized = STORAGE[kind] == "wgt" and (defines.get("W8") or defines.get("W4"))
    return "F16" if STORAGE[kind] in ("stg", "wgt", "bits") and not quantized else ""


def check_header(name: str, header: dict[str, Any], text: str, where: str) -> None:
    """Raise NoKernelError unless the header is complete, well typed, and says the same as the body."""

    def refuse(what: str) -> NoKernelError:
        return NoKernelError(what, where=where, fix="see shaders/README.md")

    if wrong := sorted((header.keys() - OPTIONAL.keys()) ^ FIELDS.keys()):
        raise refuse(f"the header has missing or extra fields {wrong}.")
    if bad := [
        key for key, kinds in (FIELDS | OPTIONAL).items() if key in header and not isinstance(header[key], kinds)
    ]:
        raise refuse(f"the header's {bad[0]} has the wrong type (got {header[bad[0]]!r}).")
    ops = header["op"] if isinstance(header["op"], list) else [header["op"]]
    if not ops or not all(isinstance(op, str) and op.isidentifier() for op in ops):
        raise refuse(f"op is not the name of an op, or a list of names (got {header['op']!r}).")

    if header["class"] not in CLASSES:
        raise refuse(f"class is unknown (got {header['class']!r}, expected one of {', '.join(CLASSES)}).")
    for field in ("caps", "uses"):
        if unmet := [cap for cap in header.get(field, ()) if not isinstance(cap, str) or cap not in CAPABILITIES]:
            raise refuse(f"{field} has the unknown {unmet[0]!r} (expected some of {', '.join(CAPABILITIES)}).")

    if header.get("method", METHODS[0]) not in METHODS:
        raise refuse(f"method is unknown (got {header['method']!r}, expected one of {', '.join(METHODS)}).")

    others = [name for name in MATHS if name != FP32]
    if header.get("math") == [] or any(name not in others for name in header.get("math", ())):
        raise refuse(f"cannot read math (got {header['math']!r}, expected some of {', '.join(others)}).")

    expected: list[tuple[str, str, str]] = []
    dims: set[str] = set()
    for word, field in (("IN", "in"), ("OUT", "out")):
        for entry in header[field]:
            found = OPERAND.fullmatch(entry) if isinstance(entry, str) else None
            if not found or found[2] not in STORAGE:
                raise refuse(
                    f"cannot read {field} entry (got {entry!r}, expected 'name: "
                    f"type[dims]' with a type of {sorted(STORAGE)})."
                )
            if found[2] in IMAGES and (word == "OUT" or "image2d" not in header.get("uses", ())):
                raise refuse(f"{found[1]} is read as an image (expected an input, and `uses` with image2d).")
            worded = f"IN_{found[2].upper()}" if found[2] in WORDED else word
            expected.append((worded, STORAGE[found[2]], found[1]))
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
    written = [
        (f"IN_{special}", STORAGE[special.lower()], worded) if special else (word, kind, operand)
        for word, kind, operand, special, worded in _PARAMETER.findall(opening[2])
    ]
    if written != expected:
        raise refuse(f"header and KERNEL(...) list different parameters (got {written}, expected {expected}).")

    body = "\n".join(line for line in text.splitlines() if not line.startswith("//:"))
    inputs = [name for word, _, name in expected if word.startswith("IN")]
    for name, dim in header.get("inplace", {}).items():
        if name not in inputs or len(header["inplace"]) > 1 or not isinstance(dim, str) or (dim and dim not in dims):
            raise refuse(
                f"cannot read inplace (got {header['inplace']!r}, expected one input of {inputs} and a dim or '')."
            )
        read = re.search(rf"\bOVERWRITTEN\({name}, \w+\)", body) or (
            name in READ_BY and re.search(rf"\b({READ_BY[name]})\(", body)
        )
        if not read:
            raise refuse(
                f"it may find {name} where it writes, but its body does not read it as OVERWRITTEN({name}, ...)."
            )
    for tunable, values in header["tune"].items():
        if not _NAME.fullmatch(tunable):
            raise refuse(f"tune.{tunable} has a name that is none.")
        if any(tunable in words(dialect) for dialect in DIALECTS):
            raise refuse(f"tune.{tunable} is a word of the prelude, which would take its place.")
        if (
            not isinstance(values, list)
            or not values
            or any(type(v) is not int or v < 1 for v in values)
            or len(set(values)) < len(values)
        ):
            raise refuse(f"tune.{tunable} is not a list of different positive numbers (got {values!r}).")
        used_by_launch = any(re.search(rf"\b{tunable}\b", str(e)) for e in header["grid"] + header["group"])
        if not used_by_launch and not re.search(rf"\b{tunable}\b", body):
            raise refuse(f"tunable {tunable} is used neither in the body nor in the launch.")
    for define, others in header.get("with", {}).items():
        listed = isinstance(others, dict) and all(
            value in header["tune"].get(tunable, ()) for tunable, value in others.items()
        )
        if not listed or not _is_define(define, header, body):
            raise refuse(
                f"cannot read with.{define} (got {others!r}, expected listed values of tunables, "
                "and a define that is asked for)."
            )
    _check_layout(header, dims, body, refuse)
    _check_bounds(header, body, refuse)
    for dim, rule in header["needs"].items():
        known = dims | header["tune"].keys()
        good = isinstance(rule, dict) and rule and all(type(v) in RULES.get(k, ()) for k, v in rule.items())
        good = good and all(v in known for v in rule.values() if isinstance(v, str))
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
    if not isinstance(name, str) or re.fullmatch(r"[A-Z][A-Z0-9_]*|(ACT|OP|MATH)_\w+", name) is None:
        return False
    return name not in header["tune"] and (name in words_of(prelude("opencl")) or name in words_of(body))


def _check_layout(header: dict[str, Any], dims: set[str], body: str, refuse: Callable[[str], NoKernelError]) -> None:
    """A header's `layout` lists tunables, what they go by (dims, or defines), and the dims that follow from them."""
    layout = header.get("layout")
    if layout is None:
        return
    lists = isinstance(layout, dict) and layout.keys() == LAYOUT and all(map(_are_names, layout.values()))
    known = lists and set(layout["tune"]) <= header["tune"].keys() and set(layout["gives"]) <= dims
    if not known or not all(name in dims or _is_define(name, header, body) for name in layout["by"]):
        what = (
            f"cannot read layout (got {layout!r}, expected lists: "
            "`tune` of tunables, `by` of dims or defines, `gives` of dims)."
        )
        raise refuse(what)
    for define in header.get("with", {}).keys() - {"F16", *layout["by"]}:
        what = f"with.{define} may say how a weight is stored, which goes by {['F16', *layout['by']]} alone."
        raise refuse(what)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _check_bounds(header: dict[str, Any], body: str, refuse: Callable[[str], NoKernelError]) -> None:
    """What a header says of memory, `reach` and `holds`, is in terms of what a call of it has:
    arguments, tunables and defines."""
    arguments = {str(entry).partition(": ")[0] for entry in header["args"]}
    shapes = {
        found[1]: found[3] for field in ("in", "out") for entry in header[field] if (found := OPERAND.fullmatch(entry))
    }
    reach, holds = header.get("reach", {}), header.get("holds", [])
    if unknown := sorted(reach.keys() - shapes.keys()):
        raise refuse(f"reach is of unknown operands {unknown}.")
    of_shapes = {
        f"the shape of {name}": f"({shape.replace(',', ') * (')})"
        for name, shape in shapes.items()
        if name not in reach
    }
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
            raise refuse(
                f"{where} uses {missing}, which are no arguments, tunables or defines; `reach` says what is meant."
            )
