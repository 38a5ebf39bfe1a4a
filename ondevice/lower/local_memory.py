"""How much local memory a work-group takes: the LOCAL(type, name, count) arrays of a kernel's text, under its defines.

The text is read as a preprocessor does: what conditions leave out does not count, and counts may be macros without
arguments.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping

from ondevice.lower.program import DTYPES

_DIRECTIVE = re.compile(r"\s*#\s*(ifdef|ifndef|if|elif|else|endif|define)\b\s*(\w*)(.*)")
_LOCAL = re.compile(r"\bLOCAL\((\w+), \w+, ((?:[^()]|\([^()]*\))+)\)")
_NAME = re.compile(r"\b[A-Za-z_]\w*")
_PYTHON = (("&&", " and "), ("||", " or "), ("/", "//"))  # C's operators as Python spells them; ! is a word apart
_ALLOWED: tuple[type[ast.AST], ...] = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant)
_ALLOWED += (ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
_DEEPEST = 16  # macros within macros


class Unknown(Exception):
    """The defines do not say it."""


def local_bytes(text: str, defines: Mapping[str, int]) -> int | None:
    """Bytes of local memory that a kernel's text takes, built with these defines; None where they do not say it."""
    return _local_bytes(text, frozenset(defines.items())) if "LOCAL(" in text else 0


@functools.lru_cache(maxsize=4096)
def _local_bytes(text: str, defines: frozenset[tuple[str, int]]) -> int | None:
    macros = {name: str(value) for name, value in defines}
    try:
        arrays = [found for line in _kept(text, macros) for found in _LOCAL.finditer(line)]
        return sum(_type_bytes(array[1], macros) * _value(array[2], macros) for array in arrays)
    except Unknown:
        return None


def _type_bytes(kind: str, macros: Mapping[str, str]) -> int:
    """Of the types of shaders/prelude."""
    single, half = DTYPES["f32"], DTYPES["f16"]
    lanes = _value(macros.get("V", "4"), macros)
    stored, real = (half if _value(name, macros, unknown="0") else single for name in ("F16", "HALF"))
    sizes = {"float": single, "int": single, "vec": lanes * single, "stg": stored, "real": real, "real4": 4 * real}
    if kind not in sizes:
        raise Unknown
    return sizes[kind]


def _kept(text: str, macros: dict[str, str]) -> list[str]:
    """The lines that conditions leave in; what they define is added to `macros`."""
    kept: list[str] = []
    conditions: list[tuple[bool, bool]] = []  # of each open one: whether these lines count, whether any before did
    for line in text.splitlines():
        line = line.partition("//")[0]
        found, counts = _DIRECTIVE.match(line), all(here for here, _ in conditions)
        match found[1] if found else "":
            case "":
                kept += [line] * counts
            case "endif":
                conditions.pop()
            case "define" if found and counts and not found[3].startswith("("):
                macros.setdefault(found[2], found[3].strip() or "1")
            case "else" | "elif" as word if found:
                _, before = conditions.pop()
                here = not before and (word == "else" or _holds("if", found[2] + found[3], macros))
                conditions.append((here, before or here))
            case "if" | "ifdef" | "ifndef" as word if found:
                # within lines that do not count neither the condition nor its other branches are asked
                here = counts and _holds(word, found[2] + found[3], macros)
                conditions.append((here, here or not counts))
    return kept


def _holds(word: str, condition: str, macros: Mapping[str, str]) -> bool:
    if word == "if":
        return bool(_value(condition, macros, unknown="0"))
    return (condition.strip() in macros) == (word == "ifdef")


def _value(text: str, macros: Mapping[str, str], unknown: str | None = None) -> int:
    """The value of a constant expression of C's.

    Args:
        unknown: what stands for a name that nobody defines; None: there is none.

    Raises:
        Unknown: it is none that is understood here, or has a name that nobody defines.
    """

    def expanded(found: re.Match[str]) -> str:
        value = macros.get(found[0], unknown)
        if value is None:
            raise Unknown
        return f"({value})"

    for _ in range(_DEEPEST):
        if not _NAME.search(text):
            break
        text = _NAME.sub(expanded, text)
    for sign, word in _PYTHON:
        text = text.replace(sign, word)
    try:
        tree = ast.parse(re.sub(r"!(?!=)", " not ", text).strip(), mode="eval")
        if not all(isinstance(node, _ALLOWED) for node in ast.walk(tree)):
            raise Unknown
        return int(eval(compile(tree, "<kernel>", "eval"), {"__builtins__": {}}))
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise Unknown from None
