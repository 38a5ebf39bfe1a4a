"""What stands for phones' GPUs runs the portable kernels right, and notices what must not pass."""

from dataclasses import replace

import numpy as np
import pytest
from kernels.bench import STORED, Bench, half, values
from kernels.phones import bench_for
from kernels.test_group_norm_nhwc import check_group_norm
from kernels.test_rows import norm, softmax, softmax_close
from metal.build import check

from ondevice.errors import DeviceError, KernelBuildError
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.target import Limits

pytestmark = pytest.mark.device
KERNELS = load_all()
STATS = KERNELS["softmax_stats"]
FORWARD, REVERSE, SANITIZED, OCLGRIND = "metal", "metal-plain-reverse", "metal-plain-sanitized", "oclgrind"


@pytest.mark.parametrize("stored", STORED)
def test_rows(phone_bench: Bench, stored: str) -> None:
    x = values("normal", (7, 77), stored)
    softmax_close(softmax(phone_bench, x, stored, {"V": 4, "X": 64}), x, stored)
    norm(phone_bench, "layer_norm", values("normal", (5, 131), stored), stored, {"V": 4})


@pytest.mark.parametrize("stored", STORED)
def test_local_memory_and_barriers(phone_bench: Bench, stored: str) -> None:
    x = values("normal", (2, 75, 48), stored)
    check_group_norm(phone_bench, "group_norm_nhwc", x, 4, stored, 1, tuning={"V": 4, "X": 64})
    check_group_norm(phone_bench, "group_norm_nhwc", x, 4, stored, 1, 24, {"V": 4, "X": 64})
    check_stats(phone_bench, stored)


def check_stats(bench: Bench, stored: str = "f32", kernel: KernelFile = STATS) -> None:
    x = values("normal", (3, 333), stored)
    tuning = {"V": 4, "X": 64}
    got = bench.run(kernel, [x], ((3, 2), np.float32), {"rows": 3, "cols": 333}, tuning, F16=half(stored))
    top = x.astype(np.float64).max(1)
    np.testing.assert_array_equal(got[:, 0], top)
    np.testing.assert_allclose(got[:, 1], 1 / np.exp(x.astype(np.float64) - top[:, None]).sum(1), rtol=1e-5)


# What it notices ------------------------------------------------------------------------------------------------------


def changed(kernel: KernelFile, old: str, new: str) -> KernelFile:
    """The same kernel with one place of its text changed."""
    assert kernel.text.count(old) == 1
    return replace(kernel, text=kernel.text.replace(old, new))


BARRIERS = pytest.mark.parametrize("which", ["maximum", "sum"])


@BARRIERS
def test_a_deleted_barrier(which: str) -> None:
    """Lane 0 needs what the others write: it comes first forward. All lanes need each other's maximum."""
    broken = changed(STATS, f"BARRIER();  // every lane's {which} is there", "")
    with pytest.raises(AssertionError):
        check_stats(bench_for(FORWARD), kernel=broken)
    if which == "maximum":
        with pytest.raises(AssertionError):
            check_stats(bench_for(REVERSE), kernel=broken)


@BARRIERS
@pytest.mark.phones
def test_a_race(which: str) -> None:
    with pytest.raises(DeviceError, match="data race at local memory"):
        check_stats(bench_for(OCLGRIND), kernel=changed(STATS, f"BARRIER();  // every lane's {which} is there", ""))


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("LOAD(x, start + i));\n", "LOAD(x, start + i + 1));\n", "read of size 4"),
        ("stats[2 * row] = top", "stats[2 * row + 2] = top", "write of size 4"),
        ("maxima[lane] = top", "maxima[lane + 1] = top", "write of size 4|index 64 out of bounds"),
        ("i < X; i++) top", "i < X + 1; i++) top", "read of size 4|index 64 out of bounds"),
    ],
    ids=["read", "write", "local write", "local read"],
)
@pytest.mark.parametrize("name", [SANITIZED, OCLGRIND])
@pytest.mark.phones
def test_one_element_too_far(name: str, old: str, new: str, reason: str) -> None:
    with pytest.raises(DeviceError, match=f"(?i){reason}"):
        check_stats(bench_for(name), kernel=changed(STATS, old, new))


@pytest.mark.parametrize(
    "text",
    [
        "float4 z = (float4)(0.0f, 0.0f, 0.0f, 1.0f); float sum = z.x;",
        "float sum = 0.5 * top;",
        "float sum = (1.0f * half4(top)).x;",
    ],
)
def test_what_another_language_would_read_otherwise(text: str) -> None:
    """In C++ the first is a comma expression, the value of its last part; phones have no double; OpenCL does not narrow
    a float beside a vector of halves."""
    kernel = changed(STATS, "float sum = 0.0f;", text)
    with pytest.raises(KernelBuildError):
        check(kernel.source("metal", **kernel.tuning(V=4)), kernel.name)


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("if (lane == 0) {", "if (lane == 0) BARRIER();\n  if (lane == 0) {", "lines 40 and|work-item"),
        ("if (row >= rows) return;", "if (lane == 5) return;", "work-item . waits"),
    ],
)
def test_a_barrier_that_some_do_not_reach(old: str, new: str, reason: str) -> None:
    with pytest.raises(DeviceError, match=reason):
        check_stats(bench_for(FORWARD), kernel=changed(STATS, old, new))


@pytest.mark.parametrize(
    "limits", [Limits(work_group=32), Limits(local_memory=511)], ids=["work-group", "local memory"]
)
@pytest.mark.parametrize("name", ["opencl", FORWARD])
def test_a_launch_over_a_limit(name: str, limits: Limits) -> None:
    """X floats for maxima, and as many for sums."""
    check_stats(bench_for(name).limited(Limits(work_group=64, local_memory=512)))
    with pytest.raises(AssertionError, match=r"work-group|local memory"):
        check_stats(bench_for(name).limited(limits))
