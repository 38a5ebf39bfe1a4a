"""What a session asks of a device, seen on one that only takes notes."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, make_plan, three_steps, with_arena

from ondevice.errors import DeviceError, UsageError
from ondevice.plan.plan import Plan
from ondevice.run.session import IN_FLIGHT, Session


def run(session: Session, plan: Plan) -> dict[str, np.ndarray]:
    return session.run(plan.component, {"x": np.ones(plan.operands[plan.inputs[0]].shape, np.float32)}, **plan.sizes)


def said(device: NullDevice, verb: str) -> list[str]:
    return [line for line in device.log if line.startswith(f"{verb} ") or line == verb]


def test_everything_is_made_once_and_then_only_replayed() -> None:
    device, plan = NullDevice(), three_steps(8)
    session = Session(FakeBundle(plan), device)
    run(session, plan)
    assert device.log == [
        f"alloc net width=8: arena {plan.arena}",
        "prepare affine root",
        "build affine.cl WEIGHTS=4",
        "build root.cl",
        "upload weights/0.bin 1024",
        "write 32",
        "launch affine(8, 2.0) grid=(8, 1, 1) group=(4, 1, 1)",
        "launch root(8,) grid=(8, 1, 1) group=(4, 1, 1)",
        "launch affine(8, -3.0) grid=(8, 1, 1) group=(4, 1, 1)",
        "wait",
        "read float32[8]",
    ]
    device.log.clear()
    run(session, plan)
    assert [line.split()[0] for line in device.log] == ["write", "launch", "launch", "launch", "wait", "read"]


def test_plans_share_arena_weights_and_kernels() -> None:
    device = NullDevice()
    small, large, other = three_steps(8), three_steps(1000), three_steps(16, "other")
    session = Session(FakeBundle(small, large, other), device)
    for plan in (small, large, small, other, large):
        assert run(session, plan)["y"].shape == plan.operands[plan.outputs[0]].shape
    assert said(device, "alloc") == [
        f"alloc net width=8: arena {small.arena}",
        f"alloc net width=1000: arena {large.arena}",
    ]
    assert len(said(device, "upload")) == 1
    assert len(said(device, "build")) == 2


def test_the_old_arena_is_gone_before_a_larger_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device, small, large = NullDevice(), three_steps(8), three_steps(1000)
    session, arenas = Session(FakeBundle(small, large), device), []
    alloc = NullDevice.alloc

    def watch(self: NullDevice, nbytes: int, what: str) -> np.ndarray:
        gc.collect()
        assert all(arena() is None for arena in arenas)
        buffer = alloc(self, nbytes, what)
        arenas.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(NullDevice, "alloc", watch)
    run(session, small)
    run(session, large)
    assert len(arenas) == 2


def test_few_launches_are_in_flight_so_that_an_interrupt_is_heard() -> None:
    device = NullDevice()
    plan = make_plan(4, [("root", ("x",), "y", ())] * (4 * IN_FLIGHT))
    run(Session(FakeBundle(plan), device), plan)
    waits = [
        sum(line.startswith("launch") for line in device.log[:at])
        for at, line in enumerate(device.log)
        if line == "wait"
    ]
    assert waits == [IN_FLIGHT + 1, 2 * IN_FLIGHT + 1, 3 * IN_FLIGHT + 1, 4 * IN_FLIGHT]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceError("it is gone.")])
def test_after_an_interrupt_nothing_runs_and_the_session_works(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device, plan = NullDevice(), three_steps(8)
    session = Session(FakeBundle(plan), device)
    with monkeypatch.context() as patch:

        def broken(self: NullDevice, bound: str, *_: object) -> float:
            raise error

        patch.setattr(NullDevice, "launch", broken)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            run(session, plan)
    assert device.log[-1] == "finish"
    assert run(session, plan)["y"].shape == (8,)


def test_an_arena_that_cannot_be_had_leaves_the_session_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    device, small, large = NullDevice(), three_steps(8), three_steps(1000)
    session = Session(FakeBundle(small, large), device)
    run(session, small)
    with monkeypatch.context() as patch:

        def refuse(self: NullDevice, nbytes: int, what: str) -> Any:
            raise DeviceError("no memory.", where=what)

        patch.setattr(NullDevice, "alloc", refuse)
        with pytest.raises(DeviceError, match=r"net width=1000: arena: no memory\."):
            run(session, large)
    assert run(session, small)["y"].shape == (8,)


def test_memory_is_checked_before_anything_is_loaded() -> None:
    plan = with_arena(three_steps(8), 3_000_000)
    device = NullDevice(limits={"global_bytes": 2_000_000})
    with pytest.raises(DeviceError) as caught:
        run(Session(FakeBundle(plan), device), plan)
    assert str(caught.value) == (
        "net width=8: it needs 3.0 MB (arena 3.0, weights 0.0), and null has 2.0 MB. Fix: "
        "use a smaller --size, or another --device."
    )
    assert device.log == []


@pytest.mark.parametrize("mapped, fits", [(True, True), (False, False)])
def test_weights_count_where_they_are_copied(mapped: bool, fits: bool) -> None:
    plan = with_arena(three_steps(8), 10_000)
    device = NullDevice(limits={"global_bytes": 10_500, "maps_weights": mapped})
    session = Session(FakeBundle(plan), device)
    if fits:
        assert run(session, plan)
    else:
        with pytest.raises(DeviceError, match=r"weights 0\.0"):
            run(session, plan)


def test_weights_count_as_long_as_they_are_there() -> None:
    """A shard of 1024 bytes: with arenas of 10 kB it fits once and not twice."""
    small, large = with_arena(three_steps(8), 10_000), with_arena(three_steps(16, "other"), 11_000)
    session = Session(FakeBundle(small, large), NullDevice(limits={"global_bytes": 11_500, "maps_weights": False}))
    for _ in range(3):
        run(session, small)
        with pytest.raises(DeviceError, match=r"other width=16: it needs 0\.0 MB"):
            run(session, large)  # its weights are there, and so are their bytes
        session.release("other")
        session.release("net")


def test_inputs_are_checked_by_name_shape_and_type() -> None:
    plan = three_steps(8)
    session = Session(FakeBundle(plan), NullDevice())
    good = np.zeros(8, np.float32)

    def message(**inputs: Any) -> str:
        with pytest.raises(UsageError) as caught:
            session.run("net", inputs, width=8)
        return str(caught.value)

    assert message() == "net: input x is missing (got [], expected ['x'])."
    assert message(x=good, z=good) == "net: input z is unknown (got ['x', 'z'], expected ['x'])."
    assert message(x=good[:7]) == "net: input x: it is float32[7] (expected float32[8])."
    assert message(x=good.astype(np.float64)) == "net: input x: it is float64[8] (expected float32[8])."
    assert message(x=[0] * 8) == "net: input x: it is int64[8] (expected float32[8])."


def test_values_stay_on_the_device_in_memory_of_their_own() -> None:
    device, plan = NullDevice(), replace(three_steps(8), dispatches=(), outputs=(0,))
    session, bundle_of_16 = Session(FakeBundle(plan, three_steps(16)), device), three_steps(16)
    arrays = [np.arange(8, dtype=np.float32), np.arange(8, 16, dtype=np.float32)]
    first, second = (session.run_on("net", {"x": array}, width=8)["x"] for array in arrays)
    assert not said(device, "read") and said(device, "copy") == ["copy 32"] * 2
    run(session, bundle_of_16)  # a larger arena takes the place of the one that they were made in
    for value, array in ((first, arrays[0]), (second, arrays[1]), (session.put(arrays[1][::-1]), arrays[1][::-1])):
        np.testing.assert_array_equal(session.read(value), array)
    device.log.clear()
    np.testing.assert_array_equal(session.run("net", {"x": second}, width=8)["x"], arrays[1])
    assert [line.split()[0] for line in device.log] == ["copy", "read"]


def test_values_are_joined_along_the_first_dimension() -> None:
    device, plan = NullDevice(), replace(three_steps(12), dispatches=(), outputs=(0,))
    session = Session(FakeBundle(plan), device)
    parts = [np.arange(8, dtype=np.float32), np.arange(8, 12, dtype=np.float32)]
    given = [session.put(part) for part in parts]
    np.testing.assert_array_equal(session.run("net", {"x": given}, width=12)["x"], np.concatenate(parts))
    whole = replace(given[0], shape=(12,))

    def message(x: Any) -> str:
        with pytest.raises(UsageError) as caught:
            session.run("net", {"x": x}, width=12)
        return str(caught.value)

    assert message(given[:1]) == message(given[0]) == "net: input x: it is f32[8] (expected f32[12])."
    assert message(replace(whole, dtype="i32")) == "net: input x: it is i32[12] (expected f32[12])."
    assert (
        message([given[0], replace(given[1], dtype="i32")])
        == "net: input x: its parts are f32[8], i32[4] (expected f32[12])."
    )
    assert message(replace(whole, shape=(12, 1))) == "net: input x: it is f32[12, 1] (expected f32[12])."
    assert message([given[0], replace(given[1], shape=(4, 2))]).startswith(
        "net: input x: its parts are f32[8], f32[4, 2] ("
    )
    assert message([]) == "net: input x: it is float64[0] (expected float32[12])."


def test_an_input_may_be_any_view_of_an_array() -> None:
    device, plan = NullDevice(), replace(three_steps(8), dispatches=(), outputs=(0,))
    x = np.arange(16, dtype=np.float32)[::-2]
    np.testing.assert_array_equal(Session(FakeBundle(plan), device).run("net", {"x": x}, width=8)["x"], x)


def test_release_gives_back_the_arena_and_what_no_other_component_reads() -> None:
    device = NullDevice(limits={"maps_weights": False, "global_bytes": 10_000})
    one, other = three_steps(8), three_steps(16, "other")
    bundle = FakeBundle(one, other)
    session = Session(bundle, device)
    run(session, one)
    run(session, other)
    session.release("net")  # its weights are the other's, too
    assert bundle.unmapped == []
    run(session, other)
    assert len(said(device, "upload")) == 1 and len(said(device, "alloc")) == 2
    session.release("other")
    assert bundle.unmapped == ["weights/0.bin"]
    gc.collect()
    run(session, one)
    assert len(said(device, "upload")) == 2 and len(said(device, "build")) == 2
    session.release("never used")


def test_released_buffers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    device, plan, buffers = NullDevice(), three_steps(8), []
    alloc = NullDevice.alloc
    monkeypatch.setattr(NullDevice, "alloc", lambda *args: buffers.append(weakref.ref(found := alloc(*args))) or found)
    session = Session(FakeBundle(plan), device)
    run(session, plan)
    session.release("net")
    gc.collect()
    assert buffers[0]() is None
