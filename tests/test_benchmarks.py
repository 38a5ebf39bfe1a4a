"""What benchmarks are built of: machine facts, comparisons of results, kernel cases, parts of a start-up.
No time is judged."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ondevice import cli
from ondevice.base import machine
from ondevice.lower.kernel_file import load_all
from ondevice.plan import plan
from ondevice.target import load_target

ROOT = Path(__file__).parents[1]
KERNELS = load_all()


def benchmark(name):
    """A module of benchmarks/, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rows_of, compare, plots = benchmark("rows"), benchmark("compare"), benchmark("plots")
kernel_cases, startup = benchmark("kernel_cases"), benchmark("startup")
MACHINE = {"cpu": "a", "cores": 1, "device": {"name": "d"}}


def row(name, ms, spread=0.0, machine=MACHINE, **more):
    return {"name": name, "median_ms": ms, "spread": spread, "machine": machine, **more}


def peer(name, ratio, low=None, high=None):
    return row(name, 1.0, ratio={"median": ratio, "low": low or ratio, "high": high or ratio})


@pytest.fixture
def both(tmp_path, capsys):
    """`both(old rows, new rows, *flags)`: exit code and what was printed."""

    def run(old, new, *flags):
        for name, rows in (("old", old), ("new", new)):
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = compare.main([str(tmp_path / "old"), str(tmp_path / "new"), *flags])
        return code, capsys.readouterr().out

    return run


def test_a_regression_fails(both):
    code, text = both([row("x", 100), row("y", 10)], [row("x", 110), row("y", 10)])
    assert code == 1 and "1.10" in text and text.count("SLOWER") == 1
    assert both([row("x", 100)], [row("x", 104)])[0] == 0
    assert both([row("x", 100)], [row("x", 104)], "--tolerance", "0.03")[0] == 1
    assert both([row("x", 100)], [row("x", 50)])[0] == 0


def test_spread_is_allowed_for_and_busy_rows_fail_nothing(both):
    assert both([row("x", 100, 0.08)], [row("x", 112, 0.08)])[0] == 0  # 5 % and half of both spreads
    assert both([row("x", 100, 0.08)], [row("x", 114, 0.08)])[0] == 1
    code, text = both([row("x", 100)], [row("x", 300, 0.11)])
    assert code == 0 and "does not count" in text


def test_of_peers_the_ratio_is_compared(both):
    assert both([peer("ncnn", 1.5)], [peer("ncnn", 1.2)])[0] == 1  # it takes less of our time than it did
    assert both([peer("ncnn", 1.5)], [peer("ncnn", 1.8)])[0] == 0
    assert both([peer("ncnn", 1.5, 1.45, 1.55)], [peer("ncnn", 1.4, 1.35, 1.45)])[0] == 0
    assert "does not count" in both([peer("ncnn", 1.5)], [peer("ncnn", 1.0, 0.5, 2)])[1]


def test_only_the_same_machine_is_compared(both):
    other = MACHINE | {"cpu": "b"}
    code, text = both([row("x", 1)], [row("x", 9, machine=other), row("new", 1)])
    assert (
        code == 0
        and "only in old: x (a, 1, d)" in text
        and "only in new: x (b, 1, d)" in text
        and "only in new: new" in text
    )


def test_the_last_of_a_name_counts_and_other_lines_are_refused(both, tmp_path, capsys):
    assert both([row("x", 1)], [row("x", 9), row("x", 1)])[0] == 0
    (tmp_path / "old").write_text('{"name": "x"}\n')
    assert compare.main([str(tmp_path / "old"), str(tmp_path / "old")]) == 2
    assert "line 1 is not a row of results (median_ms is no number from 1e-09 to 1e+12)" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "none"), str(tmp_path / "old")]) == 2


def changed(**values):
    """A line of a row with other values, or without those that are None."""
    changed_row = row("x", 1.0, ratio={"median": 1, "low": 1, "high": 1}) | values
    return json.dumps({name: value for name, value in changed_row.items() if value is not None})


DAMAGED = {
    "no JSON": ("{", "line 2 is not a row of results (JSONDecodeError:"),
    "a list": ("[]", "(it is a list, no object)"),
    "nested": ("[" * 99_999, "(RecursionError:"),
    "many digits": ('{"name": ' + "9" * 5000 + "}", "(ValueError: Exceeds the limit"),
    "no name": (changed(name=None), "(name is no printable text)"),
    "name of escapes": (changed(name="\x1b[2J"), "(name is no printable text)"),
    "half a pair": (changed(name="\ud800"), "(name is no printable text)"),
    "long name": (changed(name="x" * 5000), "(name is no printable text)"),
    "zero": (changed(median_ms=0), "(median_ms is no number"),
    "text": (changed(median_ms="1"), "(median_ms is no number"),
    "true": (changed(median_ms=True), "(median_ms is no number"),
    "NaN": (changed(median_ms=float("nan")), "(median_ms is no number"),
    "infinite": (changed(spread=float("inf")), "(spread is no number"),
    "past float": (changed(spread=10**400), "(spread is no number"),
    "negative": (changed(spread=-1), "(spread is no number"),
    "ratio of text": (changed(ratio="1"), "(ratio has no numbers median, low and high)"),
    "ratio of a number": (changed(ratio=1), "(ratio has no numbers median, low and high)"),
    "ratio of zero": (changed(ratio={"median": 0, "low": 1, "high": 1}), "(ratio has no numbers"),
    "ratio without low": (changed(ratio={"median": 1, "high": 1}), "(ratio has no numbers"),
    "no machine": (changed(machine=None), "(machine is no object)"),
    "no cpu": (changed(machine={"cores": 1}), "(machine has no printable cpu"),
    "device of text": (
        changed(machine=MACHINE | {"device": "d"}),
        "(machine has no printable cpu, or a device without a name)",
    ),
    "device without a name": (
        changed(machine=MACHINE | {"device": {}}),
        "(machine has no printable cpu, or a device without a name)",
    ),
    "no cores": (changed(machine=MACHINE | {"cores": "1"}), "(machine has no number of cores)"),
    "zero cores": (changed(machine=MACHINE | {"cores": 0}), "(machine has no number of cores)"),
    "commit of numbers": (changed(machine=MACHINE | {"commit": 3}), "(machine has a commit that is no printable text)"),
    "a peer without a name": (changed(kind="peers", component="unet", counts=True), "(peer is no printable text)"),
    "steps without rules": (changed(kind="ablation", component="unet", counts=True), "(rules is no printable text)"),
    "no component": (changed(kind="peers", peer="x", counts=True), "(component is no printable text)"),
    "counts of numbers": (changed(kind="peers", component="unet", peer="x", counts=1), "(counts is not true or false)"),
    "bytes": ("\ud8ff", "is no text (byte"),
}


@pytest.mark.parametrize("line, what", DAMAGED.values(), ids=DAMAGED)
def test_damaged_rows_are_one_line_of_error(line, what, tmp_path, capsys):
    good = tmp_path / "good"
    good.write_text(changed() + "\n")
    (tmp_path / "bad").write_bytes((changed() + "\n" + line + "\n").encode(errors="surrogatepass"))
    assert compare.main([str(good), str(good)]) == 0
    capsys.readouterr()
    for main in (lambda path: compare.main([str(good), path]), lambda path: plots.main([path])):
        assert main(str(tmp_path / "bad")) == 2
        out, err = capsys.readouterr()
        assert not out and what in err and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 510


def test_a_folder_a_pipe_and_too_much_are_no_rows(tmp_path, capsys, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_text(changed() + "\n")
    # other tests import the module anew, under its name
    monkeypatch.setitem(compare.read_rows.__globals__, "_MOST_BYTES", 9)
    for name in (".", "pipe", "good"):
        assert compare.main([str(tmp_path / name)] * 2) == 2
        assert "this is no file of rows" in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-1"])
def test_a_tolerance_is_a_part(both, tolerance):
    with pytest.raises(SystemExit, match="2"):
        both([row("x", 1)], [row("x", 1)], "--tolerance", tolerance)


def test_machine_facts():
    facts = json.loads(json.dumps(machine.facts([3, 4], {"name": "d", "driver": "1", "limit": 7})))
    assert (
        facts["cores"] == 2
        and facts["device"] == {"name": "d", "driver": "1"}
        and facts["memory_bytes"] > 1 << 28
        and facts["cpu"]
    )
    assert machine.same(facts) == (facts["cpu"], 2, "d") and machine.same({}) == ("None", 0, "")
    assert machine.facts()["cores"] == len(machine.available_cores()) > 0


@pytest.mark.parametrize("case", list(kernel_cases.cases(plain=True)), ids=lambda case: case.name)
def test_kernel_cases_are_ops_that_plans_run(case):
    for storage in ("f32", "f16"):
        program = case.lowered(storage, load_target("host"), KERNELS)
        dispatch_plan = plan(program, storage=storage)
        own = [d for d in dispatch_plan.dispatches if d.op != "Cast"]
        assert own and not program.fallbacks
        taken = {KERNELS[call.kernel].method for call in program.calls} - {"", "two_commands"}
        assert taken == ({case.method} if case.method else set())
        assert case.flops >= 0 and case.nbytes(4) == 2 * case.nbytes(2) > 0
        if case.op.startswith(("MatMul", "Conv", "Linear")) and case.method != "winograd":
            assert case.flops == pytest.approx(sum(d.flops for d in own), rel=0.05)
        assert case.method == "winograd" or case.nbytes(2 if storage == "f16" else 4) <= 1.001 * sum(
            d.reads + d.writes for d in own
        )


def test_kernel_cases_have_names_of_their_own():
    names = [case.name for case in kernel_cases.cases(plain=True)]
    assert len(set(names)) == len(names)
    assert {case.method for case in kernel_cases.cases()} == {"", "flash", "winograd"}
    assert {case.op for case in kernel_cases.cases()} >= {
        "Attention",
        "ConvNhwcBiasAdd",
        "LinearBiasGeglu",
        "GroupNormNhwcSilu",
    }


def test_drawings_are_the_same_from_the_same_rows(tmp_path):
    pytest.importorskip("matplotlib")
    rows = []
    for number, name in enumerate(("ours", "ncnn", "ours")):
        ratio = None if name == "ours" else {"median": 1.5, "low": 1.4, "high": 1.6}
        ran = {"kind": "peers", "component": "unet", "peer": name, "ratio": ratio, "counts": number > 0}
        rows.append(row(f"peers: unet {name}", 1000.0 + number, **ran))
    for rules, ms in (("plain graph", 30), ("Winograd", 20), ("all rules", 10)):
        rows.append(
            row(
                f"ablation: unet f16 for host, {rules}", ms, kind="ablation", component="unet", rules=rules, counts=True
            )
        )
    rows.append(row("ablation: other", 1, machine={"cpu": "b"}, kind="peers"))
    assert [row["peer"] for row in plots.latest(rows[:-1], "peers")] == ["ours", "ncnn"]
    assert plots.latest(rows[:-1], "peers")[0]["median_ms"] == 1002.0 and plots.latest(rows, "peers") == [rows[-1]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    for out in ("a", "b"):
        plots.main([str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / out)])
    for name in ("peers.svg", "ablation.svg"):
        drawn = (tmp_path / "a" / name).read_bytes()
        assert drawn.startswith(b"<?xml") and drawn == (tmp_path / "b" / name).read_bytes()


def test_start_up_is_all_before_the_first_step_and_what_launches_add_to_it():
    parts = [
        ("python", 0.25, 0.2),
        ("text_encoder: run", 0.5, 0.5),
        ("unet: programs and buffers", 1.0, 0.75),
        (startup.RUN, 6.0, 5.5),
    ]
    later = [
        ("sampler and noise", 9.0, 9.0),
        (startup.RUN, 5.5, 5.0),
        ("sampler and noise", 9.0, 9.0),
        (startup.RUN, 5.0, 5.0),
    ]
    found = startup.summary(parts + later, [5.75, 5.4, 4.9], (0.25, 0.25))
    assert found["begun"] == [1.75, 1.45] and found["first"] == (6.0, 5.5) and found["later"] == (5.0, 5.0)
    assert found["beyond"] == pytest.approx([2.0, 1.7]) and found["parts"] == parts[:3]
    assert found["overhead"] == pytest.approx(0.1) and found["overhead_share"] == pytest.approx(0.02)
    text = startup.to_text(found, 1000.0)
    assert (
        "reading 1,000 MB of weights             0.250" in text
        and "launches add 100 ms to a later step, 2.00% of it" in text
    )
    assert "start-up beyond reading the weights     2.000    1.700  (aimed at: at most 2)" in text


@pytest.mark.device
def test_start_up_of_generate_has_all_its_parts(tmp_path):
    bundle = tmp_path / "demo.ondevice"
    assert cli.main(["convert", "demo", "--out", str(bundle)]) == 0
    words = [
        sys.executable,
        "-m",
        "benchmarks.startup",
        str(bundle),
        "--guidance",
        "4",
        "--steps",
        "2",
        "--json",
        "--cold",
    ]
    found = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout)
    before = ["python", "imports", "bundle", "device", "plans", "tokenizer"]
    quiet = "sampler and noise"
    twice = [  # for the prompt and for what is not wanted
        part
        for name in ("text_encoder", "keys_values")
        for part in (quiet, f"{name}: programs and buffers", f"{name}: run", quiet, f"{name}: run")
    ]
    assert [part for part, *_ in found["parts"]] == [*before, *twice, quiet, "unet: programs and buffers"]
    assert all(wall >= 0 and cpu >= 0 for _, wall, cpu in found["parts"])
    assert (
        found["begun"][0] == pytest.approx(sum(wall for _, wall, _ in found["parts"]))
        and 0 < found["overhead_share"] < 1
    )
    assert 0 < found["beyond"][0] - found["begun"][0] < found["first"][0]


def test_each_break_stands_once_in_its_file_and_has_tests():
    for area, rows in benchmark("breaks").listed().items():
        assert rows and all(tests and all((ROOT / test).exists() for test in tests) for _, tests in rows), area
