"""Which checks of the readers no test notices: `python -m benchmarks.checks [--module PATTERN] [--list]`.

A check is a condition before something is refused (each operand of an `or` for itself, each end of a range), a call of
a function that checks, an exception that is turned into an error of ours, or a `raise` that nothing else guards. One is
dropped at a time and the tests of its module are run (benchmarks/mutation.py). Prints those that nothing noticed, with
file and line; exit code 1 where there are any that HARMLESS does not explain. Random tests do not count: what they
notice by luck today they may not notice tomorrow.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import re
import sys
from collections.abc import Iterator

from benchmarks.mutation import ROOT, Break, preload, read, unnoticed

ROWS = ["tests/bundle/test_checks.py", "tests/bundle/test_ports.py"]
MESSAGES = "tests/errors/test_bundle_messages.py"
FOLDERS = [
    "tests/errors/test_checkpoint_messages.py",
    *(
        f"tests/converters/test_{name}.py"
        for name in ("checkpoint", "configs", "spellings", "scheduler_files", "expected")
    ),
    "tests/compiler/test_early_refusals.py",
    "tests/compiler/test_default_sampler.py",
]
SINGLE = ["tests/errors/test_file_kind_messages.py", "tests/errors/test_ckpt_messages.py"] + [
    f"tests/converters/test_{name}.py" for name in ("ckpt_file", "single_files", "parts_alone")
]
PICKLES = [
    "tests/converters/test_inert_pickle.py",
    "tests/converters/test_ckpt_file.py",
    "tests/errors/test_ckpt_messages.py",
    "tests/errors/test_file_kind_messages.py",
]
TOKENS = [
    "tests/vocabulary/test_added_tokens.py",
    "tests/diffusion/test_tokenizer.py",
    "tests/converters/test_tokenizer_files.py",
]
REPLAY = ["tests/diffusion/test_pipeline.py", "tests/diffusion/test_pipeline_shapes.py"]
# Files (patterns) -> the tests that are to notice; the first that matches counts.
READERS: dict[str, list[str]] = {
    "ondevice/bundle/reader.py": [*ROWS, MESSAGES, "tests/bundle/test_round_trip.py", "tests/bundle/test_kernels.py"],
    "ondevice/bundle/files.py": [*ROWS, MESSAGES, "tests/bundle/test_round_trip.py"],
    "ondevice/bundle/pack*.py": ["tests/bundle/test_golden.py", "tests/bundle/test_packed.py"],
    "ondevice/bundle/kernels.py": ["tests/bundle/test_kernels.py"],
    "ondevice/bundle/pipeline_*.py": ["tests/bundle/test_pipeline.py"],
    "ondevice/bundle/ports.py": ["tests/bundle/test_ports.py"],
    "ondevice/bundle/w*.py": [
        MESSAGES,
        "tests/bundle/test_ports.py",
        "tests/bundle/test_kernels.py",
        "tests/bundle/test_weights.py",
        "tests/bundle/test_round_trip.py",
        "tests/bundle/test_atomic.py",
    ],
    "ondevice/bundle/*.py": [*ROWS, MESSAGES, "tests/bundle/test_round_trip.py"],
    "ondevice/lower/bounds.py": ["tests/lower/test_bounds.py"],
    "converters/read/safetensors_file.py": ["tests/converters/test_safetensors_file.py", *FOLDERS[:2]],
    "converters/read/*pickle*.py": PICKLES,
    "converters/read/inert_values.py": PICKLES,
    "converters/read/legacy_torch.py": PICKLES,
    "converters/read/ckpt_file.py": PICKLES,
    "converters/read/zip_directory.py": ["tests/errors/test_ckpt_messages.py"],
    "converters/read/json_text.py": ["tests/converters/test_safetensors_file.py", *FOLDERS],
    "converters/read/tokenizer_files.py": [
        "tests/converters/test_tokenizer_files.py",
        "tests/diffusion/test_tokenizer.py",
        *FOLDERS,
    ],
    "converters/read/hub.py": ["tests/converters/test_hub.py"],
    "converters/onnx_import/onnx_file.py": ["tests/errors/test_onnx_messages.py"],
    "converters/onnx_import/ports.py": ["tests/errors/test_onnx_messages.py", "tests/converters/test_onnx_import.py"],
    **dict.fromkeys(
        (
            f"converters/{name}.py"
            for name in ("architectures/*", "families/*", "component", "read/diffusers_folder", "read/scheduler_files")
        ),
        FOLDERS,
    ),
    **dict.fromkeys(
        (
            f"converters/read/{name}.py"
            for name in ("single_file", "kinds", "parts", "signatures", "state_dict", "weights_file")
        ),
        SINGLE + FOLDERS,
    ),
    "ondevice/vocabulary/*.py": TOKENS,
    "ondevice/diffusion/tokenizer.py": TOKENS,
    "ondevice/diffusion/text/*.py": ["tests/diffusion/test_pipeline_texts.py"],
    "converters/read/embeddings.py": ["tests/converters/test_embeddings.py"],
    "ondevice/diffusion/latents_file.py": ["tests/diffusion/test_latents_file.py"],
    **dict.fromkeys(
        (
            f"ondevice/diffusion/{name}.py"
            for name in (
                "after",
                "before",
                "given_pictures",
                "guidance",
                "inpaint",
                "loop",
                "pipeline",
                "request",
                "request_checks",
                "roles",
                "values",
            )
        ),
        REPLAY,
    ),
    "ondevice/diffusion/*image.py": ["tests/diffusion/test_image.py", "tests/diffusion/test_init_image.py"],
    "ondevice/diffusion/picture_file.py": ["tests/diffusion/test_picture_file.py", "tests/diffusion/test_files.py"],
    "ondevice/diffusion/files.py": [
        f"tests/diffusion/test_{name}.py" for name in ("files", "init_image", "latents_file")
    ],
    "ondevice/diffusion/samplers/settings.py": [
        "tests/diffusion/test_sampler_tables.py",
        "tests/diffusion/test_sampler_table_files.py",
        "tests/diffusion/test_sampler_pipeline.py",
    ],
    "ondevice/diffusion/samplers/table.py": [
        "tests/diffusion/test_sampler_tables.py",
        "tests/diffusion/test_sampler_table_files.py",
    ],
    "ondevice/base/text/toml.py": ["tests/target/test_tuning.py", "tests/lower/test_kernel_file.py"],
    "ondevice/target/tuning.py": ["tests/target/test_tuning.py"],
    "benchmarks/compare.py": ["tests/test_benchmarks.py"],
    "benchmarks/rows.py": ["tests/test_benchmarks.py"],
}
# Imported once before the children are forked, for what they import in turn.
SLOW = ("numpy", "onnx_ir", "jsonschema", "onnxruntime", "PIL.Image", "ondevice.compiler", "ondevice.generate")
# Checks whose absence changes nothing that a test could see, with the reason; by file and the text that is dropped.
HARMLESS: dict[tuple[str, str], str] = {
    ("converters/onnx_import/onnx_file.py", "tensor is None"): "it is of no kind then, which is refused, too",
    ("converters/onnx_import/onnx_file.py", "offset < 0"): "onnx_ir refuses it before",
    ("converters/read/safetensors_file.py", "done < length"): "a file that is shorter than it was has another stamp",
    (
        "ondevice/diffusion/samplers/settings.py",
        "not (value is None or isinstance(value, str))",
    ): "others are none of those allowed",
    ("ondevice/diffusion/values.py", "value is None"): "a pipeline with a number per frame is refused before",
    ("ondevice/base/text/toml.py", "ValueError"): "it only cuts the text of what stays a ValueError",
}
# of bundle/format.py: they give their value back
CHECKER = {"integer", "array", "table", "text", "match", "name", "identifier", "one_of"}
CALLED = {"number", "constant_or_number", "name"}  # of the readers of bundle/pipeline_*.py: as those of `check`
BOUNDED, FAR = ("integer", "integers", "number"), "10**400"  # the lowest and the highest value are checks of their own
SEQUENCES = {"integers": "tuple", "shape": "tuple", "sizes": "dict"}  # and these a value of their own
REFUSING = re.compile(r"_?(fail|refuse|wrong)(_\w+)?")
CHECKING = re.compile(r"_?(check|require|no)_\w+|_?check|distinct|verify")


def checks(file: str) -> list[Break]:
    """A break for each check of a file, in the order of its lines."""
    finder = Finder(file)
    finder.visit(finder.tree)
    return sorted(set(finder.found), key=lambda change: (change.start, change.end, change.new))


class Finder(ast.NodeVisitor):
    """Walks a file's functions and collects its checks."""

    def __init__(self, file: str) -> None:
        self.file, self.source = file, read(file)
        self.tree = ast.parse(self.source)
        self.found: list[Break] = []
        self._starts = [0]
        for line in self.source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._never = {  # functions that only raise
            node.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef)
            and isinstance(node.returns, ast.Name)
            and node.returns.id == "NoReturn"
        }

    def _at(self, line: int, column: int) -> int:
        """Place in the text; ast counts columns in bytes."""
        start = self._starts[line - 1]
        return start + len(self.source[start : start + column].encode()[:column].decode(errors="ignore"))

    def drop(self, node: ast.AST, new: str) -> None:
        start = self._at(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = self._at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        self.found.append(Break(self.file, start, end, new))

    def text(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.source, node) or ""

    def refuses(self, body: list[ast.stmt]) -> bool:
        """Whether a block ends by refusing."""
        last = body[-1] if body else None
        if isinstance(last, ast.Raise):
            return last.exc is not None and not _ends(last)
        call = last.value if isinstance(last, (ast.Expr, ast.Return)) else None
        return isinstance(call, ast.Call) and (
            _name(call) in self._never or REFUSING.fullmatch(_name(call)) is not None
        )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in self._never:
            self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if self.refuses(node.body):
            for part, new in self.parts(node.test, False):
                self.drop(part, new)
            for factor in _factors(node.test):
                self.drop(factor, "1")
            for child in [*node.body[:-1], *node.orelse]:
                self.visit(child)
            self.visit(node.test)
        else:
            self.generic_visit(node)

    def parts(self, test: ast.expr, value: bool) -> Iterator[tuple[ast.expr, str]]:
        """What can be dropped of a condition so that less is refused: the part becomes `value`."""
        inner = test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else None
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And if value else ast.Or):
            for part in test.values:
                yield from self.parts(part, value)
        elif inner is not None and isinstance(inner, (ast.BoolOp, ast.Compare)) and _several(inner, not value):
            yield from self.parts(inner, not value)
        elif value and isinstance(test, ast.Compare) and len(test.ops) > 1:
            links = [test.left, *test.comparators]
            for end, both in ((0, links[1:]), (len(links) - 1, links[:-1])):
                rest = self.source[
                    self._at(both[0].lineno, both[0].col_offset) : self._at(
                        both[-1].end_lineno or 0, both[-1].end_col_offset or 0
                    )
                ]
                if end in (0, len(links) - 1):
                    yield test, f"({rest})"
        else:
            named = any(isinstance(node, ast.NamedExpr) for node in ast.walk(test))
            yield test, (f"(({self.text(test)}) {'or True' if value else 'and False'})" if named else str(value))

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None and not _ends(node):
            self.drop(node, "pass")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None and self.refuses(node.body):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            for kind in kinds:
                self.drop(kind, "()")
            for child in node.body[:-1]:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call) and _of_checker(call) and _name(call) in BOUNDED:
            self.visit_Call(call)  # its two bounds; without either it would be as good as dropped
        elif isinstance(call, ast.Call) and (
            _of_checker(call) or CHECKING.fullmatch(_name(call)) or _name(call) in self._never
        ):
            self.drop(node, "pass")
            for argument in call.args:
                self.visit(argument)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _of_checker(node) and node.args and _name(node) in CHECKER | CALLED | SEQUENCES.keys():
            kept = self.text(node.args[0])
            self.drop(node, f"{SEQUENCES[_name(node)]}({kept})" if _name(node) in SEQUENCES else f"({kept})")
            if _name(node) in BOUNDED and not any(isinstance(argument, ast.Starred) for argument in node.args[:3]):
                for bound, new in zip(node.args[1:3], (f"-{FAR}", FAR), strict=True):
                    self.drop(bound, new)
        self.generic_visit(node)


def _ends(node: ast.Raise) -> bool:
    """Whether it ends the process, as a module's last line does."""
    return isinstance(node.exc, ast.Call) and _name(node.exc) == "SystemExit"


def _several(node: ast.expr, value: bool) -> bool:
    """Whether a condition has parts of its own that can be dropped to become `value`."""
    if isinstance(node, ast.Compare):
        return value and len(node.ops) > 1
    return isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And if value else ast.Or)


def _factors(test: ast.expr) -> list[ast.expr]:
    """The factors of products of plain names, such as the sizes of a work-group: each is a check of its own."""
    products = [node for node in ast.walk(test) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)]
    sides = [side for node in products for side in (node.left, node.right)]
    return [side for side in sides if isinstance(side, ast.Name)] if len(products) > 1 else []


def _name(call: ast.Call) -> str:
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )


def _of_checker(call: ast.Call) -> bool:
    """Whether it is `check.x()` or `self.check.x()`, or `self.x()` of a reader whose x checks."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    of_self = isinstance(owner, ast.Name) and owner.id == "self" and _name(call) in CALLED and len(call.args) > 1
    return (
        of_self
        or (isinstance(owner, ast.Name) and owner.id == "check")
        or (isinstance(owner, ast.Attribute) and owner.attr == "check")
    )


def files(pattern: str) -> Iterator[tuple[str, list[str]]]:
    """(file, its tests) of the readers whose path has `pattern`."""
    seen: set[str] = set()
    for glob, tests in READERS.items():
        for path in sorted(ROOT.glob(glob)):
            file = path.relative_to(ROOT).as_posix()
            if file not in seen and fnmatch.fnmatch(file, f"*{pattern}*"):
                seen.add(file)
                yield file, tests


def main(argv: list[str] | None = None) -> int:
    """Drop, run, print; 1 where a check was dropped and nothing noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--module", default="", metavar="PATTERN", help="only files whose path has this, such as bundle/plan_file"
    )
    parser.add_argument("--line", type=int, help="only checks of this line")
    parser.add_argument("--list", action="store_true", help="print the checks and drop none")
    args = parser.parse_args(argv)
    todo = [
        (file, tests, [one for one in checks(file) if args.line in (None, one.line)])
        for file, tests in files(args.module)
    ]
    if args.list:
        print("\n".join(str(change) for _, _, changes in todo for change in changes))
        return 0
    preload(SLOW)
    missed: list[Break] = []
    for _, tests, changes in todo:
        missed += unnoticed(changes, tests, lambda text: print(text, file=sys.stderr, flush=True)) if changes else []
    unexplained = [change for change in missed if (change.file, change.old) not in HARMLESS]
    count = sum(len(changes) for _, _, changes in todo)
    print(
        f"{count} checks dropped, {count - len(missed)} noticed, {len(missed) - len(unexplained)} harmless, "
        f"{len(unexplained)} not noticed"
    )
    print("\n".join(map(str, unexplained)))
    return int(bool(unexplained))


if __name__ == "__main__":
    raise SystemExit(main())
