"""The harness finds what it must: guidance goes through nested checks, every kind of fault is caught,
in this process or another."""

import json
import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.bad_readers import QUIET, READERS

from benchmarks.fuzz import coverage, supervise
from benchmarks.fuzz.__main__ import main, table
from benchmarks.fuzz.engine import Campaign
from benchmarks.fuzz.minimise import smaller
from benchmarks.fuzz.mutate.data import havoc, pack, unpack
from benchmarks.fuzz.oracle import Judge
from benchmarks.fuzz.reader import Reader, Words

ROOT = Path(__file__).parents[2]
BAD = {reader.name: reader for reader in READERS}
NESTED = '''
def read(data, folder):
    """Five bytes must be right, one after the other."""
    if len(data) > 6 and data[0] == 19:
        if data[1] == 55 and data[2] > 200:
            for at in range(3, 5):
                if data[at] != 77 * at & 255:
                    return
            raise ZeroDivisionError
'''


@pytest.fixture
def judge(tmp_path):
    with Judge(tmp_path, seconds=0.3) as opened:
        yield opened


def nested(judge, seed, *, guided):
    """After how many inputs the fault behind five checks is found; None after 300,000."""
    space = {}
    exec(coverage.instrumented(NESTED, "toy", "toy.py"), space)
    campaign = Campaign(
        Reader("toy", lambda: [bytes(8)], havoc, space["read"]), judge, random.Random(seed), guided=guided
    )
    campaign.begin()
    for count in range(300_000 if guided else 20_000):
        if campaign.give(campaign.next()).kind:
            return count
    return None


def test_guidance_goes_through_nested_checks(judge):
    assert nested(judge, 1, guided=True)
    assert nested(judge, 1, guided=False) is None, "by chance alone it is one input in 10^11"


def test_a_seed_gives_the_same_inputs_again(judge):
    space = {}
    exec(coverage.instrumented(NESTED, "toy", "toy.py"), space)
    runs = []
    for _ in range(2):
        campaign = Campaign(Reader("toy", lambda: [bytes(8)], havoc, space["read"]), judge, random.Random("0/0 toy"))
        campaign.begin()
        runs.append([campaign.next() for _ in range(300) if campaign.give(campaign.next())])
    assert runs[0] == runs[1] and len(set(runs[0])) > 100


BRANCHES = """
def f(x, y):
    a = x and y
    b = 1 if x else 2
    g = lambda z: z or x
    for i in range(y):
        a = i
    try:
        return g(a) + b / x
    except ZeroDivisionError:
        return None
    finally:
        y = 0
def g(x):
    'kept'
    match x:
        case {"a": int(n)}:
            return "large" if n > 3 else "small"
        case [_, *rest]:
            return [y for y in rest if y]
    while x:
        x -= 1
    return f"{x}"
"""


def test_counters_change_nothing_but_the_counters():
    plain, counted = {}, {}
    exec(BRANCHES, plain)
    exec(coverage.instrumented(BRANCHES, "branches", "b.py"), counted)
    for arguments in ((0, 0), (1, 0), (2, 5)):
        assert counted["f"](*arguments) == plain["f"](*arguments)
    seen = set()
    for value in ({"a": 4}, {"a": 1}, [1, 0, 2], [1], 3, 40):
        coverage.MAP.clear()
        assert counted["g"](value) == plain["g"](value)
        seen.add(coverage.MAP.snapshot())
    assert counted["g"].__doc__ == "kept" and len(seen) == 6, (
        "each took another path; 3 and 40 turns of a loop differ, too"
    )


KINDS = dict.fromkeys(("wrong_exception",), "KeyError") | {
    "long_message": "long message",
    "unprintable": "unprintable message",
    "no_place": "no place",
    "slow": "slow",
    "warns": "warning",
    "logs": "log",
    "breaks": "broken",
}


@pytest.mark.parametrize("act", QUIET, ids=lambda act: act.__name__)
def test_faults_are_told_apart(judge, act):
    # pytest's own handler would put half of a surrogate pair into the report, which cannot be sent on
    log = logging.getLogger()
    log.handlers[:] = [handler for handler in log.handlers if type(handler).__module__.startswith("benchmarks.")]
    reader = BAD[act.__name__]
    assert judge.judge(reader, b"?").outcome == "refused"
    verdict = judge.judge(reader, b"!")
    assert (verdict.outcome, verdict.kind) == ("finding", KINDS[reader.name])
    assert "bad_readers.py" in verdict.place


def test_a_worker_that_dies_hangs_or_takes_too_much_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert bytes(bytearray(200 << 20)), "what this process once held must not hide what a worker takes"
    names = ("memory", "too_much_memory", "dies")
    totals, findings = supervise.run(supervise.Order(names, inputs=60, modules=("fuzz.bad_readers",)))
    assert {(finding.reader, finding.kind, finding.data) for finding in findings} == {
        ("memory", "memory", b"!"),
        ("dies", "death by SIGSEGV", b"!"),
        ("too_much_memory", "MemoryError", b"!"),
    }
    assert totals["dies"].findings == 1
    assert [*tmp_path.iterdir()] == []
    _, found = supervise.run(supervise.Order(("hangs",), inputs=60, modules=("fuzz.bad_readers",)), hang=1)
    assert [(finding.kind, finding.data) for finding in found] == [("hang", b"b!c")]
    assert "memory" in "\n".join(table(totals)) and table(totals, markdown=True)[1].startswith("|---|")


def test_a_finding_is_written_and_shown_again(tmp_path, capsys):
    words = ["--module", "fuzz.bad_readers", "--reader", "wrong_exception"]
    assert main([*words, "--inputs", "300", "--workers", "1", "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "wrong_exception: KeyError at tests/fuzz/bad_readers.py:wrong_exception" in printed
    (path,) = (tmp_path / "out").glob("*.bin")
    assert path.read_bytes() == b"!" and "--replay" in path.with_suffix(".txt").read_text()
    command = [sys.executable, "-m", "benchmarks.fuzz", *words, "--replay", str(path)]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "finding, KeyError" in again.stdout


def has_a_three(data):
    try:
        return json.loads(data)["a"][-1]["b"][-1] == 3
    except (ValueError, TypeError, LookupError):
        return False


def test_small_inputs_show_the_same():
    assert smaller(bytes(999) + b"x" + bytes(99), lambda data: b"x" in data) == b"x"
    value = json.dumps({"a": [1, {"b": [2, 3]}], "c": "d" * 99}).encode()
    assert json.loads(smaller(value, has_a_three)) == {"a": [{"b": [3]}]}
    assert smaller(b"abc", lambda _: False) == b"abc"


def test_several_files_are_one_input():
    files = {"a.json": b"{}", "b/c": b"\n\0x", "empty": b""}
    assert unpack(pack(files)) == files
    assert unpack(b"nothing") == {} and unpack(b'[["a", 9]]\nxy') == {"a": b"xy"}
    rng = random.Random(0)
    for _ in range(2000):
        havoc(b"", rng, b"", Words())
