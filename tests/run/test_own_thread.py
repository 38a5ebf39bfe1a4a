"""A part of one core: its kernels run in order on a thread of its own, and what they raise is said once."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run.small_plans import FakeBundle, three_steps

from ondevice.errors import DeviceError
from ondevice.run import own_thread
from ondevice.run.discovery import find_device
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.own_thread import EXTENSION, OwnThread, opened
from ondevice.run.session import Session

X = np.arange(8, dtype=np.float32)
ADD = "__kernel void add(__global float* x, const int n) { for (int i = 0; i < n; ++i) x[get_global_id(0)] += 1; }"


@pytest.fixture(scope="module")
def own() -> OwnThread:
    found = find_device("cpu")
    if EXTENSION not in found.handle.extensions.split():
        pytest.skip(f"{found.name} has no {EXTENSION}")
    return OwnThread(found)


def added(device: OpenCLDevice, count: int) -> tuple[Any, Any]:
    """A launch that adds so much to each of 8 numbers, and these."""
    buffer = device.alloc(32, "x")
    device.write(buffer, X)
    return device.bind(device.build(ADD, "add", "add"), [buffer], [count]), buffer


def read(device: OpenCLDevice, buffer: Any) -> np.ndarray:
    return device.read(buffer, (8,), np.dtype(np.float32))


def test_a_session_gives_what_it_gives_elsewhere(own: OwnThread) -> None:
    runs = [Session(FakeBundle(three_steps(8)), device) for device in (own, OpenCLDevice(own.found))]
    first, second = (session.run("net", {"x": X + 1}, width=8)["y"] for session in runs)
    np.testing.assert_array_equal(first, second)


def test_launches_are_made_in_order_and_by_no_other_thread(own: OwnThread) -> None:
    bound, buffer = added(own, 1)
    threads = []
    enqueue = own._enqueue

    def noted(*given: Any) -> int:
        threads.append(threading.current_thread().name)
        assert enqueue is not None
        return enqueue(*given)

    own._enqueue = noted
    for number in range(5):
        own.launch(bound, (8, 1, 1), (1, 1, 1))
        own.give(buffer, X + 10 * number)
    last = own.launch(bound, (8, 1, 1), (1, 1, 1))
    for _ in range(2):  # as often as somebody asks
        own.waiting(last)()
    own._enqueue = enqueue
    np.testing.assert_array_equal(own.reading(buffer, (8,), np.dtype(np.float32))(), X + 41)
    assert threads == ["driver"] * 6


def test_what_a_launch_raises_is_said_once_and_nothing_is_done_after_it(own: OwnThread) -> None:
    bound, buffer = added(own, 1)
    own.launch(bound, (8, 1, 1), (3, 1, 1))  # 8 are no groups of 3
    own.give(buffer, X - 1)
    last = own.launch(bound, (8, 1, 1), (1, 1, 1))
    with pytest.raises(DeviceError, match=r"^add, grid \(8, 1, 1\), group \(3, 1, 1\): .* failed: clEnqueueNDRange"):
        own.wait(last)
    np.testing.assert_array_equal(read(own, buffer), X)
    own.launch(bound, (8, 1, 1), (3, 1, 1))
    with pytest.raises(DeviceError, match="clEnqueueNDRangeKernel failed"):
        own.reading(buffer, (8,), np.dtype(np.float32))()
    own.launch(bound, (8, 1, 1), (3, 1, 1))
    with pytest.raises(DeviceError, match="clEnqueueNDRangeKernel failed"):
        read(own, buffer)
    own.launch(bound, (8, 1, 1), (1, 1, 1))
    np.testing.assert_array_equal(read(own, buffer), X + 1)


def test_what_waits_for_its_turn_is_given_up(own: OwnThread) -> None:
    long, _ = added(own, 20_000_000)
    bound, buffer = added(own, 1)
    own.launch(long, (8, 1, 1), (1, 1, 1))
    own.launch(bound, (8, 1, 1), (1, 1, 1))
    assert own.settle(60)
    np.testing.assert_array_equal(read(own, buffer), X)
    own.launch(bound, (8, 1, 1), (1, 1, 1))
    np.testing.assert_array_equal(read(own, buffer), X + 1)


def test_what_does_not_end_in_time_is_waited_for_later(own: OwnThread) -> None:
    """And what is asked for then is done as if nothing had been given up."""
    long, _ = added(own, 200_000_000)
    bound, buffer = added(own, 1)
    own.launch(long, (8, 1, 1), (1, 1, 1))
    own.launch(bound, (8, 1, 1), (1, 1, 1))
    assert not own.settle(0.0)
    own.wait(own.launch(bound, (8, 1, 1), (1, 1, 1)))
    np.testing.assert_array_equal(read(own, buffer), X + 1)


@pytest.mark.parametrize(
    "part, units, extensions, there, own_thread_s",
    [
        ("part 1 of 2", 1, f"cl_khr_fp64 {EXTENSION}", True, True),
        ("part 1 of 2", 4, EXTENSION, True, False),  # of several cores: they have the runtime's threads
        ("part 1 of 2", 1, "cl_khr_fp64", True, False),
        ("part 1 of 2", 1, EXTENSION, False, False),
        ("", 1, EXTENSION, True, False),
    ],
)
def test_which_devices_have_one(
    part: str, units: int, extensions: str, there: bool, own_thread_s: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = SimpleNamespace(max_compute_units=units, extensions=extensions)
    found = replace(find_device("cpu"), part=part, handle=handle)
    monkeypatch.setattr(own_thread, "_enqueue", lambda: (lambda: 0) if there else None)
    monkeypatch.setattr(own_thread, "OwnThread", lambda found: "own")
    monkeypatch.setattr(own_thread, "OpenCLDevice", lambda found: "usual")
    assert opened(found) == ("own" if own_thread_s else "usual")  # type: ignore[comparison-overlap]
