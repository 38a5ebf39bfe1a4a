"""The C++ player's replay: golden bundles, and hand-made plans beside the Python session on the same device."""

import itertools
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle.image_bundle import write_images
from bundle.tiny_bundle import tiny_plan, tiny_weights, write_tiny
from player.opencl_environment import environment
from run.small_plans import KERNELS, MASK, PRELUDE, WEIGHTS, make_plan, three_steps, three_steps_answer
from run.test_streaming import COUNT, chain

from ondevice.bundle import Contents, WeightSource, open_bundle, write_bundle
from ondevice.errors import OnDeviceError
from ondevice.plan.blocks import Streaming, window_of
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

SLOW = """KERNEL(slow)(IN(float, x), OUT(float, y), const int n) {
  float sum = x[0];
  for (int k = 0; k < 6000000; ++k) sum = sum * 0.5f + 1.0f;
  y[get_global_id(0)] = sum;
}
"""


GPU = "0x1000=4"  # what an odd library says of the host's CPU
GOLDEN = Path(__file__).parents[1] / "golden" / "bundle"


@pytest.fixture
def replay(tool):
    """`replay(bundle, *commands)`: what check_session answers, each line as JSON or, of an error, as text."""

    def call(bundle, *commands, spec="", cache=None, **variables):
        text = "".join(json.dumps(command) + "\n" for command in commands)
        more = [] if cache is None else [cache]
        done = tool("check_session", bundle, spec, *more, input=text, env=environment(**variables))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) if line[0] in "{[" else line for line in done.stdout.splitlines()]

    return call


@pytest.fixture
def written(tmp_path):
    """`written(*plans)`: a bundle of hand-made plans."""

    def write(*plans, **more):
        texts = {"prelude/opencl.h": PRELUDE, "prelude/metal.h": "", "slow.cl": SLOW}
        weights = {"bias": WeightSource(lambda: WEIGHTS, "f32", (4,)), "mask": WeightSource(lambda: MASK, "f32", (4,))}
        used = {operand.weight for plan in plans for operand in plan.operands}
        return write_bundle(
            tmp_path / "hand.ondevice",
            Contents(
                plans=list(plans),
                weights={key: source for key, source in weights.items() if key in used},
                kernels=texts | {f"{name}.cl": text for name, text in KERNELS.items()},
                tokenizers={},
                scheduler={},
                samplers={},
                model={"family": "hand", "source": "tests"},
            ),
            **more,
        )

    return write


def ask(component, inputs, keep=None, **sizes):
    inputs = {
        name: value if value and isinstance(value[0], str) else np.ravel(value).tolist()
        for name, value in ((name, list(value)) for name, value in inputs.items())
    }
    return {"run": component, "sizes": sizes, "inputs": inputs} | ({"keep": keep} if keep else {})


def numbers(n):
    return np.linspace(3, 9, n, dtype=np.float32)


@pytest.mark.parametrize("name, expected", [("tiny", "expected.json"), ("images", "expected_images.json")])
def test_golden_bundles_give_what_they_must(replay, name, expected):
    bundle = GOLDEN / f"{name}.ondevice"
    plans = json.loads((GOLDEN / expected).read_text())["plans"]
    for row, got in zip(
        plans, replay(bundle, *(ask(row["component"], row["inputs"], **row["sizes"]) for row in plans)), strict=True
    ):
        plan = open_bundle(bundle).plan(row["component"], **row["sizes"])
        shapes = {plan.operands[index].name: plan.operands[index].shape for index in plan.inputs}
        inputs = {name: np.float32(value).reshape(shapes[name]) for name, value in row["inputs"].items()}
        python = Session(open_bundle(bundle), choose_device()).run(row["component"], inputs, **row["sizes"])
        for port, values in row["outputs"].items():
            np.testing.assert_allclose(got[port], np.ravel(values), rtol=row["tolerance"], atol=row["tolerance"])
            np.testing.assert_array_equal(np.float32(got[port]), python[port].ravel())


def test_plans_share_an_arena_that_grows_and_kernels_that_are_built_once(replay, written, tmp_path):
    bundle = written(three_steps(8), three_steps(600))
    run = [ask("net", {"x": numbers(n)}, width=n) for n in (8, 600, 8)]
    *answers, facts = replay(bundle, *run, {"facts": True}, cache=tmp_path / "kernels")
    for answer, n in zip(answers, (8, 600, 8), strict=True):
        np.testing.assert_allclose(answer["y"], three_steps_answer(numbers(n)), rtol=1e-6)
    assert facts["arena"] == three_steps(600).arena and (facts["hits"], facts["misses"]) == (0, 2)


def test_values_stay_on_the_device_and_are_joined(replay, written):
    x = numbers(8)
    said = replay(
        written(three_steps(8), three_steps(4)),
        {"put": "a", "dtype": "f32", "shape": [4], "data": x[:4].tolist()},
        {"put": "b", "dtype": "f32", "shape": [4], "data": x[4:].tolist()},
        ask("net", {"x": ["a", "b"]}, {"y": "c"}, width=8),
        ask("net", {"x": ["b"]}, width=4),
        {"read": "c"},
        {"facts": True},
        {"drop": "a"},
        {"facts": True},
        ask("net", {"x": ["b", "b", "b"]}, width=8),
        ask("net", {"x": ["c"]}, width=4),
        {"put": "d", "dtype": "i32", "shape": [4], "data": [1, 2, 3, 4]},
        ask("net", {"x": ["d"]}, width=4),
    )
    answer = three_steps_answer(x)
    np.testing.assert_allclose(said[4], answer, rtol=1e-6)
    np.testing.assert_allclose(said[3]["y"], answer[4:], rtol=1e-6)
    assert said[5]["values"] == 64 and said[7]["values"] == 48
    assert said[8:] == [
        "2 net: input x: its parts are f32[4], f32[4], f32[4] (expected f32[8]).",
        "2 net: input x: it is f32[8] (expected f32[4]).",
        {},
        "2 net: input x: it is i32[4] (expected f32[4]).",
    ]


def test_inputs_are_checked(replay, written):
    x = numbers(8)
    assert replay(
        written(three_steps(8)),
        ask("net", {}, width=8),
        ask("net", {"x": x, "z": x}, width=8),
        ask("net", {"x": x[:3]}, width=8),
        ask("net", {"x": x}, {"z": "c"}, width=8),
    ) == [
        "2 net: input x is missing (expected x).",
        "2 net: input z is unknown (expected x).",
        "2 net: input x: it is 12 bytes (expected f32[8]).",
        "2 net: output z is unknown (expected y).",
    ]


def test_released_weights_are_loaded_again(replay, tmp_path, odd):
    plans, weights = [tiny_plan(8), tiny_plan(8, "other")], tiny_weights() | tiny_weights("other")
    bundle = write_tiny(tmp_path / "t", plans=plans, weights=weights, rewrites={}, shard_bytes=512)
    run = [ask(name, {"x": numbers(8)}, width=8) for name in ("tiny", "other")]
    commands = [
        *run,
        {"facts": True},
        {"release": "tiny"},
        {"facts": True},
        {"release": "other"},
        {"facts": True},
        *run,
    ]
    on_cpu = replay(bundle, *commands)
    copied = replay(bundle, *commands, **odd("0x1000=4"))
    for said in (on_cpu, copied):
        assert said[0] == said[7] and said[1] == said[8] and said[0] == said[1]
        assert [facts["arena"] for facts in said[2:7:2]] == [tiny_plan(8).arena, 0, 0]
    # a weight in each shard: a bias for each component, and two that both read
    assert [facts["weights"] for facts in on_cpu[2:7:2]] == [0, 0, 0]
    assert [facts["weights"] for facts in copied[2:7:2]] == [2048, 1536, 0]


def test_memory_is_checked_before_anything_is_loaded(replay, written, odd, tmp_path):
    run, bundle = ask("net", {"x": np.full(60000, 4.0)}, {"y": "y"}, width=60000), written(three_steps(60000))
    said = replay(bundle, {"limit": 950000}, run, {"facts": True}, {"limit": 970000}, run, cache=tmp_path / "none")
    assert said[1] == (
        "12 net width=60000: it needs 1.0 MB (arena 1.0 MB, weights 0.0 MB), and the limit is 0.9 MB. "
        "Fix: use a smaller --size, or a higher limit."
    )
    assert (said[2]["arena"], said[2]["misses"], said[4]) == (0, 0, {})
    (said,) = replay(bundle, run, **odd("0x101F=950000 0x102B=:Small"))
    assert said == (
        "12 net width=60000: it needs 1.0 MB (arena 1.0 MB, weights 0.0 MB), and Small has 0.9 MB. "
        "Fix: use a smaller --size, or another --device."
    )
    (said,) = replay(bundle, run, **odd("0x1010=950000 0x102B=:Small"))
    assert said == (
        "12 net width=60000: arena: it needs 1.0 MB at once, and Small gives at most 0.9 MB. "
        "Fix: use a smaller --size, or another --device."
    )


def test_needs_are_checked_before_anything_is_loaded(replay, odd, tmp_path):
    bundle, x = write_images(tmp_path / "t"), np.zeros(1024)
    (said,) = replay(bundle, ask("images", {"x": x}, width=64), **odd("0x1030=:cl_khr_fp16 0x102B=:Plain"))
    assert said == (
        "12 images width=64: it needs image2d (operands that are read as images), which Plain has not. "
        "Fix: convert for a --target of this device, or use another --device."
    )
    (said,) = replay(bundle, ask("images", {"x": x}, width=64), **odd("0x104A=512 0x102B=:Wide"))
    assert "images width=64: twice: it is read as an image of 64 by 4 texels, and Wide takes rows" in said


OVERWRITTEN = [("root", ("x",), "c", ()), ("affine", ("x", "bias"), "c", (1.0,)), ("root", ("c",), "y", ())]
CHECKED = {
    "nan": ([("affine", ("x", "bias"), "a", (2.0,)), ("root", ("a",), "y", ())], [3, 4, -5, 6]),
    "mask": ([("affine", ("x", "mask"), "a", (1.0,)), ("affine", ("a", "bias"), "y", (1.0,))], [1, 1, 1, 1]),
    "overflow": ([("affine", ("x", "bias"), "a", (1.0,)), ("affine", ("a", "bias"), "y", (3e38,))], [9, 9, 9, 9]),
    "nan of infinity": ([("affine", ("x", "mask"), "a", (1.0,)), ("root", ("a",), "y", ())], [1, 1, 1, 1]),
    "scratch": ([("affine", ("x", "bias"), "s", (9.0,)), ("affine", ("bias", "bias"), "y", (1.0,))], [1e38] * 4),
    "overwritten": (OVERWRITTEN, [-1, 3, 3, 3]),
    "in place": (OVERWRITTEN, [-1, 3, 3, 3]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_check_finds_the_first_result_that_is_not_finite_as_python_does(replay, written, name):
    steps, x = CHECKED[name]
    plan = make_plan(4, steps)
    if name == "in place":  # such a dispatch reads what it overwrites
        inside = tuple(replace(kernel, defines=(*kernel.defines, ("INPLACE", 1))) for kernel in plan.kernels)
        plan = replace(plan, kernels=inside)
    bundle = written(plan)
    try:
        y = Session(open_bundle(bundle), choose_device(), check=True).run("net", {"x": np.float32(x)}, width=4)["y"]
        expected = {"y": y.tolist()}
    except OnDeviceError as error:
        expected = f"{error.exit_code} {error}"
    _, said = replay(bundle, {"set": "check", "to": True}, ask("net", {"x": x}, width=4))
    assert said == expected
    assert isinstance(expected, str) == (name not in ("mask", "scratch", "overwritten"))


def test_a_broken_kernel_names_file_line_and_defines(replay, written):
    lines = replay(written(make_plan(8, [("wrong", ("x",), "y", ())])), ask("net", {"x": numbers(8)}, width=8))
    assert lines[0].startswith("11 wrong.cl: the driver of ")
    assert "refused it: line 2 of wrong.cl: use of undeclared identifier 'missing'" in lines[0]


def test_every_launch_is_timed_where_it_is_asked_for(replay, written):
    run = ask("net", {"x": numbers(8)}, width=8)
    said = replay(written(three_steps(8)), run, {"set": "profile", "to": True}, run, run, {"facts": True})
    assert (said[-1]["rows"], said[-1]["runs"], said[-1]["took"]) == (3, 6, True)


def test_a_wish_to_stop_is_heard_between_launches(replay, written):
    names = ["x", *(f"t{k}" for k in range(299)), "y"]
    steps = [("slow", (source,), target, ()) for source, target in itertools.pairwise(names)]
    run = ask("net", {"x": numbers(4)}, width=4)
    begin = time.monotonic()
    said = replay(written(make_plan(4, steps)), {"cancel_after": 0.2}, run)
    took = time.monotonic() - begin
    assert said[1] == "130 net: cancelled." and took < 10, took


def test_a_wish_to_stop_is_heard_between_programs(replay, written, tmp_path):
    run = ask("net", {"x": numbers(8)}, width=8)
    stop, go_on = ({"set": "cancel when building", "to": True}, {"set": "cancel", "to": False})
    said = replay(written(three_steps(8)), stop, run, {"facts": True}, go_on, run, cache=tmp_path / "kernels")
    assert said[1] == "130 net: cancelled." and said[2]["misses"] == 1


@pytest.mark.parametrize("profile", [False, True])
def test_what_is_made_of_the_driver_is_given_back(tool, written, odd, tmp_path, profile):
    """At most: an arena, its parts for the last plan, and a shard with its part; no longer those of a smaller arena."""
    steps = [("affine", (a, "bias"), b, (1.0,)) for a, b in itertools.pairwise(["x", *"abcdefghijklmnopqrst", "y"])]
    run = [ask("net", {"x": numbers(n)}, width=n) for n in (8, 600, 8)]
    commands = [*run, {"set": "profile", "to": profile}, ask("long", {"x": numbers(4)}, width=4), {"release": "net"}]
    bundle = written(three_steps(8), three_steps(600), make_plan(4, steps, "long"))
    text = "".join(json.dumps(command) + "\n" for command in commands)
    variables = environment(**odd(ODD_COUNT="1"))
    done = tool("check_session", bundle, "", tmp_path / "kernels", input=text, env=variables)
    assert [line.split(": ", 1)[1].split(", ")[0] for line in done.stderr.splitlines()] == ["0"] * 6, done.stderr
    counts = {line.split(": ")[0]: int(line.rsplit(" ", 1)[1]) for line in done.stderr.splitlines()}
    assert (counts["memory"], counts["events"]) == (1 + 22 + 2, 21 if profile else 2)


def test_memory_of_the_host_does_not_grow_with_runs(replay, written):
    run = ask("net", {"x": numbers(600)}, width=600)
    said = replay(written(three_steps(600)), run, {"facts": True}, *[run] * 300, {"facts": True})
    assert said[-1]["now"] - said[1]["now"] < 8 << 20


@pytest.fixture
def many(tmp_path):
    """A bundle with a dispatch for each of COUNT weights, of which `wN` holds N."""
    weights = {
        f"w{number}": WeightSource(lambda number=number: np.full(4, number, np.float32), "f32", (4,))
        for number in range(COUNT)
    }
    contents = Contents(
        plans=[chain(8), chain(16), three_steps(8, "other")],
        weights=weights | {"bias": WeightSource(lambda: np.ones(4, np.float32), "f32", (4,))},
        kernels={"prelude/opencl.h": PRELUDE, "prelude/metal.h": ""} | {f"{k}.cl": v for k, v in KERNELS.items()},
        tokenizers={},
        scheduler={},
        samplers={},
        model={"family": "hand", "source": "tests"},
    )
    return write_bundle(tmp_path / "many.ondevice", contents, shard_bytes=2560)


@pytest.mark.parametrize("told", ["", GPU])
def test_every_kernel_reads_its_weight_whatever_the_window(replay, many, odd, told):
    run = [ask("net", {"x": numbers(n)}, width=n) for n in (8, 16)] + [ask("other", {"x": numbers(8)}, width=8)]
    commands = [*run]
    for units in (1, 2, 3, 5, 0, -1):
        commands += [{"stream": 512 * units}, *run, *run, {"facts": True}]
    said = replay(many, *commands, **odd(told))
    whole, answers = said[:3], said[3:]
    np.testing.assert_allclose(whole[0]["y"], numbers(8) + sum(range(COUNT)), rtol=1e-6)
    for number, units in enumerate((1, 2, 3, 5, 0, -1)):
        part = answers[8 * number : 8 * number + 8]
        assert part[1:4] == whole and part[4:7] == whole
        streaming = Streaming(512 * max(units, 0), not told)
        assert part[7]["streamed"] == (window_of(chain(), streaming).most if units >= 0 else 0)
        assert part[7]["weights"] <= (512 * units if told and units > 0 else 10 * 512 * bool(told))


@pytest.mark.parametrize("told", ["", GPU])
def test_a_file_that_is_cut_meanwhile(player_build, many, odd, told):
    """Between two runs: what was mapped is not what the manifest said any more."""
    run = json.dumps(ask("net", {"x": numbers(8)}, width=8)) + "\n"
    path = sorted((many / "weights").iterdir())[0]
    process = subprocess.Popen(
        [player_build / "check_session", many, ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment(**odd(told)),
    )
    process.stdin.write(json.dumps({"stream": 1024}) + "\n" + run)
    process.stdin.flush()
    assert process.stdout.readline() == "{}\n" and process.stdout.readline().startswith('{"y"')
    os.truncate(path, 512)
    process.stdin.write(run)
    process.stdin.close()
    assert process.stdout.readline().startswith(f"9 weights/{path.name}: ")
    assert process.wait(60) == 0
