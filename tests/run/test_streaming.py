"""Weights that are loaded a block at a time, on a device that only takes notes: what is where when a kernel runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, make_plan

from ondevice.errors import BundleError, DeviceError, PlanError
from ondevice.plan import blocks
from ondevice.plan.plan import ALIGN, Operand, Plan
from ondevice.run import streaming
from ondevice.run.session import Session

COUNT = 9


def chain(n: int = 8, component: str = "net") -> Plan:
    """A dispatch for each of COUNT weights, `w0` to `w8`, f32[4]."""
    names = ["x", *(f"a{number}" for number in range(1, COUNT)), "y"]
    steps = [("affine", (names[number], f"w{number}"), names[number + 1], (1.0,)) for number in range(COUNT)]
    return with_weights(make_plan(n, steps, component))


def with_weights(plan: Plan) -> Plan:
    weights = {name: Operand(name, "f32", (4,), 16, weight=name) for name in (f"w{number}" for number in range(COUNT))}
    return replace(plan, operands=tuple(weights.get(one.name, one) for one in plan.operands))


class Shards(FakeBundle):
    """Weight `wN` holds N; they lie one after another in two shards."""

    def __init__(self, *plans: Plan) -> None:
        super().__init__(*plans)
        self.asked: list[tuple[str, str, int, int]] = []
        self.broken = False
        self.data = np.zeros((COUNT, ALIGN), np.uint8)
        self.data[:, :16] = np.repeat(np.arange(COUNT, dtype=np.float32), 4).reshape(COUNT, 4).view(np.uint8)

    def weight(self, key: str) -> tuple[str, int, int]:
        number = int(key[1:])
        return f"weights/{number // 5}.bin", number % 5 * ALIGN, 16

    def shard(self, name: str) -> np.ndarray:
        first = 5 * int(name[-5])
        return self.data[first : first + 5].reshape(-1)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        self.asked.append(("fetch", name, start, nbytes))
        if self.broken and name == "weights/1.bin":
            raise BundleError("was cut.", where=name)

    def expect(self, name: str, start: int, nbytes: int) -> None:
        self.asked.append(("expect", name, start, nbytes))

    def drop(self, name: str, start: int, nbytes: int) -> None:
        self.asked.append(("drop", name, start, nbytes))


class Watching(NullDevice):
    """Keeps the first number of each kernel's weight as it is launched, and answers waits with what was launched."""

    def __init__(self, *, maps: bool = False) -> None:
        super().__init__(limits={"maps_weights": maps})
        self.seen: list[float] = []
        self.at: Any = None  # called before each launch

    def bind(self, program: str, buffers: Any, scalars: Any, where: str = "") -> Any:
        return buffers

    def launch(self, bound: Any, grid: Any, group: Any) -> Any:
        if self.at is not None:
            self.at(len(self.seen))
        self.seen.append(float(bound[1][:4].view(np.float32)[0]))
        self.log.append(f"launch {len(self.seen) - 1}")
        return len(self.seen) - 1

    def wait(self, launched: Any) -> None:
        self.log.append(f"wait {launched}")


def run(session: Session, n: int = 8, component: str = "net") -> None:
    session.run(component, {"x": np.ones(n, np.float32)}, width=n)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("weights", [1, 2, 3, 5, 0])
def test_each_kernel_reads_its_weight(maps: bool, weights: int) -> None:
    device, bundle = Watching(maps=maps), Shards(chain(8), chain(16), chain(8, "other"))
    session = Session(bundle, device)
    session.stream_weights(weights * ALIGN)
    for n, component in ((8, "net"), (16, "net"), (8, "other"), (8, "net")):
        device.seen.clear()
        run(session, n, component)
        assert device.seen == list(range(COUNT))
    assert session.streamed_bytes <= (weights or COUNT) * ALIGN
    copied = [line for line in device.log if line.startswith("fill")]
    assert not any(line.startswith("upload") for line in device.log) if not maps else not copied
    fetched, dropped = (
        {(name, at) for what, name, start, size in bundle.asked if what == kind for at in range(start, start + size)}
        for kind in ("fetch", "drop")
    )
    assert fetched == dropped, "what is fetched goes again"


def test_a_block_is_loaded_while_the_one_before_runs() -> None:
    """Of two weights: it waits for the one before that, and nothing else, and the dispatches before it are launched."""
    device, bundle = Watching(), Shards(chain())
    session = Session(bundle, device)
    session.stream_weights(4 * ALIGN)
    run(session)
    began = device.log.index("write 32")
    assert device.log[began + 1 : -1] == [
        "fill 0 528", "launch 0", "launch 1",
        "fill 1024 528", "launch 2", "launch 3",
        "wait 1", "fill 0 16", "fill 512 16", "launch 4", "launch 5",  # of two shards
        "wait 3", "fill 1024 528", "launch 6", "launch 7",
        "wait 5", "fill 0 16", "launch 8",
        "wait 8",
    ]  # fmt: skip
    assert f"alloc net width=8: window of weights {4 * ALIGN}" in device.log
    assert session.streamed_bytes == 4 * ALIGN


def test_long_pieces_are_copied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each where its weights are read, and no longer than what is left of the piece."""
    monkeypatch.setattr(streaming, "STEP", ALIGN)
    device, bundle = Watching(), Shards(chain())
    session = Session(bundle, device)
    session.stream_weights(4 * ALIGN)
    run(session)
    assert device.seen == list(range(COUNT))
    fills = [line for line in device.log if line.startswith("fill")]
    assert fills[:4] == ["fill 0 512", "fill 512 16", "fill 1024 512", "fill 1536 16"]
    assert not {one for one in bundle.asked if one[0] == "fetch"} ^ {
        ("fetch", *one[1:]) for one in bundle.asked if one[0] == "drop"
    }, "what was copied leaves memory"


def test_a_larger_window_takes_the_place_of_a_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plan reads in one that is given back; and two are never there at a time."""
    monkeypatch.setattr(blocks, "BLOCK", 2 * ALIGN)
    steps = [("affine", ("x", "w0", "w1", "w2"), "a", (1.0,)), ("affine", ("a", "w3", "w4", "w5"), "y", (1.0,))]
    device = Watching()
    session = Session(Shards(chain(), with_weights(make_plan(8, steps, "wide"))), device)
    session.stream_weights(0)
    alloc, others = device.alloc, list[Any]()

    def watched(nbytes: int, what: str) -> Any:
        if "window" in what:
            others.append(None if session._streaming is None else session._streaming._window)
        return alloc(nbytes, what)

    monkeypatch.setattr(device, "alloc", watched)
    for component, expected in (("net", list(range(COUNT))), ("wide", [0, 3]), ("net", list(range(COUNT)))):
        device.seen.clear()
        run(session, component=component)
        assert device.seen == expected
    assert [line.rpartition(" ")[2] for line in device.log if "window" in line] == [f"{4 * ALIGN}", f"{6 * ALIGN}"]
    session.release("net")
    assert session._streaming is not None and session._streaming.window_bytes == 0
    run(session)
    assert others == [None] * 3


def test_of_a_mapped_table_no_more_is_fetched_than_what_is_picked() -> None:
    """And all of it is dropped, whatever was touched."""
    plan = chain()
    rows = replace(plan.dispatches[2], reads=8)
    device, bundle = (
        Watching(maps=True),
        Shards(replace(plan, dispatches=(*plan.dispatches[:2], rows, *plan.dispatches[3:]))),
    )
    session = Session(bundle, device)
    session.stream_weights(2 * ALIGN)
    run(session)
    asked = [(what, at, size) for what, name, at, size in bundle.asked if name == "weights/0.bin"]
    table = range(2 * ALIGN, 2 * ALIGN + 16)
    met = [what for what, at, size in asked if at < table.stop and table.start < at + size]
    assert met == ["drop"]


def test_mapped_pages_are_fetched_before_and_dropped_after() -> None:
    device, bundle = Watching(maps=True), Shards(chain())
    session = Session(bundle, device)
    session.stream_weights(4 * ALIGN)
    seen: list[Any] = []
    device.at = lambda number: seen.extend([*bundle.asked, number]) or bundle.asked.clear()
    run(session)
    assert seen[:5] == [("fetch", "weights/0.bin", 0, 528), ("expect", "weights/0.bin", 1024, 528), 0, 1,
                        ("fetch", "weights/0.bin", 1024, 528)]  # fmt: skip
    assert ("drop", "weights/0.bin", 0, 528) in seen[seen.index(3) : seen.index(4)]
    assert bundle.asked[-1] == ("drop", "weights/1.bin", 3 * ALIGN, 16)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DeviceError("it is gone.")])
@pytest.mark.parametrize("maps", [False, True])
def test_after_an_interrupt_nothing_is_loaded_and_the_session_works(error: Any, maps: bool) -> None:
    device, bundle = Watching(maps=maps), Shards(chain())
    session = Session(bundle, device)
    session.stream_weights(2 * ALIGN)

    def stop(number: int) -> None:
        if number == 4:
            raise error

    device.at = stop
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        run(session)
    assert session._streaming is not None and session._streaming.live == 0
    device.at = None
    device.seen.clear()
    run(session)
    assert device.seen == list(range(COUNT)) and session._streaming.live == 0


@pytest.mark.parametrize("maps", [False, True])
def test_a_file_that_is_cut_meanwhile_ends_the_run(maps: bool) -> None:
    device, bundle = Watching(maps=maps), Shards(chain())
    session = Session(bundle, device)
    session.stream_weights(2 * ALIGN)
    bundle.broken = True
    with pytest.raises(BundleError, match=r"weights/1.bin: was cut\."):
        run(session)
    assert device.seen == [0, 1, 2, 3, 4] and device.log[-1] == "finish"
    bundle.broken = False
    device.seen.clear()
    run(session)
    assert device.seen == list(range(COUNT))


def test_changed_weights_stay_and_the_rest_is_streamed() -> None:
    class Changed:
        keys = ("w3", "w7")

        def values(self, key: str) -> np.ndarray:
            return np.full(4, 100 + int(key[1:]), np.float32)

    device, bundle = Watching(), Shards(chain())
    session = Session(bundle, device)
    session.stream_weights(2 * ALIGN)
    session.change_weights(Changed())
    run(session)
    assert device.seen == [0, 1, 2, 103, 4, 5, 6, 107, 8]
    assert ("drop", "weights/0.bin", 3 * ALIGN, 16) in bundle.asked, "nothing stays of what is changed"
    session.change_weights(None)
    device.seen.clear()
    run(session)
    assert device.seen == list(range(COUNT))


def test_streaming_begins_and_ends_between_runs() -> None:
    device, bundle = Watching(), Shards(chain())
    session = Session(bundle, device)
    for nbytes in (None, 2 * ALIGN, 0, None):
        session.stream_weights(nbytes)
        device.seen.clear()
        run(session)
        assert device.seen == list(range(COUNT))
    assert sum(line.startswith("upload") for line in device.log) == 4, "two shards, before and after"


def test_memory_that_a_device_has_not() -> None:
    device = Watching()
    device.limits["global_bytes"] = chain().arena + 2 * ALIGN
    session = Session(Shards(chain()), device)
    with pytest.raises(DeviceError, match="net width=8: it needs"):
        run(session)
    session.stream_weights(2 * ALIGN)
    run(session)
    session.stream_weights(100)
    with pytest.raises(PlanError, match=r"net: a dispatch reads 0\.0 MB of weights"):
        run(session)
