"""Ranks of a network: sums that all come to are ended in their order, and the first rank's result is that of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from run.small_plans import KERNELS, FakeBundle, make_plan

from ondevice.errors import BundleError, DeviceError, UsageError
from ondevice.run.device_value import DeviceValue
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.ranks import Ranks, Share
from ondevice.run.session import Session
from ondevice.run.turns import Part, Turns

X = np.arange(4, dtype=np.float32)


class Scripted(Share):
    """Gives parts of sums one after another; its result is their totals, one after another."""

    def __init__(self, number: int, parts: list[np.ndarray], log: list[str]) -> None:
        self.number, self.parts, self.log = number, parts, log

    def running(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, np.ndarray]]:
        self.log.append(f"{self.number}: {component} {sorted(inputs)}")
        totals = []
        for values in self.parts:
            yield None
            part = Part(values)
            yield part
            assert part.total is not None
            totals.append(part.total)
        return {"y": np.concatenate(totals) if totals else X}

    def running_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, Any]]:
        made = yield from self.running(component, inputs, **sizes)
        return {name: self.put(array) for name, array in made.items()}

    def put(self, array: np.ndarray) -> DeviceValue:
        return DeviceValue((self.number, array), "f32", array.shape)

    def read(self, value: DeviceValue) -> np.ndarray:
        assert value.buffer[0] == self.number, "a value of another device"
        array: np.ndarray = value.buffer[1]
        return array


class Shares:
    components = {"net": "f32", "net_1of2": "f32", "net_2of2": "f32", "control": "f32"}


def ranks(*parts: list[Any], dtype: Any = np.float32) -> tuple[Ranks, list[str]]:
    log: list[str] = []
    sessions = [Scripted(n, [np.array(one, dtype) for one in own], log) for n, own in enumerate(parts)]
    return Ranks(Shares(), sessions, ["net", "control"]), log


def test_sums_are_ended_one_after_another() -> None:
    runner, log = ranks([[1, 2], [5]], [[10, 20], [50]])
    np.testing.assert_array_equal(runner.run("net", {"x": X})["y"], [11, 22, 55])
    assert log == ["0: net_1of2 ['x']", "1: net_2of2 ['x']"]
    assert (runner.moved.sums, runner.moved.arrays, runner.moved.runs) == (2 * 2 * (8 + 4), 16, 1)


def test_a_sum_is_in_float32_and_in_the_order_of_the_ranks() -> None:
    runner, _ = ranks([[2048, 60000]], [[1, 60000]], dtype=np.float16)
    made = runner.run("net", {})["y"]
    assert made.dtype == np.float16 and made.tolist() == [2048, np.inf]  # 2049 is not a half; nor is 120000
    small = np.float32(2.0**-24)
    runner, _ = ranks([[1]], [[small]], [[small]])
    assert runner.run("net", {})["y"][0] == np.float32(np.float32(1 + small) + small)


def test_what_no_rank_has_a_share_of_all_compute_whole() -> None:
    runner, log = ranks([], [])
    kept = runner.run_on("control", {"x": X})["y"]
    np.testing.assert_array_equal(runner.read(kept), X)
    runner.run("net", {"x": kept})  # each reads its own
    runner.run("vae", {"x": X})
    assert log[:2] == ["0: control ['x']", "1: control ['x']"] and log[-1] == "0: vae ['x']" and len(log) == 5


def test_what_was_made_before_goes_over_once() -> None:
    runner, _ = ranks([], [])
    value = runner.put(X)
    for _ in range(2):
        runner.run("net", {"x": value, "z": [value]})
    assert (runner.moved.once, runner.moved.arrays) == (16, 0)


@pytest.mark.parametrize("parts", [([[1]], []), ([[1]], [[1, 2]]), ([[1], [2]], [[1]])])
def test_plans_that_do_not_go_together(parts: tuple[list[Any], list[Any]]) -> None:
    runner, _ = ranks(*parts)
    with pytest.raises(BundleError, match="net: the ranks' plans of net do not have the same sums"):
        runner.run("net", {})


def test_adapters_are_refused() -> None:
    runner, _ = ranks([], [])
    runner.change_weights(None)
    with pytest.raises(UsageError, match="--lora: devices that share weights take no adapters"):
        runner.change_weights(object())  # type: ignore[arg-type]


SUMMED = [("part", ("x",), "a", (0,)), ("sum_ranks", ("a",), "y", ())]


def test_two_devices_end_a_sum(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has half of 2 x; without others the op gives a device what it has. One that fails ends the other's turn."""
    copy = KERNELS["root"].replace("root", "sum_ranks").replace("sqrt(x[i])", "x[i]")
    monkeypatch.setitem(KERNELS, "sum_ranks", copy)
    plans = [make_plan(4, SUMMED, name) for name in ("net_1of2", "net_2of2")]
    bundle = FakeBundle(*plans)
    bundle.components = Shares.components  # type: ignore[attr-defined]
    sessions = [Share(bundle, device), Share(bundle, OpenCLDevice(device.found))]
    runner = Ranks(bundle, sessions, ["net"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(runner.run("net", {"x": X}, width=4)["y"], 2 * X)
    np.testing.assert_array_equal(Session(bundle, device).run("net_1of2", {"x": X}, width=4)["y"], X)
    with monkeypatch.context() as patch:
        patch.setattr(sessions[1]._device, "read", lambda *_: (_ for _ in ()).throw(DeviceError("gone.", where="b")))
        with pytest.raises(DeviceError, match="b: gone"):
            runner.run("net", {"x": X}, width=4)
    np.testing.assert_array_equal(runner.run("net", {"x": X}, width=4)["y"], 2 * X)
