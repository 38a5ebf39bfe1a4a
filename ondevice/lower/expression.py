"""The arithmetic of kernel headers: whole numbers, names, + - * // %, ceil_div, min, max;
and comparisons of two such sides."""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Mapping
from types import CodeType
from typing import Any

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


_FUNCTIONS: dict[str, Any] = {"ceil_div": ceil_div, "min": min, "max": max}
_GLOBALS: dict[str, Any] = {"__builtins__": {}, **_FUNCTIONS}


@functools.cache
def _parse(text: str, comparison: bool) -> ast.Expression:
    """Raises SyntaxError or ValueError on anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of words such as 1or 2, which are refused below
            tree = ast.parse(text, mode="eval")
    except (RecursionError, MemoryError):  # of many brackets
        raise ValueError("it is nested too deeply") from None
    sides: list[ast.expr] = [tree.body]
    if comparison:
        match tree.body:
            case ast.Compare(left=left, ops=[ast.Eq() | ast.LtE() | ast.Lt()], comparators=[right]):
                sides = [left, right]
            case _:
                raise ValueError("it is no comparison with ==, <= or <")
    for node in (node for side in sides for node in ast.walk(side)):
        match node:
            case ast.Constant(value=int()) | ast.Name() | ast.Load() | ast.BinOp():
                continue
            case ast.Call(func=ast.Name(id=name), args=[_, _], keywords=[]) if name in _FUNCTIONS:
                continue
            case _ if isinstance(node, _OPERATORS):
                continue
        raise ValueError(f"{type(node).__name__} is not allowed")
    return tree


@functools.cache
def _code(text: str, comparison: bool) -> CodeType:
    return compile(_parse(text, comparison), "<header>", "eval")


def names(text: str, *, comparison: bool = False) -> set[str]:
    """The names in an expression. Raises SyntaxError or ValueError for one that is none of ours."""
    return {node.id for node in ast.walk(_parse(text, comparison)) if isinstance(node, ast.Name)} - _FUNCTIONS.keys()


def evaluate(text: str, values: Mapping[str, Any], *, comparison: bool = False) -> int:
    """Its value; of a comparison whether it holds. Raises KeyError for a name without a value, ZeroDivisionError."""
    try:
        return int(eval(_code(text, comparison), _GLOBALS, values))
    except NameError as error:
        raise KeyError(error.name) from None
