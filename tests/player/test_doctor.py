"""The C++ player's launches are as those that Python's golden file is of, and what is not is named."""

import json

import pytest
from player.opencl_environment import environment

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.run.discovery import find_device
from ondevice.target import load_target
from ondevice.target.avoid import AvoidedProgram, dump_avoided

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(bundle, its golden file): the text encoder for a phone, with images and products in half."""
    folder = tmp_path_factory.mktemp("doctor")
    recipe = Recipe("f16", target=load_target("adreno_740"))
    bundle = compile_bundle(open_checkpoint(None, family="demo"), folder / "demo.ondevice", recipe)
    golden = folder / "golden.json"
    words = ["--component", "text_encoder", "--reference", "cpu", "--golden", str(golden)]
    assert cli.main(["doctor", str(bundle), *words]) == 0
    return bundle, golden


@pytest.fixture
def examine(tool, made, tmp_path):
    def call(change=None):
        bundle, golden = made
        rows = json.loads(golden.read_text())
        if change:
            change(rows)
        file = tmp_path / "golden.json"
        file.write_text(json.dumps(rows))
        words = [bundle, file, find_device("cpu").index, tmp_path / "cache"]
        return tool("check_doctor", *words, env=environment())

    return call


def test_a_device_that_is_right(examine):
    done = examine()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["launches"], found["findings"]) == (8, []) and found["device"] == find_device("cpu").name


def test_launches_that_are_wrong(examine):
    def change(rows):
        first, second, third = (rows["launches"][i]["results"][0] for i in (1, 3, 5))
        first["sums"][7] += 2 * first["slack"][7] + 0.1
        second["odd"] = 3
        third["sums"][0] += third["slack"][0] / 2

    found = {row["launch"]: row for row in json.loads(examine(change).stdout)["findings"]}
    assert found.keys() == {1, 3} and {row["verdict"] for row in found.values()} == {"wrong"}
    assert " sum to " in found[1]["why"] and "1 of " in found[1]["why"]
    assert found[3]["why"].endswith(": 0 values are NaN or infinite (expected 3)")


def avoiding(bundle, device, changed=None):
    """A list with the first program of the text encoder's plan, as `ondevice doctor` writes it."""
    opened = open_bundle(bundle)
    kernel = opened.plan("text_encoder", batch=1).kernels[0]
    digest = opened.manifest.files[f"kernels/{kernel.file}.cl"].sha256
    program = AvoidedProgram(kernel.file, changed or digest, kernel.defines, "wrong")
    return kernel.file, dump_avoided({"name": device}, [program])


def test_the_command_line(tool, made, tmp_path):
    """`doctor` compares, and a plan with a program to avoid is refused on the device that it is wrong on."""
    bundle, golden = made
    device = find_device("cpu")
    common = ["--device", device.index, "--cache", tmp_path / "cache"]
    done = tool("od_player", "doctor", bundle, "--golden", golden, *common, env=environment())
    assert done.returncode == 0 and f"{device.name}: 8 of 8 launches are as in" in done.stdout, done.stderr
    rows = json.loads(golden.read_text())
    rows["launches"][2]["results"][0]["odd"] = 1
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(rows))
    done = tool("od_player", "doctor", bundle, "--golden", wrong, "--json", *common, env=environment())
    assert done.returncode == 13 and [row["launch"] for row in json.loads(done.stdout)["findings"]] == [2]
    file = tmp_path / "avoid.json"
    for name, changed, refused in [(device.name, None, True), (device.name, "0" * 64, False), ("other", None, False)]:
        kernel, data = avoiding(bundle, name, changed)
        file.write_bytes(data)
        done = tool("od_player", "show", bundle, "--avoid", file, *common, env=environment())
        assert done.returncode == (12 if refused else 0), done.stderr
        if refused:
            said = f"it has a program of {kernel}.cl that is wrong on {device.name}. Fix: convert again with `--avoid"
            assert said in done.stderr
    file.write_text('{"format": "ondevice-avoid", "version": 2}')
    done = tool("od_player", "show", bundle, "--avoid", file, *common, env=environment())
    assert done.returncode == 2 and "device is missing" in done.stderr


def put(path, value):
    def change(rows):
        *way, last = path
        for step in way:
            rows = rows[step]
        rows[last] = value

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (put(["format"], "ondevice-bundle"), "it is no golden file of this version."),
        (put(["version"], 2), "it is no golden file of this version."),
        (put(["bundle"], "0" * 64), "it was made of another bundle."),
        (put(["target"], "nowhere"), "nowhere"),
        (put(["launches", 0, "plan"], "plans/none.json"), "launches[0].plan is no plan of the bundle"),
        (put(["launches", 0, "dispatch"], -1), "launches[0].dispatch is -1"),
        (put(["launches", 0, "dispatch"], 65535), "launches[0] does not fit its plan."),
        (put(["launches", 0, "fill"], "random"), "launches[0].fill"),
        (put(["launches", 0, "results", 0, "operand"], 0), "launches[0] does not fit its plan."),
        (put(["launches", 0, "results", 0, "operand"], 64), "launches[0] does not fit its plan."),
        (put(["launches", 0, "results", 0, "block"], 0), "launches[0].results[0].block is 0"),
        (put(["launches", 0, "results", 0, "block"], 1 << 40), "launches[0] does not fit its plan."),
        (put(["launches", 0, "results", 0, "sums"], [0.0] * 1025), "launches[0].results[0].sums"),
        (put(["launches", 0, "results", 0, "slack"], [0.0]), "launches[0] does not fit its plan."),
        (put(["launches", 0, "results", 0, "slack", 0], -1.0), "launches[0].results[0].slack[0] is -1"),
    ],
)
def test_a_damaged_file_is_refused(examine, change, words):
    done = examine(change)
    assert done.returncode == 2 and words in done.stderr and " Fix: " in done.stderr, done.stderr
