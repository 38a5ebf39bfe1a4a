"""What kernels run on.

`bench` is the machine's OpenCL device. `phone_bench` stands for phones: a test that takes it runs once under each
condition of phones.py, within a phone's limits (work-groups of 256, 32 KB of local memory), and its kernels are built
with what their headers say they use (`HALF`, `SUBGROUPS`...) where the condition has it. `make test` has the quick
one, `make phones` the others: Metal, sub-groups of other widths, work-items from last to first, nothing that a kernel
uses, sanitizers, Oclgrind, PoCL. So a test has a few small sizes (Oclgrind interprets), and is like any other:

    def test_it(phone_bench, size, stored):
        got = phone_bench.run(KERNEL, inputs, (shape, dtype), dims, tuning, F16=half(stored))

`phone_bench.target.caps` is what the condition has; `phone_bench.limited(Limits(work_group=512))` has other limits.
Tunables and large sizes belong into tests that take `bench`.
"""

import pytest
from kernels.bench import Bench
from kernels.phones import CONDITIONS, bench_for

from ondevice.run.opencl import choose_device


@pytest.fixture(scope="session")
def bench() -> Bench:
    """The device on which kernels are tested: the best one here, or the one that ONDEVICE_DEVICE names."""
    return Bench(choose_device())


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if condition.quick else pytest.mark.phones)
        for name, condition in CONDITIONS.items()
    ]
)
def phone_bench(request: pytest.FixtureRequest) -> Bench:
    """A device that stands for phones' GPUs, one for each condition."""
    return bench_for(request.param)
