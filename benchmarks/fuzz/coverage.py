"""Branch coverage of Python on any of its versions:
a pass over the syntax tree puts a counter into every branch as a module is imported.

sys.monitoring is not there before Python 3.12, and sys.settrace calls a function per line. Counters are bytes that
wrap, in buckets as libFuzzer has them: a loop taken once, twice, three times, 4 to 7 ... 128 and more times are
different paths.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

ROOM = 1 << 16  # branches; the project's readers have 5,000
COUNTS = bytearray(ROOM)
FLAG = COUNTS.__setitem__

# What readers delegate to that is written in Python: its branches guide as well as our own.
DELEGATES = ("pickletools", "tomllib", "PIL", "onnx_ir.serde")
PROJECT = ("ondevice", "benchmarks.compare", "benchmarks.rows")

_BUCKETS = bytes(
    min(count.bit_length(), 3) + (count > 7) + (count > 15) + (count > 31) + (count > 127) for count in range(256)
)
_BITS = bytes(1 << (bucket - 1) if bucket else 0 for bucket in _BUCKETS)
_ZERO = bytes(ROOM)


class Map:
    """The branches that have a counter, and the constants beside which they stand, by module."""

    def __init__(self) -> None:
        self.used = 1
        self.modules: dict[str, range] = {}
        self.constants: dict[str, set[str | bytes | int]] = {}

    def clear(self) -> None:
        """Set all counters to 0."""
        COUNTS[: self.used] = _ZERO[: self.used]

    def snapshot(self) -> int:
        """The branches taken since `clear`, and about how often: one bit per bucket of a branch."""
        return int.from_bytes(COUNTS[: self.used].translate(_BITS), "little")

    def branches(self, snapshot: int) -> int:
        """How many branches a snapshot, or several joined by |, has."""
        return self.used - snapshot.to_bytes(self.used, "little").count(0)

    def words(self, snapshot: int) -> list[str | bytes | int]:
        """Constants of the modules that a snapshot has a branch of: what mutations put into inputs.
        Sorted, so that a seed says it all."""
        taken = snapshot.to_bytes(self.used, "little")
        found = {
            word
            for name, span in self.modules.items()
            if any(taken[span.start : span.stop])
            for word in self.constants[name]
        }
        return sorted(found, key=repr)


MAP = Map()


class _Instrument(ast.NodeTransformer):
    """Counters for the branches inside functions. What a module does as it is imported has none."""

    def __init__(self) -> None:
        self.depth = 0

    def _number(self) -> ast.Constant:
        if MAP.used >= ROOM:
            raise RuntimeError("too many branches; raise ROOM")
        MAP.used += 1
        return ast.Constant(MAP.used - 1)

    def _counted(self, body: list[ast.stmt]) -> list[ast.stmt]:
        number = self._number()
        probe = ast.parse(f"__counts__[{number.value}] = __counts__[{number.value}] + 1 & 255").body[0]
        # a docstring stays first
        at = 1 if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else 0
        return [*body[:at], probe, *body[at:]]

    def _flagged(self, value: ast.expr) -> ast.expr:
        # gives None, so `or` goes on
        call = ast.Call(ast.Name("__flag__", ast.Load()), [self._number(), ast.Constant(1)], [])
        return ast.BoolOp(ast.Or(), [call, value])

    def _function(self, node: Any) -> Any:
        self.depth += 1
        self.generic_visit(node)
        node.body = self._flagged(node.body) if isinstance(node, ast.Lambda) else self._counted(node.body)
        self.depth -= 1
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def _block(self, node: Any) -> Any:
        self.generic_visit(node)
        if self.depth:
            node.body = self._counted(node.body)
            if isinstance(node, ast.If):
                node.orelse = self._counted(node.orelse)
        return node

    visit_If = visit_For = visit_While = visit_ExceptHandler = visit_match_case = _block

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.BoolOp:
        """Every operand but the first is a branch."""
        self.generic_visit(node)
        if self.depth:
            node.values[1:] = [self._flagged(value) for value in node.values[1:]]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.IfExp:
        """Both values are branches."""
        self.generic_visit(node)
        if self.depth:
            node.body, node.orelse = self._flagged(node.body), self._flagged(node.orelse)
        return node

    def _comprehension(self, node: Any) -> Any:
        self.generic_visit(node)
        if self.depth and any(part.ifs for part in node.generators):
            node.elt = self._flagged(node.elt)
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = _comprehension


def instrumented(source: str, name: str, path: str) -> CodeType:
    """The module's code with counters; its constants are kept for `Map.words`."""
    tree, first = ast.parse(source, path), MAP.used
    words = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes | int)
    }
    MAP.constants[name] = {
        word for word in words if not isinstance(word, bool) and (isinstance(word, int) or 0 < len(word) <= 40)
    }
    tree = _Instrument().visit(tree)
    MAP.modules[name] = range(first, MAP.used)
    head = ast.parse(f"from {__name__} import COUNTS as __counts__, FLAG as __flag__").body
    after = next((i for i, node in enumerate(tree.body) if not _is_first(node)), len(tree.body))
    tree.body[after:after] = head
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def _is_first(node: ast.stmt) -> bool:
    """A docstring or an import from __future__, which must stay at the top."""
    return isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles with counters, and leaves the cache of compiled modules alone."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return instrumented(self.get_data(path).decode("utf-8"), fullname, path)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = tuple(prefixes)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """What the other finders find, loaded by us."""
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in self.prefixes):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if type(spec.loader) is importlib.machinery.SourceFileLoader:
                    spec.loader = _Loader(spec.loader.name, spec.loader.path)
                return spec
        return None


def install() -> None:
    """Count branches of every module of the project, and of what it delegates to, that is imported from now on."""
    sys.meta_path.insert(0, _Finder((*PROJECT, *DELEGATES)))
