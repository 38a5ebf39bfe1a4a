"""Ranks of a network: sums that all come to are ended in their order, and the first rank's result is that of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from run.small_plans import KERNELS, FakeBundle, make_plan

from ondevice.errors import BundleError, DeviceError
from ondevice.graph.ranks import Rank
from ondevice.lower.kernel_file import load_all
from ondevice.lower.prelude import prelude
from ondevice.run.device_value import DeviceValue
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.ranks import Ranks, Share
from ondevice.run.session import GRACE, Session
from ondevice.run.turns import Part, Turns, finished

X = np.arange(4, dtype=np.float32)


class Scripted(Share):
    """Gives parts of sums one after another; its result is of each sum its own part and then those of others."""

    def __init__(self, number: int, parts: list[np.ndarray], log: list[str]) -> None:
        self.number, self.parts, self.log = number, parts, log

    def running(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, np.ndarray]]:
        self.log.append(f"{self.number}: {component} {sorted(inputs)}")
        totals = []
        for values in self.parts:
            yield None
            part = Part(values)
            yield part
            assert part.others is not None
            totals.append(np.concatenate([part.values, *part.others]))
        return {"y": np.concatenate(totals) if totals else X}

    def running_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> Turns[dict[str, Any]]:
        made = yield from self.running(component, inputs, **sizes)
        return {name: self.put(array) for name, array in made.items()}

    def release(self, component: str) -> None:
        self.log.append(f"{self.number}: release {component}")

    def release_all(self) -> None:
        self.log.append(f"{self.number}: release all")

    def change_weights(self, changed: Any) -> None:
        self.log.append(f"{self.number}: change {changed}")

    def stream_weights(self, nbytes: int | None) -> None:
        self.log.append(f"{self.number}: stream {nbytes}")

    def put(self, array: np.ndarray) -> DeviceValue:
        return DeviceValue((self.number, array), "f32", array.shape)

    def read(self, value: DeviceValue) -> np.ndarray:
        assert value.buffer[0] == self.number, "a value of another device"
        array: np.ndarray = value.buffer[1]
        return array


class Shares:
    components = {"control": "f32", "net": "f32"} | {
        f"net_{number}of{of}": "f32" for of in (2, 3) for number in range(1, of + 1)
    }


def ranks(*parts: list[Any], dtype: Any = np.float32) -> tuple[Ranks, list[str]]:
    log: list[str] = []
    sessions = [Scripted(n, [np.array(one, dtype) for one in own], log) for n, own in enumerate(parts)]
    return Ranks(Shares(), sessions, ["net", "control"]), log


def test_each_gets_the_parts_of_all_others_in_their_order() -> None:
    runner, log = ranks([[1, 2], [5]], [[10, 20], [50]], [[100, 200], [500]])
    made = runner._each("net", {"x": X}, {}, lambda number, session: session.running)
    assert [one["y"].tolist() for one in finished(made)] == [
        [1, 2, 10, 20, 100, 200, 5, 50, 500],
        [10, 20, 1, 2, 100, 200, 50, 5, 500],
        [100, 200, 1, 2, 10, 20, 500, 5, 50],
    ]
    assert log == ["0: net_1of3 ['x']", "1: net_2of3 ['x']", "2: net_3of3 ['x']"]
    assert (runner.moved.sums, runner.moved.arrays) == (3 * 3 * (8 + 4), 2 * 16)


def test_what_no_rank_has_a_share_of_all_compute_whole() -> None:
    runner, log = ranks([], [])
    kept = runner.run_on("control", {"x": X})["y"]
    np.testing.assert_array_equal(runner.read(kept), X)
    runner.run("net", {"x": kept})  # each reads its own
    runner.run("vae", {"x": X})
    runner.run_on("vae", {"x": X})
    assert log[:2] == ["0: control ['x']", "1: control ['x']"] and log[-2:] == ["0: vae ['x']"] * 2 and len(log) == 6


def test_what_was_made_before_goes_over_once() -> None:
    runner, _ = ranks([], [])
    value = runner.put(X)
    for _ in range(2):
        runner.run("net", {"x": value, "z": [value]})
    assert (runner.moved.once, runner.moved.arrays) == (16, 0)


def test_all_ranks_are_told() -> None:
    """Each of what it has of a network, too."""
    runner, log = ranks([], [])
    runner.change_weights(None)
    runner.stream_weights(7)
    runner.release_all()
    assert log == [f"{number}: {what}" for what in ("change None", "stream 7", "release all") for number in (0, 1)]
    log.clear()
    runner.release("net")
    assert log == [f"{n}: release {name}" for n in (0, 1) for name in ("net", f"net_{n + 1}of2")]


def gone(*_: Any) -> Any:
    raise DeviceError("gone.", where="b")


@pytest.mark.parametrize("parts", [([[1]], []), ([[1]], [[1, 2]]), ([[1], [2]], [[1]])])
def test_plans_that_do_not_go_together(parts: tuple[list[Any], list[Any]]) -> None:
    runner, _ = ranks(*parts)
    with pytest.raises(BundleError, match="net: the ranks' plans of net do not have the same sums"):
        runner.run("net", {})


SUMMED = [("part", ("x",), "a", (0,)), ("sum_ranks", ("a", "a"), "y", ())]


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("parts", [[[2048, 60000], [1, 60000]], [[1, 1], [2.0**-24, -1], [2.0**-24, 2.0**-24]]])
def test_a_sum_is_in_float32_and_in_the_order_of_the_ranks(
    dtype: str, parts: list[list[float]], device: OpenCLDevice
) -> None:
    """Of awkward length, on each rank the same bits: 2049 and 120000 are no halves."""
    of = len(parts)
    stored = {"f16": np.float16, "f32": np.float32}[dtype]
    values = [np.resize(np.array(part, stored), 37) for part in parts]
    expected = values[0].astype(np.float32)
    for other in values[1:]:
        expected = expected + other.astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = expected.astype(stored)
    kernel = load_all()["sum_ranks"]
    for number in range(of):
        others = [one for place, one in enumerate(values) if place != number]
        defines = {"V": 4, "STEPS": 4, "X": 1, "F16": int(dtype == "f16"), "OTHERS": of - 1, "BEFORE": number}
        words = "".join(f"#define {name} {value}\n" for name, value in defines.items())
        program = device.build(f"{words}{prelude('opencl')}\n{kernel.text}", "sum_ranks", "sum_ranks")
        buffers = [device.alloc(max(one.nbytes, 1), "x") for one in (values[0], np.concatenate(others), values[0])]
        device.write(buffers[0], values[number])
        device.write(buffers[1], np.concatenate(others))
        device.launch(device.bind(program, buffers, [37]), (3, 1, 1), (1, 1, 1))
        np.testing.assert_array_equal(device.read(buffers[2], (37,), np.dtype(stored)), wanted)


def test_two_devices_end_a_sum(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has half of 2 x; without others the op gives a device what it has. One that fails ends the other's turn."""
    source = f"{prelude('opencl')}\n{load_all()['sum_ranks'].text}"
    monkeypatch.setitem(KERNELS, "sum_ranks", f"#define V 4\n#define STEPS 1\n{source}")
    plans = [make_plan(4, SUMMED, name) for name in ("net_1of2", "net_2of2")]
    bundle = FakeBundle(*plans)
    bundle.components = Shares.components  # type: ignore[attr-defined]
    sessions = [Share(bundle, one, Rank(n, 2)) for n, one in enumerate((device, OpenCLDevice(device.found)))]
    runner = Ranks(bundle, sessions, ["net"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(runner.run("net", {"x": X}, width=4)["y"], 2 * X)
    np.testing.assert_array_equal(Session(bundle, device).run("net_1of2", {"x": X}, width=4)["y"], X)
    with monkeypatch.context() as patch:
        settled: list[float] = []
        patch.setattr(sessions[0]._device, "settle", lambda seconds: settled.append(seconds) or True)
        patch.setattr(sessions[1]._device, "reading", gone)
        with pytest.raises(DeviceError, match="b: gone") as caught:
            runner.run("net", {"x": X}, width=4)
        assert settled == [GRACE] and caught.tb is not None, "given up at once"
    np.testing.assert_array_equal(runner.run("net", {"x": X}, width=4)["y"], 2 * X)


def test_three_devices_end_sums_with_the_same_bits(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the ranks: only so 1, 2^-24 and -1 are nothing. And of more numbers than before."""
    source = f"{prelude('opencl')}\n{load_all()['sum_ranks'].text}"
    monkeypatch.setitem(KERNELS, "sum_ranks", f"#define V 4\n#define STEPS 1\n{source}")
    sums = ("sum_ranks", ("a", "a"), "y", ())
    bundle = FakeBundle(
        *(
            make_plan(n, [("affine", ("x", "bias"), "a", (factor,)), sums], f"net_{number}of3")
            for n in (4, 12)
            for number, factor in enumerate((1.0, 2.0**-24, -1.0), 1)
        )
    )
    bundle.data, bundle.components = np.zeros_like(bundle.data), Shares.components  # type: ignore[attr-defined]
    devices = [device, OpenCLDevice(device.found), OpenCLDevice(device.found)]
    sessions = [Share(bundle, one, Rank(number, 3)) for number, one in enumerate(devices)]
    runner = Ranks(bundle, sessions, ["net"])  # type: ignore[arg-type]
    for n in (4, 12):
        kept = runner.run_on("net", {"x": np.ones(n, np.float32)}, width=n)["y"]
        for session, value in zip(sessions, kept.values, strict=True):
            np.testing.assert_array_equal(session.read(value), np.zeros(n))
