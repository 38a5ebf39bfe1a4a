"""The driver with workers that run nothing: who runs when, what is counted, what is left out and why,
what is kept for the next time."""

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from ondevice.converters.source import Source
from ondevice.errors import PeerError, UsageError
from ondevice.measure.peers import figures
from ondevice.measure.peers.driver import WARMUP, Comparison
from ondevice.measure.peers.peer import Peer, Task, stamp

FAKE = Path(__file__).with_name("fake_worker.py")
TASK = Task(Source("demo"), "text_encoder", {"batch": 1})
A, B, C = (Peer(name, f"the peer {name}", "onnxruntime_cpu", name) for name in "abc")
WARM = [9.0] * WARMUP


class Bench:
    """A work folder with fake workers."""

    def __init__(self, work):
        self.work = work

    def script(self, **peers):
        (self.work / "script.json").write_text(
            json.dumps({name: {"stamp": stamp(A)} | what for name, what in peers.items()})
        )

    def run(self, *peers, rounds=3, cores=(0,), strict=False, apart=False):
        self.comparison = Comparison(TASK, self.work, cores, strict=strict, apart=apart, words=self.words, pause_s=0.0)
        return self.comparison.run(peers, rounds)

    def words(self, verb, peer, folder, cores):
        return [sys.executable, str(FAKE), verb, peer.name, str(folder), ",".join(map(str, cores))]

    def log(self):
        return (self.work / "log.txt").read_text().splitlines()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_ratios_are_of_rounds_and_warm_up_does_not_count(bench):
    # One more run of the first peer before each pair: its caches were another's.
    bench.script(a={"seconds": [*WARM, 9.0, 1.0, 2.0, 4.0]}, b={"seconds": [*WARM, 3.0, 4.0, 4.0], "peak": 7})
    first, second = bench.run(A, B)
    assert [turn.seconds for turn in first.turns] == [1.0, 2.0, 4.0] and [turn.seconds for turn in second.turns] == [
        3.0,
        4.0,
        4.0,
    ]
    assert second.ratios == second.cpu_ratios == [3.0, 2.0, 1.0] and not first.ratios
    assert figures.ratio_of(second.ratios) == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert (second.peak, second.load_s, second.cpu_s()) == (7, 1.5, 2.0)


def test_what_one_does_once_per_text_is_said(bench):
    bench.script(a={"seconds": WARM * 9, "once": 0.25}, b={"seconds": WARM * 9})
    found = bench.run(A, B)
    assert [one.once_s for one in found] == [one.row(TASK, "a")["once_s"] for one in found] == [0.25, 0.0]
    text = figures.to_text(TASK, [0], found, {})
    assert text.count("once per text") == 1
    assert "a takes 250.0 ms more once per text, for what depends on the text alone" in text.splitlines()


def test_drift_that_both_feel_is_in_no_ratio(bench):
    drift = [1.0, 1.3, 1.7, 2.2]
    bench.script(a={"seconds": [*WARM, 9.0, *drift]}, b={"seconds": [*WARM, *[2 * x for x in drift]]})
    first, second = bench.run(A, B, rounds=4)
    assert second.ratios == [2.0] * 4 and not first.timing(TASK).counts


def test_turns_alternate_and_one_pair_is_loaded_at_a_time(bench):
    bench.script(**{name: {"seconds": WARM * 20} for name in "abc"})
    bench.run(A, B, C, cores=(0, 1))
    log = [line for line in bench.log() if "pid" not in line]
    pair = "a run\n{0} run\n{0} run\na run\na run\n{0} run\n{0} memory\n{0} save"
    expected = ["a run"] * WARMUP
    for name in "bc":
        expected += [f"{name} run"] * WARMUP + ["a run", *pair.format(name).split("\n")]
    assert log == [*expected, "a memory", "a save"]
    assert [line for line in bench.log() if "cores=0,1 threads=2" in line] == [
        line for line in bench.log() if "pid" in line
    ]


def test_apart_one_is_loaded_at_a_time_and_the_first_before_and_after(bench):
    bench.script(a={"seconds": [*WARM, 2.0, 4.0]}, b={"seconds": [*WARM, 3.0, 6.0, 9.0]})
    first, second = bench.run(A, B, apart=True)
    assert second.ratios == [1.0, 2.0, 3.0] and len(first.turns) == 4
    log = [line.split()[0] for line in bench.log() if "pid=" in line or "save" in line]
    assert log == [
        "a",
        "b",
        "a",
        "a",
        "b",
        "b",
        "a",
        "a",
    ]  # conversions first; then each starts and saves its output before the next


def test_no_worker_outlives_the_driver(bench):
    bench.script(a={"seconds": WARM * 9}, b={"seconds": WARM, "fails": "run"}, c={"seconds": WARM})
    with pytest.raises(PeerError):
        bench.run(A, B, strict=True)
    for line in bench.log():
        if "pid=" in line:
            with pytest.raises(ProcessLookupError):
                os.kill(int(line.split("pid=")[1].split()[0]), 0)


def running(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_hears_nothing_is_ended_with_what_it_started(bench):
    bench.script(a={"seconds": WARM * 9}, b={"seconds": WARM, "fails": "hang"})
    started = time.monotonic()
    bench.run(A, B)
    assert "hang" in bench.comparison.skipped["b"] and time.monotonic() - started < 30
    (helper,) = (int(line.split("pid=")[1]) for line in bench.log() if "helper" in line)
    deadline = time.monotonic() + 10
    while running(helper) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(helper)


@pytest.mark.parametrize(
    "fails, why",
    [
        ("convert", "it has no such layer"),
        ("load", "its process ended with exit code 3: a library is missing"),
        ("run", "its process was ended by signal 9 (out of memory?)"),
        ("words", "it answered 'Segmentation fault, but politely'"),
    ],
)
def test_who_fails_is_left_out_with_the_reason(bench, fails, why):
    bench.script(a={"seconds": WARM * 9}, b={"seconds": WARM, "fails": fails}, c={"seconds": WARM * 9})
    found = bench.run(A, B, C)
    assert [one.peer.name for one in found] == ["a", "c"] and bench.comparison.skipped == {"b": why}
    assert f"b is left out: {why}" in figures.to_text(TASK, [0], found, bench.comparison.skipped)
    with pytest.raises(PeerError, match="b: "):
        bench.run(A, B, C, strict=True)


def test_the_first_peer_is_needed(bench):
    bench.script(a={"seconds": WARM, "fails": "load"}, b={"seconds": WARM * 9})
    with pytest.raises(PeerError, match="a: its process ended with exit code 3"):
        bench.run(A, B)


def test_alone_it_is_timed_all_the_same(bench):
    bench.script(a={"seconds": [*WARM, 1.0, 2.0, 3.0]})
    (only,) = bench.run(A)
    assert [turn.seconds for turn in only.turns] == [1.0, 2.0, 3.0]


def test_a_package_that_is_not_there(bench):
    bench.script(a={"seconds": WARM * 9})
    lacks = Peer("b", "", "onnxruntime_cpu", "b", packages=("no_such_runtime",))
    bench.run(A, lacks)
    assert bench.comparison.skipped == {"b": "it needs no_such_runtime, which is not installed."}
    with pytest.raises(
        PeerError, match=r'b: it needs no_such_runtime, which is not installed. Fix: run pip install "ondevice'
    ):
        bench.run(A, lacks, strict=True)


def test_conversions_are_kept_until_what_they_depend_on_changes(bench):
    bench.script(a={"seconds": WARM * 9})
    bench.run(A)
    bench.run(A)
    converts = [line for line in bench.log() if " convert " in line]
    assert len(converts) == 1
    (bench.comparison.folder / "a" / "stamp.json").write_text('{"sources": "older"}')
    bench.run(A)
    assert len([line for line in bench.log() if " convert " in line]) == 2


def test_what_was_converted_runs_without_what_converted_it(bench):
    bench.script(a={"seconds": WARM * 9})
    peer = Peer("a", "", "onnxruntime_cpu", "a", to_convert=("no_such_converter",))
    with pytest.raises(PeerError, match="a: it needs no_such_converter, which is not installed"):
        bench.run(peer)
    bench.run(A)
    (inputs,) = bench.work.glob("*/inputs.npz")
    before = inputs.stat().st_mtime_ns
    bench.run(peer)
    assert len([line for line in bench.log() if " convert " in line]) == 1 and inputs.stat().st_mtime_ns == before


def test_differences_are_to_onnxruntime_where_it_takes_part(bench):
    outputs = {"a": [1, 2], "onnxruntime": [1, 4]}
    bench.script(**{name: {"seconds": WARM * 9, "output": output} for name, output in outputs.items()})
    found = bench.run(A, Peer("onnxruntime", "", "onnxruntime_cpu", "onnxruntime"))
    assert [(one.difference.to, one.difference.max_abs) for one in found] == [
        ("onnxruntime", 2.0),
        ("onnxruntime", 0.0),
    ]


def test_a_work_folder_that_cannot_be_written(bench, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--work: .* cannot be written: Not a directory"):
        Comparison(TASK, tmp_path / "file", [0], words=bench.words).run([A], 3)


def test_outputs_are_compared_and_rows_are_plain_data(bench):
    outputs = {"a": [1, -2], "b": [1, -2.5], "c": [1, math.nan]}
    bench.script(**{name: {"seconds": WARM * 9, "output": output} for name, output in outputs.items()})
    found = bench.run(A, B, C)
    rows = [json.loads(json.dumps(one.row(TASK, "a"), allow_nan=False)) for one in found]
    assert [row["difference"]["max_abs"] for row in rows] == [0.0, 0.5, None] and rows[1]["difference"][
        "rms"
    ] == pytest.approx(0.125**0.5)
    assert rows[1]["difference"]["to"] == "a" and rows[1]["ratio"] == {
        "to": "a",
        "median": 1.0,
        "low": 1.0,
        "high": 1.0,
    }
    assert rows[0]["name"] == "peers: demo text_encoder batch=1 a" and rows[0]["ratio"] is None and rows[0]["counts"]
    text = figures.to_text(TASK, [0], found, {})
    assert "differences to a, whose largest value is 2.00" in text and "inf" in text
