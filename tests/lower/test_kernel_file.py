"""Headers are checked, launches computed, sources joined."""

import itertools
import math
from pathlib import Path

import pytest

from ondevice.errors import NoKernelError
from ondevice.lower.expression import evaluate, names
from ondevice.lower.kernel_file import KernelFile, load_all

KERNELS = load_all()
GOOD = """\
//: op    = "Copy"
//: class = "portable"
//: caps  = []
//: why   = "An example."
//: in    = ["x: stg[rows, cols]", "ids: i32[rows]"]
//: out   = ["y: f32[rows, cols]"]
//: args  = ["rows: int", "cols: int", "epsilon: float"]
//: grid  = ["ceil_div(cols, V) * STEPS - 1 + 1", "rows // 2", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [4, 8], STEPS = [2, 1], X = [16, 1]}
//: needs = {cols = {multiple = 4, max = 64, min = 8}}

KERNEL(copy)(IN(stg, x), IN(int, ids), OUT(float, y), ARG(int, rows), ARG(int, cols),
             ARG(float, epsilon) GRID) {
  y[GID(0)] = V + STEPS;
}
"""


def read(folder: Path, text: str = GOOD, name: str = "copy") -> KernelFile:
    path = folder / f"{name}.cl"
    path.write_text(text)
    return KernelFile.read(path)


def test_reads_what_is_written(tmp_path: Path) -> None:
    kernel = read(tmp_path)
    assert kernel.ops == ("Copy",)
    assert kernel.arg_types == {"rows": "int", "cols": "int", "epsilon": "float"}
    assert kernel.tuning() == {"V": 4, "STEPS": 2, "X": 16}
    assert kernel.tuning(V=8) == {"V": 8, "STEPS": 2, "X": 16}
    assert kernel.scalars({"cols": 8, "rows": 6, "epsilon": 1, "other": 3}) == (6, 8, 1.0)


def test_launch_rounds_up_to_whole_groups(tmp_path: Path) -> None:
    kernel = read(tmp_path)
    # ceil(37 / 4) * 2 = 20 -> 32
    assert kernel.launch({"rows": 7, "cols": 37}, kernel.tuning()) == ((32, 3, 1), (16, 1, 1))
    assert kernel.launch({"rows": 7, "cols": 37}, kernel.tuning(X=1, V=8, STEPS=1)) == ((5, 3, 1), (1, 1, 1))


def test_launch_errors_name_the_file(tmp_path: Path) -> None:
    kernel = read(tmp_path)
    with pytest.raises(NoKernelError, match=r"copy\.cl: the launch needs 'rows'"):
        kernel.launch({"cols": 8}, kernel.tuning())
    with pytest.raises(NoKernelError, match=r"copy\.cl: nothing to launch"):
        kernel.launch({"cols": 8, "rows": 1}, kernel.tuning())


def test_scalars_refuse_what_32_bits_cannot_hold(tmp_path: Path) -> None:
    kernel = read(tmp_path)
    with pytest.raises(NoKernelError, match=r"argument does not fit 32 bits \(got cols=2147483648\)"):
        kernel.scalars({"rows": 1, "cols": 2**31, "epsilon": 0.0})
    with pytest.raises(NoKernelError, match="argument 'epsilon' is not given"):
        kernel.scalars({"rows": 1, "cols": 2})


def test_source_points_errors_at_the_file(tmp_path: Path) -> None:
    source = read(tmp_path).source("opencl", F16=1, V=8)
    assert source.startswith("#define F16 1\n#define V 8\n")
    lines = source.splitlines()
    assert lines[lines.index('#line 1 "copy.cl"') + 1] == GOOD.splitlines()[0]
    assert "#include <metal_stdlib>" in read(tmp_path).source("metal")
    with pytest.raises(NoKernelError, match="unknown dialect"):
        read(tmp_path).source("vulkan")


@pytest.mark.parametrize(
    "cols, reason",
    [(36, None), (37, "cols=37 is not a multiple of 4"), (68, "cols=68 is over 64"), (4, "cols=4 is under 8")],
)
def test_misfit(tmp_path: Path, cols: int, reason: str | None) -> None:
    assert read(tmp_path).misfit({"rows": 1, "cols": cols}) == reason


def test_misfit_between_dims(tmp_path: Path) -> None:
    kernel = read(tmp_path, GOOD.replace("{multiple = 4, max = 64, min = 8}", '{equal = "rows"}'))
    assert kernel.misfit({"rows": 5, "cols": 5}) is None
    assert kernel.misfit({"rows": 4, "cols": 5}) == "cols=5 is not rows=4"
    assert kernel.misfit({"rows": 4}) == "cols is not given"


@pytest.mark.parametrize("chosen", [{"V": 16}, {"W": 1}], ids=str)
def test_tunables_are_closed_sets(tmp_path: Path, chosen: dict[str, int]) -> None:
    with pytest.raises(NoKernelError, match=r"copy\.cl: bad tunable"):
        read(tmp_path).tuning(**chosen)


BAD = {
    "not TOML": ('op    = "Copy"', "op    = Copy", "the header is not TOML"),
    "missing key": ('//: why   = "An example."\n', "", r"missing or extra fields \['why'\]"),
    "extra key": ("//: needs", "//: speed = 9\n//: needs", r"missing or extra fields \['speed'\]"),
    "unknown class": (
        '"portable"',
        '"desktop"',
        r"class is unknown \(got 'desktop', expected one of portable, cpu, mobile\)",
    ),
    "unknown capability": (
        "caps  = []",
        'caps  = ["wings"]',
        r"caps has the unknown 'wings' \(expected some of half, image2d",
    ),
    "no math": ("//: needs", "//: math = []\n//: needs", r"cannot read math \(got \[\], expected some of bf16, bf16x3"),
    "unknown math": (
        "//: needs",
        '//: math = ["fp32"]\n//: needs',
        r"cannot read math \(got \['fp32'\], expected some",
    ),
    "wrong type": ('why   = "An example."', "why   = 7", "header's why has the wrong type"),
    "unknown storage": ("y: f32[", "y: f64[", "cannot read out entry"),
    "shape missing": ("ids: i32[rows]", "ids: i32", "cannot read in entry"),
    "unknown scalar": ("epsilon: float", "epsilon: double", "cannot read args entry"),
    "order differs": ("IN(stg, x), IN(int, ids)", "IN(int, ids), IN(stg, x)", "list different parameters"),
    "type differs": ("ARG(int, cols)", "ARG(float, cols)", "list different parameters"),
    "parameter missing": (", ARG(int, cols)", "", "list different parameters"),
    "other name": ("KERNEL(copy)", "KERNEL(copied)", r"does not open with KERNEL\(copy\)"),
    "empty tunable": ("V = [4, 8]", "V = []", "tune.V is not a list"),
    "zero tunable": ("V = [4, 8]", "V = [0]", "tune.V is not a list"),
    "repeated tunable": ("V = [4, 8]", "V = [4, 4]", "tune.V is not a list"),
    "unused tunable": ("X = [16, 1]", "X = [16, 1], W = [1]", "tunable W is used neither"),
    "unknown rule": ("{multiple = 4, max", "{divides = 4, max", "cannot read needs.cols"),
    "rule of unknown dim": ("{multiple = 4, max = 64, min = 8}", '{equal = "depth"}', "cannot read needs.cols"),
    "unknown dim": ("rows // 2", "depth // 2", r"grid uses unknown names \['depth'\]"),
    "dim in group": ('["X", "1", "1"]', '["X", "rows", "1"]', r"group uses unknown names \['rows'\]"),
    "two expressions": ('"rows // 2", "1"]', '"rows // 2"]', "grid needs three expressions"),
    "attribute": ("rows // 2", "rows.real", "Attribute is not allowed"),
    "call": ("rows // 2", "__import__('os')", "Call is not allowed"),
    "power": ("rows // 2", "rows ** 2", "Pow is not allowed"),
    "float": ("rows // 2", "rows * 0.5", "Constant is not allowed"),
    "many brackets": ("rows // 2", "(" * 300 + "rows" + ")" * 300, "cannot read grid expression"),
    "deep": ('why   = "An example."', f"why   = {'[' * 3000}", "the header is not TOML: it is nested too deeply"),
    "many digits": ('why   = "An example."', f"why   = {'1' * 5000}", "the header is not TOML: Exceeds the limit"),
    "a word of the prelude": ("X = [16, 1]", "X = [16, 1], BARRIER = [1]", "tune.BARRIER is a word of the prelude"),
    "a pattern for a name": ("X = [16, 1]", 'X = [16, 1], "(" = [1]', r"tune\.\( has a name that is none"),
    "reach of nothing": ("//: needs", '//: reach = {z = "rows"}\n//: needs', r"reach is of unknown operands \['z'\]"),
    "no reach": ("//: needs", '//: reach = {x = "rows +"}\n//: needs', r"cannot read reach.x \('rows \+'\)"),
    "no comparison": ("//: needs", '//: holds = ["rows"]\n//: needs', "cannot read holds 'rows'.* it is no comparison"),
    "two comparisons": (
        "//: needs",
        '//: holds = ["1 < rows < 2"]\n//: needs',
        "cannot read holds .* it is no comparison",
    ),
    "holds of nothing": (
        "//: needs",
        '//: holds = ["rows < depth"]\n//: needs',
        r"holds 'rows < depth' uses \['depth'\]",
    ),
    "shape of nothing": ("x: stg[rows, cols]", "x: stg[rows, depth]", r"the shape of x uses \['depth'\]"),
    "no op": ('"Copy"', "[]", "op is not the name of an op"),
    "no expression": ("rows // 2", "rows //", "cannot read grid expression"),
}


@pytest.mark.parametrize("old, new, message", BAD.values(), ids=BAD)
def test_refuses_a_bad_header(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(NoKernelError, match=rf"^copy\.cl: .*{message}"):
        read(tmp_path, GOOD.replace(old, new, 1))


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "portable").mkdir()
    read(tmp_path / "cpu")
    with pytest.raises(
        NoKernelError, match=r"cpu/copy\.cl: its header says class portable \(expected cpu, as its folder\)"
    ):
        load_all(tmp_path)
    read(tmp_path / "portable")
    with pytest.raises(NoKernelError, match=r"portable/copy\.cl: cpu has a kernel of this name, too"):
        load_all(tmp_path)
    (tmp_path / "cpu" / "copy.cl").unlink()
    assert load_all(tmp_path).keys() == {"copy"}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_groups_suit_small_devices(kernel: KernelFile) -> None:
    """At most 256 work-items in a group whatever is chosen, at most 64 with some choice."""
    tune = kernel.header["tune"]
    sizes = sorted(set().union(*map(names, kernel.header["group"])))
    groups = []
    for values in itertools.product(*(tune[name] for name in sizes)):
        groups.append(
            math.prod(evaluate(text, dict(zip(sizes, values, strict=True))) for text in kernel.header["group"])
        )
    assert max(groups) <= 256
    assert min(groups) <= 64
    assert set(sizes) <= {"X", "Y", "LANES"}


WITH = GOOD.replace("min = 8}}\n", "min = 8}}\n//: with = {WIDE = {V = 8}}\n").replace(
    "V + STEPS;", "V + STEPS + WIDE;"
)


def test_values_that_stand_first_with_a_define(tmp_path: Path) -> None:
    kernel = read(tmp_path, WITH)
    assert kernel.tuning()["V"] == kernel.tuning({"WIDE": 0, "cols": 3})["V"] == 4
    assert kernel.tuning({"WIDE": 1}) == kernel.tuning() | {"V": 8}
    assert kernel.tuning({"WIDE": 1}, V=4)["V"] == 4, "what is chosen goes before"


@pytest.mark.parametrize(
    "old, new", [("{V = 8}", "{V = 5}"), ("{V = 8}", "{W = 8}"), ("{V = 8}", "8"), ("STEPS + WIDE", "STEPS")]
)
def test_with_headers_that_are_refused(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(NoKernelError, match=r"cannot read with\.WIDE"):
        read(tmp_path, WITH.replace(old, new))


def test_what_a_weight_is_stored_by_is_not_changed_by_other_defines(tmp_path: Path) -> None:
    stored = WITH.replace("//: with =", '//: layout = {tune = ["V"], by = ["cols"], gives = ["rows"]}\n//: with =')
    with pytest.raises(NoKernelError, match=r"with\.WIDE may say how a weight is stored, which goes by .* alone"):
        read(tmp_path, stored)
    assert read(tmp_path, stored.replace('by = ["cols"]', 'by = ["cols", "WIDE"]')).variant({"WIDE": 1}) == {"WIDE": 1}


IN_PLACE = GOOD.replace("min = 8}}\n", 'min = 8}}\n//: inplace = {x = "cols"}\n').replace(
    "V + STEPS;", "V + STEPS + OVERWRITTEN(x, y)[0];"
)


def test_in_place_where_no_element_is_computed_twice(tmp_path: Path) -> None:
    kernel = read(tmp_path, IN_PLACE)
    assert kernel.inplace({"cols": 16}, {"V": 4, "NV": 2}) == 0
    assert kernel.inplace({"cols": 12}, {"V": 4, "NV": 2}) is None
    assert kernel.inplace({"cols": 12}, {"V": 4, "NV": 2, "PANELS": 1}) == 0
    assert read(tmp_path, IN_PLACE.replace('"cols"}\n\n', '""}\n\n')).inplace({"cols": 1}, {"V": 4}) == 0
    assert read(tmp_path).inplace({"cols": 16}, {}) is None


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ('{x = "cols"}', '{z = "cols"}', "cannot read inplace"),
        ('{x = "cols"}', '{x = "lines"}', "cannot read inplace"),
        ('{x = "cols"}', '{x = "", ids = ""}', "cannot read inplace"),
        ('{x = "cols"}', '["x"]', "the header's inplace has the wrong type"),
        ("OVERWRITTEN(x, y)", "x", r"does not read it as OVERWRITTEN\(x"),
    ],
)
def test_in_place_headers_that_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(NoKernelError, match=reason):
        read(tmp_path, IN_PLACE.replace(old, new))
