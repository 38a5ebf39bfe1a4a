"""A session whose weights are changed and put back, on a device that only takes notes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from null_device import NullDevice
from run.small_plans import WEIGHTS, FakeBundle, three_steps

from ondevice.errors import DeviceError
from ondevice.run.session import Session


class Other:
    """`bias` with other values; `asked` counts how often they were made."""

    def __init__(self, values: float | BaseException, keys: Collection[str] = ("bias",)) -> None:
        self.keys, self._values, self.asked = keys, values, 0

    def values(self, key: str) -> np.ndarray:
        assert key in self.keys
        self.asked += 1
        if isinstance(self._values, BaseException):
            raise self._values
        return np.full(4, self._values, np.float32)


class Watching(NullDevice):
    """Keeps the first bytes of each kernel's weight as it is launched."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(limits=limits)
        self.read_at_launch: list[float] = []

    def bind(self, program: str, buffers: Any, scalars: Any, where: str = "") -> Any:
        return program, buffers, scalars

    def launch(self, bound: Any, grid: Any, group: Any) -> float:
        program, buffers, _ = bound
        if program == "affine":
            self.read_at_launch.append(float(buffers[1][:4].view(np.float32)[0]))
        return 0.0


def run(session: Session, device: Watching, width: int = 8) -> float:
    """The first number of the weight that the plan was run with."""
    device.read_at_launch.clear()
    session.run("net", {"x": np.ones(width, np.float32)}, width=width)
    (first,) = set(device.read_at_launch)
    return first


@pytest.fixture
def setup() -> tuple[Session, Watching, FakeBundle]:
    device, bundle = Watching(), FakeBundle(three_steps(8), three_steps(16))
    return Session(bundle, device), device, bundle


def test_weights_are_changed_and_put_back(setup: tuple[Session, Watching, FakeBundle]) -> None:
    session, device, bundle = setup
    before = bundle.data.copy()
    assert run(session, device) == WEIGHTS[0]
    one, two = Other(5), Other(7)
    session.change_weights(one)
    assert one.asked == 0, "values are made when a plan reads them"
    assert run(session, device) == 5 and run(session, device, 16) == 5
    assert one.asked == 1, "plans share them"
    session.change_weights(two)
    assert run(session, device) == 7
    session.change_weights(None)
    assert run(session, device) == WEIGHTS[0] and run(session, device, 16) == WEIGHTS[0]
    assert (bundle.data == before).all()
    assert sum(line.startswith("alloc bias, changed") for line in device.log) == 1, "memory is used again"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DeviceError("no.")])
def test_an_interrupted_switch_is_done_by_the_next_run(
    setup: tuple[Session, Watching, FakeBundle], error: BaseException
) -> None:
    session, device, _ = setup
    session.change_weights(Other(5))
    assert run(session, device) == 5
    session.change_weights(Other(error))
    for _ in range(2):
        with pytest.raises(type(error)):
            run(session, device)
    session.change_weights(Other(6))
    assert run(session, device) == 6

    session.change_weights(Other(8))
    write, device.write = device.write, lambda buffer, data: (_ for _ in ()).throw(KeyboardInterrupt())  # type: ignore
    with pytest.raises(KeyboardInterrupt):
        run(session, device)
    device.write = write  # type: ignore[method-assign]
    assert run(session, device) == 8


def test_their_memory_is_counted_and_given_back() -> None:
    plan = three_steps(8)
    needed = plan.arena + 1024
    session = Session(FakeBundle(plan), Watching(global_bytes=needed + 15, maps_weights=False))
    session.run("net", {"x": np.ones(8, np.float32)}, width=8)
    session.change_weights(Other(5))
    with pytest.raises(DeviceError, match=r"it needs 0\.0 MB"):
        session.run("net", {"x": np.ones(8, np.float32)}, width=8)
    device = Watching(global_bytes=needed + 16, maps_weights=False)
    session = Session(FakeBundle(plan), device)
    for value in (5, 6):
        session.change_weights(Other(value))
        assert run(session, device) == value
    session.release("net")
    assert session._weight_bytes == 0 and not session._own
    assert run(session, device) == 6
