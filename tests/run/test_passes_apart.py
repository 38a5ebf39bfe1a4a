"""Passes on several devices: what each is given, what goes between them, and what becomes of others if one fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, make_plan

from ondevice.errors import DeviceError
from ondevice.plan.plan import Plan
from ondevice.run.device_value import DeviceValue
from ondevice.run.passes_apart import FREE, PassesApart
from ondevice.run.session import GRACE, IN_FLIGHT, Session
from ondevice.run.turns import Turns, finished, together

X = np.arange(12, dtype=np.float32)


def one_pass(n: int = 4, steps: int = 1) -> Plan:
    """y = x, in so many launches, at batch 1."""
    plan = make_plan(
        n, [("part", (f"t{i}" if i else "x",), f"t{i + 1}" if i < steps - 1 else "y", (0,)) for i in range(steps)]
    )
    return replace(plan, sizes={"batch": 1})


class Doubles(Session):
    """A session whose networks are formulas: y = 2 x + the device's number in the second place, z = x's values."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log = number, log

    def running(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, np.ndarray]]:
        given = {name: value.buffer if isinstance(value, DeviceValue) else value for name, value in inputs.items()}
        assert all(not isinstance(value, DeviceValue) or value.dtype == f"f{self.number}" for value in inputs.values())
        self.log.append(
            f"{self.number}: {component} {sizes['batch']} {sorted((k, v.tolist()) for k, v in given.items())}"
        )
        yield
        return {"y": 2 * given["x"] + self.number / 10}

    def running_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, DeviceValue]]:
        made = yield from self.running(component, inputs, **sizes)
        return {name: self.put(value) for name, value in made.items()}

    def read(self, value: DeviceValue) -> np.ndarray:
        assert value.dtype == f"f{self.number}", "a value of another device"
        return value.buffer

    def put(self, array: np.ndarray) -> DeviceValue:
        return DeviceValue(array, f"f{self.number}", array.shape)

    def release(self, component: str) -> None:
        self.log.append(f"{self.number}: release {component}")

    def release_all(self) -> None:
        self.log.append(f"{self.number}: release all")

    def change_weights(self, changed: Any) -> None:
        self.log.append(f"{self.number}: change {changed}")

    def stream_weights(self, nbytes: int | None) -> None:
        self.log.append(f"{self.number}: stream {nbytes}")


class Plans(FakeBundle):
    def port_zeros(self, component: str, sizes: Mapping[str, int], port: str) -> np.ndarray:
        return np.zeros(self.plan(component, **sizes).operands[0].shape, np.float32)


@pytest.fixture
def log() -> list[str]:
    return []


def apart(log: list[str], devices: int = 2) -> PassesApart:
    return PassesApart(Plans(one_pass()), [Doubles(number, log) for number in range(devices)], ["net"])


def test_each_pass_runs_on_its_device_with_its_part(log: list[str]) -> None:
    runner = apart(log)
    text = [runner.put(np.full(2, value, np.float32)) for value in (5, 6)]
    made = runner.run("net", {"x": X[:8], "all": X[:4].reshape(4), "text": text}, batch=2)
    # `x` has four elements a pass as its plan says; `all` is not a port of the small plan, and is cut as `x` is
    np.testing.assert_array_equal(made["y"], np.concatenate([2 * X[:4], 2 * X[4:8] + np.float32(0.1)]))
    assert [line[:10] for line in log] == ["0: net 1 [", "1: net 1 ["]
    assert "('text', [5.0, 5.0])" in log[0] and "('text', [6.0, 6.0])" in log[1]
    assert "('x', [4.0, 5.0, 6.0, 7.0])" in log[1]
    assert runner.moved.arrays == 16 + 8 + 16 and runner.moved.once == 8  # x, all and y of the second pass; its text
    runner.run("net", {"x": X[:8], "all": X[:4].reshape(4), "text": text}, batch=2)
    assert runner.moved.arrays == 2 * (16 + 8 + 16) and runner.moved.once == 8  # the text went over once
    assert runner.moved.runs == 2


def test_what_is_the_same_in_all_passes_is_given_whole(log: list[str]) -> None:
    apart(log).run("net", {"x": X[:4]}, batch=2)
    assert [line[3:] for line in log] == ["net 1 [('x', [0.0, 1.0, 2.0, 3.0])]"] * 2


def test_three_passes_on_two_devices(log: list[str]) -> None:
    made = apart(log).run("net", {"x": X}, batch=3)
    np.testing.assert_array_equal(made["y"], 2 * X + np.repeat(np.float32([0, 0.1, 0]), 4))
    assert [line[0] for line in log] == ["0", "1", "0"]


def test_what_passes_make_stays_where_it_was_made(log: list[str]) -> None:
    runner = apart(log)
    kept = runner.run_on("net", {"x": X[:8]}, batch=2)["y"]
    np.testing.assert_array_equal(runner.read(kept), np.concatenate([2 * X[:4], 2 * X[4:8] + np.float32(0.1)]))
    moved = runner.moved.once
    np.testing.assert_array_equal(
        runner.run("net", {"x": kept}, batch=2)["y"],
        np.concatenate([4 * X[:4], 2 * (2 * X[4:8] + np.float32(0.1)) + np.float32(0.1)]),
    )
    assert runner.moved.once == moved


def test_a_value_of_all_passes_is_cut(log: list[str]) -> None:
    runner = apart(log)
    zeros = runner.put(runner.zeros("net", {"batch": 2}, "x"))
    assert zeros.shape == (8,)
    np.testing.assert_array_equal(runner.run("net", {"x": zeros}, batch=2)["y"], np.repeat(np.float32([0, 0.1]), 4))
    assert runner.zeros("net", {"batch": 1}, "x").shape == (4,)


def test_all_else_is_the_first_device_s(log: list[str]) -> None:
    runner = apart(log)
    runner.run("net", {"x": X[:4]}, batch=1)
    runner.run_on("other", {"x": X[:4]}, batch=2)
    assert [line[:8] for line in log] == ["0: net 1", "0: other"]
    log.clear()
    runner.change_weights(None)
    runner.stream_weights(7)
    runner.release("net")
    runner.release_all()
    told = ("change None", "stream 7", "release net", "release all")
    assert log == [f"{number}: {what}" for what in told for number in (0, 1)]
    assert not runner.has_mended
    runner._sessions[1].has_mended = True  # type: ignore[attr-defined]
    assert runner.has_mended


def test_a_loop_s_plans_of_one_pass_run_any_number() -> None:
    sizes = {
        "net": [{"batch": 1, "width": 4}, {"batch": 2, "width": 4}, {"batch": 1, "width": 8}],
        "vae": [{"batch": 1}],
    }
    assert apart([]).plan_sizes(sizes) == {
        "net": [{"batch": FREE, "width": 4}, {"batch": FREE, "width": 8}],
        "vae": [{"batch": 1}],
    }


# Devices that work at the same time -----------------------------------------------------------------------------------


class Fails(NullDevice):
    """Fails, or is interrupted, at its launch number `at`."""

    def __init__(self, name: str, at: int, error: BaseException) -> None:
        super().__init__(name)
        self.at, self.error, self.settled = at, error, 0.0

    def launch(self, bound: str, grid: tuple[int, int, int], group: tuple[int, int, int]) -> float:
        if sum(line.startswith("launch") for line in self.log) == self.at:
            raise self.error
        return super().launch(bound, grid, group)

    def settle(self, seconds: float) -> bool:
        self.settled = seconds
        return super().settle(seconds)


def test_devices_have_work_at_the_same_time() -> None:
    plan, order = one_pass(4, 3 * IN_FLIGHT), list[str]()

    class Says(NullDevice):
        def launch(self, *given: Any) -> float:
            order.append(self.name)
            return super().launch(*given)

    sessions = [Session(FakeBundle(plan), Says(name)) for name in "ab"]
    PassesApart(Plans(plan), sessions, ["net"]).run("net", {"x": X[:8]}, batch=2)
    turns = [name for number, name in enumerate(order) if order[number - 1 : number] != [name]]
    assert turns == ["a", "b"] * 3 and len(order) == 6 * IN_FLIGHT
    assert order.index("b") == IN_FLIGHT + 1  # the second begins before the first is waited for


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("error", [DeviceError("gone.", where="b"), KeyboardInterrupt()])
def test_where_one_fails_the_others_are_given_up_and_all_can_go_on(number: int, error: BaseException) -> None:
    plan = one_pass(4, 5 * IN_FLIGHT)
    devices = [Fails(name, 2 * IN_FLIGHT if place == number else -1, error) for place, name in enumerate("ab")]
    runner = PassesApart(Plans(plan), [Session(FakeBundle(plan), device) for device in devices], ["net"])
    with pytest.raises(type(error)) as caught:
        runner.run("net", {"x": X[:8]}, batch=2)
    assert caught.value is error
    other = devices[1 - number]
    assert other.settled == GRACE and other.log[-1] == "finish"  # not longer than that
    assert sum(line.startswith("launch") for line in other.log) < 5 * IN_FLIGHT
    devices[number].at = -1
    assert runner.run("net", {"x": X[:8]}, batch=2)["y"].shape == (8,)


def test_turns_are_taken_in_order_and_results_come_in_it() -> None:
    order: list[str] = []

    def run(name: str, turns: int) -> Turns[str]:
        for turn in range(turns):
            order.append(f"{name}{turn}")
            yield
        return name

    assert finished(together([run("a", 1), run("b", 3), run("c", 2)])) == ["a", "b", "c"]
    assert order == ["a0", "b0", "c0", "b1", "c1", "b2"]
