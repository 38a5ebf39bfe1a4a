"""A whole tuning run: on a made-up device, whose times follow from the defines, and a small one on a real device."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from lower.test_images import PHONE
from lower.test_images import TEXT as ROWS_OF_16
from lower.test_lower import graph
from null_device import NullDevice
from tiny_model import TINY

from ondevice import cli
from ondevice import tune as verb
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Job, Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import KernelBuildError
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.measure.tuner import cases as cases_module
from ondevice.measure.tuner.cases import Case, cases_of, key_of
from ondevice.measure.tuner.runner import CaseRunner, same
from ondevice.measure.tuner.tune import LEAST, tune
from ondevice.target import load_target, tuning
from ondevice.target.tuning import read_tuning

KERNELS = load_all()
RECIPE = Recipe(target=replace(load_target("host"), tuning=()))
FACTS = {"kind": "cpu", "platform": "Made(R) up", "vector_floats": 16, "max_work_group": 64, "driver": "1"}


@dataclass(slots=True)
class Clockwork(NullDevice):
    """Kernels take the time that `cost(entry, defines)` says.
    One for which it is negative writes nonsense, None does not build."""

    cost: object = None
    defines: dict = field(default_factory=dict)

    def build(self, source, entry, where):
        defines = {
            name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)$", source.partition("#line")[0], re.M)
        }
        if self.cost(entry, defines) is None:
            raise KernelBuildError("no.", where=where)
        return entry, defines

    def bind(self, program, buffers, scalars, where=""):
        return (*program, buffers[-1])

    def launch(self, bound, grid, group):
        entry, defines, out = bound
        assert np.prod(group) <= self.limits["max_work_group"]
        seconds = self.cost(entry, defines)
        out[:] = 0x3C if seconds >= 0 else 0x11
        self.log.append(f"{entry} {defines}")
        return abs(seconds)


@pytest.fixture(scope="module")
def tiny():
    return build(random_checkpoint_from_configs(**TINY, seed=1))


def unet(tiny, *kernels, batches=(1, 2), storage="f16"):
    todo = [(Job("unet", {"batch": batch, "height": 8, "width": 8}), storage) for batch in batches]
    return cases_of(tiny, todo, KERNELS, RECIPE, only=kernels)


def ran(cases, cost, budget=1e9, **options):
    device = Clockwork(limits=dict(FACTS), cost=cost)
    said = []
    return list(tune(cases, CaseRunner(device, KERNELS), budget, said.append, **options)), device, said


# Cases ----------------------------------------------------------------------------------------------------------------


def test_cases_are_the_distinct_calls_of_plans_the_costliest_first(tiny):
    cases = unet(tiny)
    assert len({case.key for case in cases}) == len(cases) and [c.weight for c in cases] == sorted(
        (c.weight for c in cases), reverse=True
    )
    assert {"matmul", "conv2d_nhwc", "layer_norm"} <= {case.kernel.name for case in cases}
    assert {c.kernel.name for c in unet(tiny, "matmul")} == {"matmul"}
    runs = {case.at["n"]: case.runs for case in unet(tiny, "conv2d_nhwc") if case.at["oc"] == 6 and case.at["ic"] == 4}
    assert runs == {1: 1, 2: cases_module.STEPS}, "guidance runs the larger batch at each step"
    place = {"batch": 1, "height": 4, "width": 4}
    for component, runs in (("vae_decoder", 1), ("vae_encoder", 0.1)):  # few pictures begin from another one
        assert min(case.runs for case in cases_of(tiny, [(Job(component, place), "f16")], KERNELS, RECIPE)) == runs


def test_every_node_lowered_alone_gives_the_call_of_the_plan(tiny):
    """Parts of wider rows, two left sides, epilogues:
    else the tuner would measure something that no plan dispatches."""
    for case in unet(tiny):
        compiled = case.make(case.default(), KERNELS)
        assert compiled is not None, str(case)
        assert key_of(case.kernel, dict(compiled.call.defines), compiled.call.scalars) == case.key


def test_other_tunables_change_what_follows_from_them(tiny):
    case = next(c for c in unet(tiny, "matmul") if c.at["n"] == 12)
    wide, narrow = (case.make(case.default() | {"V": lanes, "NV": 1}, KERNELS) for lanes in (16, 4))
    assert (
        dict(wide.call.defines)["V"] == 16
        and dict(narrow.call.defines)["V"] == 4
        and wide.call.grid != narrow.call.grid
    )
    (stored,) = {name for name in narrow.call.inputs if "columns per panel" in name and "bias" not in name}
    assert narrow.tensors[stored].shape[-1] == 4 and narrow.weights[stored].numpy().any()


def test_no_weight_is_read(tiny, monkeypatch):
    monkeypatch.setattr("ondevice.converters.random_weights._values", lambda *_: pytest.fail("a weight was read"))
    for case in unet(build(random_checkpoint_from_configs(**TINY, seed=2)), "matmul", "layer_norm")[:4]:
        compiled = case.make(case.default(), KERNELS)
        assert all(values.numpy().size for values in compiled.weights.values())


# Runs -----------------------------------------------------------------------------------------------------------------


def cost(entry, defines):
    return 0.001 * (
        1 + abs(defines.get("MR", 8) - 8) / 10 + abs(defines.get("V", 8) - 8) / 20 + (defines.get("X", 1) > 1)
    )


def test_it_finds_what_the_clock_says_and_stores_a_weight_in_one_way(tiny):
    rows, _, _ = ran(unet(tiny, "matmul"), cost)
    assert rows and all((row.choice["V"], row.choice["MR"], row.choice["X"]) == (8, 8, 1) for row in rows)
    assert all(row.us < row.was_us for row in rows)
    assert len({tuple(sorted(row.weight_at.items())) for row in rows}) < len(rows)


@pytest.mark.parametrize(
    "one, two, lanes, said",
    [
        (0.9, 1.2, 16, False),  # what is searched, batch 2, does not gain
        (5.0, 0.9, 16, True),  # it gains less than batch 1 loses
        (1.2, 0.9, 8, False),
    ],
)
def test_a_layout_is_chosen_for_all_calls_of_a_weight_or_for_none(tiny, one, two, lanes, said):
    """V = 8 instead of 16 changes the time of a launch at batch 1 and at batch 2,
    which runs twenty times as often, so much."""
    cases = [case for case in unet(tiny, "conv2d_nhwc") if case.at["ic"] == case.at["oc"] == 6]
    assert sorted((case.at["n"], case.runs) for case in cases) == [(1, 1), (1, 4), (2, 20), (2, 80)]

    class Sized(Clockwork):
        def bind(self, program, buffers, scalars, where=""):
            return (program[0], program[1] | {"n": scalars[0]}, buffers[-1])

    def uneven(entry, defines):
        return 0.001 * (
            {1: one, 2: two}[defines["n"]] if "n" in defines and defines["V"] == 8 else 1 if defines["V"] == 16 else 6
        )

    lines = []
    rows = list(tune(cases, CaseRunner(Sized(limits=dict(FACTS), cost=uneven), KERNELS), 1e9, lines.append))
    assert [row.choice["V"] for row in rows] == [lanes] * 4
    assert [row.us for row in rows] == [
        pytest.approx(1000 * (1 if lanes == 16 else {1: one, 2: two}[row.at["n"]])) for row in rows
    ]
    assert (
        any("its weight stored otherwise does not pay at all sizes; left at its defaults" in line for line in lines)
        is said
    )


def test_what_plans_read_as_images_is_measured_so(tmp_path):
    (tmp_path / "rows_of_16.cl").write_text(ROWS_OF_16)
    kernel = KernelFile.read(tmp_path / "rows_of_16.cl")
    node = graph("(float[8,16] x) => (float[8,16] y) { y = Sigmoid(x) }").graph[0]
    device = Clockwork(limits=dict(FACTS), cost=lambda entry, d: 0.001)
    case = Case(kernel, {"n": 128}, "net", "f32", node, PHONE)
    assert CaseRunner(device, KERNELS | {"rows_of_16": kernel}).ready(case, {"X": 64})
    (made,) = (line for line in device.log if line.startswith("image"))
    assert made.startswith("image rows_of_16 n=128: ") and made.endswith(" f32 8x4")


def test_wrong_results_are_refused_however_fast(tiny):
    rows, _, said = ran(unet(tiny, "layer_norm"), lambda entry, d: -0.0001 if d["V"] == 4 else 0.001)
    assert rows and all(row.choice["V"] == 16 for row in rows)
    assert any("refused for a wrong result: {'V': 4" in line for line in said)


def test_what_does_not_build_and_groups_that_are_too_large_are_left_out(tiny):
    rows, _, _ = ran(unet(tiny, "matmul"), lambda entry, d: None if d["V"] == 4 else 0.001 / (d["X"] * d["Y"]))
    assert rows and all(
        row.choice["V"] != 4 and 1 < row.choice["X"] * row.choice["Y"] <= FACTS["max_work_group"] for row in rows
    )


@pytest.mark.parametrize("limit, most", [(64, 64), (1024, 256), (None, 256), (0, 256)])
def test_a_group_has_at_most_what_kernels_may_count_on(limit, most):
    assert CaseRunner(Clockwork(limits={"max_work_group": limit}), KERNELS).largest == most


def test_equal_times_change_nothing(tiny):
    rows, _, _ = ran(unet(tiny, "matmul", "layer_norm"), lambda entry, defines: 0.001)
    assert rows and all(row.choice == row.kernel.tuning() and row.us == row.was_us for row in rows)


@pytest.mark.parametrize("after, stays", [(0.5, True), (0.97, True), (0.99, False)])
def test_what_only_luck_made_the_winner_goes_back(tiny, monkeypatch, after, stays):
    """Both are measured once more, and then 2 % is asked for again."""
    monkeypatch.setattr("ondevice.measure.tuner.tune.leasts", lambda first, second: (1.0, after))
    rows, _, _ = ran(unet(tiny, "layer_norm"), cost)
    assert {row.choice["V"] for row in rows} == {8 if stays else 16}
    assert {(row.us, row.was_us) for row in rows} == {((after if stays else 1.0) * 1e6, 1e6)}


def test_the_budget_ends_it_between_cases(tiny):
    cases = unet(tiny, "layer_norm", "conv2d_nhwc")
    ticks = iter(range(10_000_000))
    few, _, said = ran(cases, cost, budget=100, clock=lambda: next(ticks))
    ticks = iter(range(10_000_000))
    many, _, _ = ran(cases, cost, budget=1e9, clock=lambda: next(ticks))
    assert 0 < len(few) < len(many) and re.search(
        r"\d+ units, .*% of a picture's time, are left at their kernels' defaults", said[-1]
    )
    total = sum(case.weight for case in cases)
    assert len(many) >= sum(case.weight >= LEAST * total for case in cases)


def test_what_takes_no_time_of_a_picture_is_not_measured(tiny):
    cases = unet(tiny, "layer_norm")
    small = [replace(case, guess=1e-3 if number == 0 else 1e-9) for number, case in enumerate(cases)]
    rows, _, said = ran(small, cost)
    assert len(rows) == 1 < len(cases) and said[-1].startswith(
        f"{len(cases) - 1} units, 0.0% of a picture's time, are left at"
    )


def test_results_may_differ_by_rounding_only(tiny):
    case = next(c for c in unet(tiny, "matmul", storage="f32") if c.storage == "f32")
    compiled = case.make(case.default(), KERNELS)
    want = np.linspace(-1, 1, 100, dtype=np.float32)
    assert same(compiled, [want], [want.copy()]) and same(compiled, [want], [want * (1 + 2e-7)])
    assert not same(compiled, [want], [want + 1e-3]) and not same(
        compiled, [want], [np.where(want > 0.9, np.nan, want).astype(np.float32)]
    )
    holes = np.where(want > 0.5, np.nan, want).astype(np.float32)
    assert same(compiled, [holes], [holes * np.float32(1 + 1e-7)]), "what neither writes is the same"
    assert not same(compiled, [holes], [want])


# The verb -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch):
    device = Clockwork(limits=dict(FACTS), cost=cost)
    monkeypatch.setattr(verb, "choose_device", lambda spec: device)
    return device


DEMO = ["tune", "demo", "--random-weights", "0", "--size", "64x64", "--kernel", "layer_norm_rows"]


def test_it_writes_the_packages_file_for_such_devices_and_adds_to_it(made_up, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verb, "TUNING", tmp_path)
    assert cli.main([*DEMO, "--dtype", "fp16"]) == 0
    path = tmp_path / "made-up-cpu-16.toml"
    assert capsys.readouterr().out.strip() == str(path)
    half = read_tuning(path)
    assert (
        half.match == {"kind": "cpu", "platform": "Made(R) up", "vector_floats": 16}
        and half.kernels["layer_norm_rows"].default["V"] == 8
    )
    assert cli.main([*DEMO, "--dtype", "fp32"]) == 0
    assert len(read_tuning(path).kernels["layer_norm_rows"].shapes) > len(half.kernels["layer_norm_rows"].shapes)


def test_ctrl_c_keeps_what_was_measured(made_up, tmp_path, monkeypatch, capsys):
    rows = verb.tune

    def interrupted(*args):
        for count, row in enumerate(rows(*args)):
            yield row
            if count == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(verb, "tune", interrupted)
    assert cli.main([*DEMO, "--dtype", "fp16", "--out", str(tmp_path / "mine.toml")]) == cli.INTERRUPTED
    assert len(read_tuning(tmp_path / "mine.toml").kernels["layer_norm_rows"].shapes) == 2
    assert "2 shapes in" in capsys.readouterr().err


def test_a_bundle_is_tuned_at_what_it_dispatches(made_up, tmp_path, capsys):
    bundle = str(tmp_path / "demo.ondevice")
    assert cli.main(["convert", "demo", "--size", "64x64", "--target", "host", "--out", bundle]) == 0
    assert cli.main(["tune", bundle, "--kernel", "layer_norm_rows", "--out", str(tmp_path / "a.toml")]) == 0
    said = capsys.readouterr().err
    dispatched = set()
    for entry in (opened := open_bundle(bundle)).manifest.plans:
        dispatched |= {
            key
            for key in verb._keys(opened.plan(entry.component, **entry.sizes), KERNELS)
            if key[0] == "layer_norm_rows"
        }
    assert f"{len(dispatched)} shapes of 1 kernels" in said
    rows = read_tuning(tmp_path / "a.toml").kernels["layer_norm_rows"].shapes
    assert rows and {("layer_norm_rows", frozenset(row.at.items())) for row in rows} <= dispatched
    assert (
        cli.main(
            ["convert", "demo", "--size", "64x64", "--tuning", str(tmp_path / "a.toml"), "--out", str(tmp_path / "c")]
        )
        == 0
    )
    plan = open_bundle(tmp_path / "c").plan("unet", batch=2, height=8, width=8)
    assert {dict(kernel.defines)["V"] for kernel in plan.kernels if kernel.file == "layer_norm_rows"} == {8}


@pytest.mark.sweep
def test_int8_weights_are_tuned_as_int8_into_a_file_of_their_own(made_up, tmp_path, capsys):
    bundle, out = str(tmp_path / "demo.ondevice"), str(tmp_path / "a.toml")
    model = ["demo", "--size", "64x64", "--dtype", "fp16", "--target", "host", "--weights", "int8"]
    assert cli.main(["convert", *model, "--out", bundle]) == 0
    for words in (["tune", *model], ["tune", bundle]):
        assert cli.main(words) == 2
        assert "--out: rows do not say how weights are stored" in capsys.readouterr().err
        made_up.log.clear()
        assert cli.main([*words, "--kernel", "matmul", "--out", out]) == 0
        ways = Counter("'W8': 1" in line for line in made_up.log if line.startswith("matmul"))
        assert ways[True] > ways[False] > 0, "the smallest stay as they are"
    assert cli.main(["tune", bundle, "--weights", "int8", "--out", out]) == 2


MISTAKES = {
    "kernel": (["--kernel", "warp_drive"], "--kernel: there is no kernel warp_drive"),
    "budget": (["--budget", "0"], "--budget: it is no time"),
    "folder": (
        ["--out", "/dev/null/x.toml"],
        r"--out: /dev/null/x.toml cannot be written \(its folder .* Fix: choose a file of yours",
    ),
}


@pytest.mark.parametrize("words, match", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(made_up, capsys, words, match):
    assert cli.main([*DEMO, *words]) == 2
    assert re.search(match, capsys.readouterr().err)


def test_tuning_for_a_device_takes_its_familys_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "TUNING", tmp_path)

    class Found:
        name = "A GPU"

        def facts(self):
            return {"kind": "gpu", "name": "A GPU"}

    monkeypatch.setattr("ondevice.flags.find_device", lambda spec: Found())
    words = ["show", "demo", "--random-weights", "0", "--target", "gpu", "--tune-for", "A GPU", "--component", "unet"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert re.search(r"tunables of \d+ dispatches: \d+ from target gpu$", said, re.M)
    (tmp_path / "gpus.toml").write_text('match = {kind = "gpu"}\n[kernel.layer_norm]\ndefault = {X = 64, V = 8}\n')
    assert cli.main(words) == 0
    assert re.search(
        r"tunables of \d+ dispatches: \d+ from target gpu, \d+ from gpus by default$", capsys.readouterr().out, re.M
    )


@pytest.mark.device
def test_a_real_device_is_tuned(tmp_path, capsys):
    words = [
        "tune", "demo", "--random-weights", "0", "--size", "64x64", "--dtype", "fp32", "--kernel", "layer_norm_rows",
        "--budget", "4",
    ]  # fmt: skip
    assert cli.main([*words, "--out", str(tmp_path / "t.toml")]) == 0
    tuned = read_tuning(tmp_path / "t.toml")
    assert tuned.measured["device"] and tuned.kernels["layer_norm_rows"].shapes
    assert all(0 < row.us <= row.was_us for row in tuned.kernels["layer_norm_rows"].shapes)
    assert "refused" not in capsys.readouterr().err
