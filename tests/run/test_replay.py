"""Sessions on real devices: results, arena, profile, the check for NaN."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from run.small_plans import FakeBundle, make_plan, three_steps, three_steps_answer

from ondevice.errors import DeviceError, KernelBuildError, NumericError
from ondevice.plan.plan import ALIGN
from ondevice.run import discovery
from ondevice.run import opencl as device_module
from ondevice.run.check import results
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.session import Session

pytestmark = pytest.mark.device


def numbers(n: int, seed: int = 0) -> np.ndarray:
    """Positive enough for the square root of 2 * x + bias."""
    return np.random.default_rng(seed).uniform(1.5, 9.0, n).astype(np.float32)


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_three_dispatches_against_numpy(device: OpenCLDevice, n: int) -> None:
    plan = three_steps(n)
    session = Session(FakeBundle(plan), device)
    for seed in range(3):
        x = numbers(n, seed)
        y = session.run("net", {"x": x}, width=n)["y"]
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, three_steps_answer(x), rtol=1e-6, atol=1e-5)


def test_arena_grows_and_is_shared(device: OpenCLDevice) -> None:
    plans = [three_steps(8), three_steps(5000), three_steps(64, "other")]
    session = Session(FakeBundle(*plans), device)
    for plan in (plans[0], plans[1], plans[2], plans[0], plans[1]):
        n = plan.sizes["width"]
        y = session.run(plan.component, {"x": numbers(n)}, width=n)["y"]
        np.testing.assert_allclose(y, three_steps_answer(numbers(n)), rtol=1e-6, atol=1e-5)


def test_values_go_from_plan_to_plan_without_the_host(device: OpenCLDevice) -> None:
    session = Session(FakeBundle(three_steps(8), three_steps(12, "other")), device)
    x = numbers(12)
    kept = session.run_on("net", {"x": x[:8]}, width=8)["y"]
    session.run_on("net", {"x": x[4:]}, width=8)  # into the same place of the arena
    np.testing.assert_allclose(session.read(kept), three_steps_answer(x[:8]), rtol=1e-6, atol=1e-5)
    joined = session.run("other", {"x": [session.put(x[:8]), session.put(x[:7:-1])]}, width=12)["y"]
    np.testing.assert_allclose(joined, three_steps_answer(np.concatenate([x[:8], x[:7:-1]])), rtol=1e-6, atol=1e-5)
    again = session.run("net", {"x": session.put(np.abs(session.read(kept)) + 2)}, width=8)["y"]
    np.testing.assert_allclose(again, three_steps_answer(np.abs(session.read(kept)) + 2), rtol=1e-6, atol=1e-5)


def test_plan_alignment_suits_the_device(device: OpenCLDevice) -> None:
    assert ALIGN % device.facts()["alignment"] == 0


def test_weights_of_a_cpu_are_the_mapped_file(device: OpenCLDevice, tmp_path) -> None:
    path = tmp_path / "weights.bin"
    np.arange(4096, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.uint8, "r")
    buffer = device.upload(mapped, "weights.bin")
    np.testing.assert_array_equal(
        device.read(device.sub(buffer, 512, 64), (16,), np.dtype(np.float32)), np.arange(128, 144)
    )
    if device.facts()["maps_weights"]:
        assert buffer.get_host_array((16384,), np.uint8).ctypes.data == mapped.ctypes.data


def test_profile_has_a_row_a_dispatch(device: OpenCLDevice) -> None:
    n = 100_000
    session = Session(FakeBundle(three_steps(n)), device, profile=True)
    for _ in range(2):
        session.run("net", {"x": numbers(n)}, width=n)
    rows = session.profile.to_json()["dispatches"]
    assert [(row["node"], row["op"], row["kernel"], row["grid"], row["runs"]) for row in rows] == [
        ("/0/affine", "Affine", "affine", (n, 1, 1), 2),
        ("/1/root", "Root", "root", (n, 1, 1), 2),
        ("/2/affine", "Affine", "affine", (n, 1, 1), 2),
    ]
    for row in rows:
        assert 0 < row["seconds"] < 10
        assert row["us"] == pytest.approx(row["seconds"] / 2 * 1e6)
        assert row["gflops"] == pytest.approx(2 * n / row["us"] / 1e3)
    assert session.profile.device["name"] == device.name


def test_check_names_the_first_op_that_made_a_nan(device: OpenCLDevice) -> None:
    session = Session(FakeBundle(three_steps(8)), device, check=True)
    x = numbers(8)
    np.testing.assert_allclose(session.run("net", {"x": x}, width=8)["y"], three_steps_answer(x), rtol=1e-6, atol=1e-5)
    x[6] = -5.0
    with pytest.raises(NumericError) as caught:
        session.run("net", {"x": x}, width=8)
    text = str(caught.value)
    assert text.startswith("net: dispatch 1, /1/root (Root, root.cl): 1 of 8 values are NaN or infinite")
    assert ", the first at [6] (" in text
    assert "; out: b float32 [" in text and ", 1 NaN]; in: a float32 [-9.5 to " in text
    assert text.endswith("Fix: look for kernels that this device gets wrong with `ondevice doctor`.")
    assert np.isnan(Session(FakeBundle(three_steps(8)), device).run("net", {"x": x}, width=8)["y"][6])


def test_check_lets_a_mask_through_but_no_infinity_of_our_own(device: OpenCLDevice) -> None:
    masked = make_plan(4, [("affine", ("x", "mask"), "a", (1.0,)), ("affine", ("a", "bias"), "y", (1.0,))])
    y = Session(FakeBundle(masked), device, check=True).run("net", {"x": np.ones(4, np.float32)}, width=4)["y"]
    np.testing.assert_array_equal(y, [2.0, -np.inf, 1.5, -np.inf])
    large = make_plan(4, [("affine", ("x", "bias"), "a", (1.0,)), ("affine", ("a", "bias"), "y", (3e38,))])
    with pytest.raises(NumericError, match=r"^net: dispatch 1, /1/affine \(Affine, affine.cl\): 4 of 4 values"):
        Session(FakeBundle(large), device, check=True).run("net", {"x": np.full(4, 9.0, np.float32)}, width=4)


def test_check_names_what_makes_a_nan_of_an_infinity(device: OpenCLDevice) -> None:
    """An input that holds infinities excuses those of the result, and nothing else."""
    masked = make_plan(4, [("affine", ("x", "mask"), "a", (1.0,)), ("root", ("a",), "y", ())])
    with pytest.raises(
        NumericError, match=r"^net: dispatch 1, /1/root .*: 2 of 4 values .* NaN\]; in: a float32 \[.*, 2 infinite\]"
    ):
        Session(FakeBundle(masked), device, check=True).run("net", {"x": np.ones(4, np.float32)}, width=4)


def test_check_waits_for_a_tensor_that_is_written_in_parts(device: OpenCLDevice) -> None:
    plan = make_plan(
        8, [("part", ("x",), "c", (0,)), ("part", ("x",), "c", (4,)), ("affine", ("c", "bias"), "y", (1.0,))]
    )
    halves = [d if d.op != "Part" else replace(d, scalars=(4, d.scalars[1])) for d in plan.dispatches]
    plan = replace(plan, dispatches=tuple(halves))
    session = Session(FakeBundle(plan), device, check=True)
    session.run("net", {"x": np.ones(8, np.float32)}, width=8)
    device.write(session._arena, np.full(plan.arena, 0xFF, np.uint8))  # NaN where nothing was written yet
    assert np.isfinite(session.run("net", {"x": np.ones(8, np.float32)}, width=8)["y"]).all()
    with pytest.raises(NumericError, match=r"^net: dispatch 1, /1/part"):
        session.run("net", {"x": np.full(8, np.nan, np.float32)}, width=8)


def test_check_looks_at_a_result_before_it_is_worked_on_in_place() -> None:
    """A dispatch in place names what it overwrites as its result alone: what stands among its inputs is a stand-in."""
    plan = make_plan(
        4, [("root", ("x",), "c", ()), ("affine", ("x", "bias"), "c", (1.0,)), ("affine", ("c", "bias"), "y", (1.0,))]
    )
    c, y = (plan.dispatches[number].operands[-1] for number in (1, 2))
    assert results(plan) == [(), (c,), (y,)]
    inside = tuple(replace(kernel, defines=(*kernel.defines, ("INPLACE", 1))) for kernel in plan.kernels)
    assert results(replace(plan, kernels=inside)) == [(c,), (c,), (y,)]


def test_check_leaves_what_nobody_reads_alone(device: OpenCLDevice) -> None:
    """A kernel's scratch may hold anything."""
    nan = {"x": np.full(4, np.nan, np.float32)}
    unread = make_plan(4, [("affine", ("x", "bias"), "scratch", (1.0,)), ("affine", ("bias", "bias"), "y", (1.0,))])
    assert np.isfinite(Session(FakeBundle(unread), device, check=True).run("net", nan, width=4)["y"]).all()


def test_a_broken_kernel_names_file_line_and_defines(device: OpenCLDevice) -> None:
    plan = make_plan(8, [("wrong", ("x",), "y", ())])
    with pytest.raises(KernelBuildError) as caught:
        Session(FakeBundle(plan), device).run("net", {"x": numbers(8)}, width=8)
    text = str(caught.value)
    assert text.startswith(f"wrong.cl: the driver of {device.name} (")
    assert "refused it: line 2 of wrong.cl: use of undeclared identifier 'missing'" in text


def test_a_refused_launch_names_node_and_driver_code(device: OpenCLDevice) -> None:
    plan = three_steps(8)
    huge = [replace(d, grid=(1 << 20, 1, 1), group=(1 << 20, 1, 1)) for d in plan.dispatches]
    plan = replace(plan, dispatches=tuple(huge))
    with pytest.raises(DeviceError) as caught:
        Session(FakeBundle(plan), device).run("net", {"x": numbers(8)}, width=8)
    assert str(caught.value).startswith(
        "net width=8: /0/affine (Affine), grid (1048576, 1, 1), group (1048576, 1, 1): "
    )
    assert "INVALID_WORK_GROUP_SIZE" in str(caught.value)


def test_bound_launches_share_a_program_but_keep_their_own_arguments(device: OpenCLDevice) -> None:
    program = device.build("__kernel void put(__global int* x, const int n) { x[0] = n; }", "put", "put.cl")
    buffers = [device.alloc(4, "x") for _ in range(3)]
    bound = [device.bind(program, [buffer], (value,)) for buffer, value in zip(buffers, (7, -8, 1.0), strict=True)]
    for one in bound:
        device.launch(one, (1, 1, 1), (1, 1, 1))
    read = [int(device.read(buffer, (1,), np.dtype(np.int32))[0]) for buffer in buffers]
    assert read == [7, -8, int(np.float32(1.0).view(np.int32))]


def test_a_program_makes_a_kernel_once_for_each_signature(
    device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, cl = [], discovery.opencl()
    kernel = cl.Kernel
    monkeypatch.setattr(cl, "Kernel", lambda program, name: kernels.append(name) or kernel(program, name))
    source = f"// {uuid4()}\n__kernel void put2(__global int* x, const int n) {{ x[0] = n; }}"  # in no cache
    for made in (2, 1):  # of what is built and of its binary, which is kept; and of the cache's
        kernels.clear()
        program = device.build(source, "put2", "put2.cl")
        for value in (7, -8):
            device.bind(program, [device.alloc(4, "x")], (value,))
        assert kernels.count("put2") == made  # pyopencl asks for others, such as one of the name _source
    device.bind(program, [device.alloc(4, "x")], (1.0,))
    assert kernels.count("put2") == 2


def test_a_binary_that_is_refused_leaves_what_was_built(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of a build is its binary, which holds less of the compiler's; where a driver takes none, itself."""
    compiled, built = device_module.compile_program, []

    def refusing(program, entry, options):
        built.append(program)
        if len(built) == 2:
            raise RuntimeError("no binaries")
        return compiled(program, entry, options)

    monkeypatch.setattr(device_module, "compile_program", refusing)
    source = f"// {uuid4()}\n__kernel void put3(__global int* x, const int n) {{ x[0] = n; }}"
    program = device.build(source, "put3", "put3.cl")
    assert len(built) == 2 and program.built is not built[1]
    bound = device.bind(program, [buffer := device.alloc(4, "x")], (5,))
    device.launch(bound, (1, 1, 1), (1, 1, 1))
    assert int(device.read(buffer, (1,), np.dtype(np.int32))[0]) == 5
