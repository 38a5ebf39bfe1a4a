"""Where things live: imports point one way, files stay small, nothing a user runs imports torch."""

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    ("errors",),
    ("base",),
    ("vocabulary",),
    ("graph",),
    ("converters",),
    ("target",),
    ("rewrite",),
    ("lower",),
    ("plan",),
    ("bundle",),
    ("run",),
    ("diffusion",),
    ("compiler",),
    ("export",),
    ("measure",),
    ("api",),
    ("cli", "flags", "format_flags"),
    ("drawing",),
    ("serving",),
    ("train",),
    (
        "convert",
        "pack",
        "generate",
        "batch",
        "morph",
        "devices",
        "tokens",
        "sampler",
        "show",
        "explain",
        "bench",
        "check",
        "tune",
        "doctor",
        "serve",
        "__main__",
    ),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MOST = 8  # parameters of a function
BOUND = {"rewrite": {"pattern", "refusal", "rewrite"}}
SOURCES = sorted(p for p in [*(ROOT / "ondevice").rglob("*.py"), *(ROOT / "converters").rglob("*.py")])


def part(path):
    """The layer a file belongs to: its folder or module under the package."""
    inside = (
        path.relative_to(ROOT / "ondevice").parts
        if path.is_relative_to(ROOT / "ondevice")
        else path.relative_to(ROOT).parts
    )
    return inside[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "ondevice":
            below = (node.module or "").split(".")[1:]
            yield from [below[0]] if below else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ondevice.")]


@pytest.mark.parametrize("path", [p for p in SOURCES if part(p) != "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_back_along_the_flow(path):
    here = part(path)
    if here in ("models", "targets"):
        return
    ahead = [name for name in imported(path) if name in LEVEL and LEVEL[name] > LEVEL[here]]
    assert not ahead, f"{here} comes before {ahead} in {[names[0] for names in LAYERS]}"


def test_verbs_import_no_verbs():
    verbs = LAYERS[-1]
    assert not {name: found for name in verbs if (found := set(imported(ROOT / "ondevice" / f"{name}.py")) & {*verbs})}


@pytest.mark.parametrize("pattern, limit", [("*.py", 400), ("shaders/*/*.cl", 200), ("README.md", 150)])
def test_files_stay_small(pattern, limit):
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    chosen = [name for name in fnmatch.filter(tracked, pattern) if (ROOT / name).is_file()]
    long = {name: count for name in chosen if (count := len((ROOT / name).read_text().splitlines())) > limit}
    assert chosen and not long


def test_functions_take_few_parameters():
    """More than 8 are a type that has no name yet.
    The parameters of a rule's methods are the values that its pattern binds."""
    many = set()
    for path in [*SOURCES, *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not any(
                part(path) == room and node.name in names for room, names in BOUND.items()
            ):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([one for one in parameters if one.arg not in ("self", "cls")]) > MOST:
                    many.add(f"{path.relative_to(ROOT)}: {node.name}")
    assert not many


def test_texts_have_one_encoding():
    """And not the locale's: what is written on one machine is read on another."""
    least, silent = {"read_text": 1, "write_text": 2}, set()
    for path in SOURCES:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if any(f".{name}(" in text for name in least) else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in least:
                given = len(node.args) + sum(word.arg == "encoding" for word in node.keywords)
                silent |= {f"{path}:{node.lineno}"} if given < least[node.func.attr] else set()
    assert not silent


def test_nothing_a_user_runs_imports_torch():
    heavy = "print([m for m in ('torch', 'transformers', 'diffusers', 'pyopencl', 'onnxruntime') if m in sys.modules])"
    code = f"import sys, ondevice.cli as c; [__import__('ondevice.' + v) for v in c.VERBS]; {heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_trains_is_imported_in_its_room_alone():
    trains = {"accelerate", "peft", "tensorboardX"}
    for path in SOURCES:
        if part(path) != "train":
            nodes = ast.walk(ast.parse(path.read_text()))
            names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
            nodes = ast.walk(ast.parse(path.read_text()))
            names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            assert not trains & {name.split(".")[0] for name in names}, path


def test_a_picture_is_drawn_without_what_only_converting_needs():
    """Each takes a tenth of a second to a second to import; from start to first step there are two in all."""
    heavy = "print([m for m in ('onnx_ir', 'onnx', 'sympy', 'huggingface_hub', 'safetensors') if m in sys.modules])"
    code = f"import sys, ondevice.cli as c; c.main(['generate', 'no such bundle', 'x']); {heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr
