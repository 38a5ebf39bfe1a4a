"""What a target's devices do not take: no launch exceeds it, by smaller tunables or another way, and all say so."""

import itertools
import re
import subprocess
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from lower.test_select import CONV
from rewrite.graphs import graph

from ondevice.base.paths import SHADERS
from ondevice.errors import NoKernelError
from ondevice.lower import lower
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.local_memory import local_bytes
from ondevice.lower.lowering import Build, Lowering
from ondevice.lower.select import select
from ondevice.lower.tunables import tunables
from ondevice.target import Limits, load_target

KERNELS = load_all()
GPU = load_target("gpu")
SIZES = {"rows": 3, "cols": 9}
STAGED = """\
#define WIDE (X * 2)
#if SUBGROUPS && !PLAIN  // no memory is needed
#elif WIDTH == 3 || defined_elsewhere
  LOCAL(stg, few, (X + 1) / 2);
#else
#ifndef PLAIN
  LOCAL(real4, tile, WIDE * Y);
#endif
  LOCAL(vec, rest, X); LOCAL(float, more, 3);
#endif
"""


def preprocessed(text: str, defines: dict[str, int]) -> int:
    """Bytes of a text's LOCAL arrays, as a C preprocessor and compiler see it."""
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    done = subprocess.run(["g++", "-E", "-P", "-x", "c", *flags, "-"], input=text, capture_output=True, text=True)
    half, real = (2 if defines.get(name) else 4 for name in ("F16", "HALF"))
    lanes = defines.get("V", 4)
    sizes = {"float": 4, "int": 4, "vec": 4 * lanes, "stg": half, "real": real, "real4": 4 * real}
    found = re.findall(r"LOCAL\((\w+), \w+, (.*?)\);", done.stdout)
    return sum(sizes[kind] * eval(count.replace("/", "//")) for kind, count in found)


@pytest.mark.parametrize("names", [*itertools.product(("", "SUBGROUPS"), ("", "PLAIN"), ("", "WIDTH"), ("", "F16"))])
def test_local_memory_is_what_a_compiler_sees(names):
    defines = {"X": 5, "Y": 7, "V": 8, "HALF": int("F16" in names)} | {name: 3 for name in names if name}
    assert local_bytes(STAGED, defines) == preprocessed(STAGED, defines)


LOCALS = [kernel for kernel in KERNELS.values() if "LOCAL(" in kernel.text]


@pytest.mark.parametrize("kernel", LOCALS, ids=lambda kernel: kernel.name)
def test_local_memory_of_each_kernel(kernel: KernelFile):
    """At the first and the last value of each tunable, with all and with nothing that it uses."""
    flags = {"SUBGROUPS", "WAVE_CONSTANTS", "MATRIX_UNIT"} & set(re.findall(r"\w+", kernel.text))
    for which, on, half in itertools.product((0, -1), (0, 1), (0, 1)):
        defines = {name: values[which] for name, values in kernel.header["tune"].items()}
        defines |= {"SPAN": 32, "D": 40, "F16": half, "HALF": half & on} | dict.fromkeys(flags, on)
        assert local_bytes(kernel.text, defines) == preprocessed(kernel.text, defines)


def test_arrays_stand_in_the_kernels_own_texts():
    for path in (SHADERS / "prelude").glob("*.h"):
        words = [line for line in path.read_text().splitlines() if "LOCAL(" in line and "OD_STAGE_LOCAL(" not in line]
        assert all(line.startswith("#define LOCAL(T, x, n)") for line in words), path.name


def test_sizes_that_defines_do_not_say():
    text = KERNELS["group_norm_nhwc"].text
    assert local_bytes(text, {"X": 4, "V": 4, "F16": 1}) is None, "SPAN is not given"
    assert local_bytes("LOCAL(half8, x, 3);", {}) is None and local_bytes("LOCAL(float, x, F(3));", {}) is None
    assert local_bytes("LOCAL(float, x, N / 0);", {"N": 3}) is None and local_bytes("no arrays", {}) == 0


def on(target, **limits):
    return replace(target, limits=Limits(**limits))


def listing(name, **values):
    """A kernel whose tunables have these values."""
    header = KERNELS[name].header
    return replace(KERNELS[name], header=header | {"tune": header["tune"] | values})


def test_tunables_become_smaller_and_say_why():
    stats, gpu = listing("softmax_stats", X=[1, 32, 64, 128]), replace(GPU, tune={"softmax_stats": {"X": 128}})
    assert tunables(stats, SIZES, on(gpu, work_group=128)) == tunables(stats, SIZES, gpu)
    values, _, cut = tunables(stats, SIZES, on(gpu, work_group=100))
    assert values["X"] == 64 and cut == "a work-group of 128 work-items is over 100; made smaller: X=64"
    values, _, cut = tunables(stats, SIZES, on(gpu, local_memory=600))
    assert values["X"] == 64 and cut == "local memory of 1,024 bytes is over 600; made smaller: X=64"
    values, _, cut = tunables(stats, SIZES, on(gpu, local_memory=1))
    assert values["X"] == 1 and cut, "as small as can be"


def test_the_largest_group_that_fits_is_taken_and_panels_stay():
    matmul = listing("matmul", X=[1, 8, 16], Y=[1, 2, 8], NV=[1, 4])
    gpu = replace(GPU, tune={"matmul": {"X": 16, "Y": 8, "NV": 4, "MR": 4}})
    assert "NV" in matmul.stored_by
    values = tunables(matmul, {}, on(gpu, work_group=64)).values
    assert (values["X"], values["Y"], values["NV"], values["MR"]) == (8, 8, 4, 4)


def test_a_way_over_the_limits_loses_to_another():
    kernels = {"conv2d": listing("conv2d", X=[2], Y=[2]), "conv2d_tile": listing("conv2d_tile", X=[8], Y=[8])}
    gpu = replace(GPU, tune={})
    assert select("Conv", CONV, gpu, kernels).way.first.name == "conv2d_tile"
    found = select("Conv", CONV, on(gpu, work_group=32), kernels)
    assert (
        found.way.first.name == "conv2d" and "conv2d_tile: a work-group of 64 work-items is over 32" in found.fallback
    )


def test_lowering_logs_what_it_made_smaller():
    model = graph("(float[6,4] x, float[4,5] w) => (float[6,5] y) { y = MatMul(x, w) }", w=np.zeros((4, 5), np.float32))
    program = lower(model, "unet", target=on(GPU, work_group=32))
    assert all(prod(call.group) <= 32 for call in program.calls)
    assert (
        program.fallbacks[0].startswith("unet: ") and "runs matmul smaller: a work-group of 128" in program.fallbacks[0]
    )
    fixed = {**KERNELS, "matmul": listing("matmul", X=[8], Y=[8])}
    with pytest.raises(NoKernelError, match=r"no kernel fits \(.*matmul: a work-group of 64 work-items is over 32\)"):
        lower(model, "unet", target=on(replace(GPU, tune={}), work_group=32), kernels=fixed)


def test_a_norm_whose_sums_do_not_fit_is_the_general_one():
    sizes = {"n": 1, "pixels": 64, "channels": 4096, "c1": 4096, "per_group": 4096, "blocks": 1}
    sizes |= {"ragged": 0, "SPAN": 4096}
    assert select("GroupNormNhwc", sizes, GPU, KERNELS).way.first.name == "group_norm_nhwc"
    found = select("GroupNormNhwc", sizes, load_target("adreno_740"), KERNELS)
    assert found.way.first.name == "group_norm_nhwc_any"
    assert "group_norm_nhwc: local memory of 32,800 bytes is over 32,768" in str(found.fallback)


def test_what_a_rule_asks_for_is_refused_by_node():
    model = graph("(float[6,4] x) => (float[6,4] y) { y = Neg(x) }")
    low = Lowering(model.graph, "unet", "f32", KERNELS, frozenset(), on(GPU, work_group=32))
    low.add_input(model.graph.inputs[0])
    out = low.result(model.graph[0].outputs[0])
    what = r"unet: there: unary does not run on gpu: a work-group of 64 work-items is over 32\. Fix: choose another"
    with pytest.raises(NoKernelError, match=what):
        low.emit("Neg", "there", ["x"], [out], {"n": 24}, build=Build(tuning={"X": 64}))
