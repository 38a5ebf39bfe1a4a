"""od_player and Python draw the same files, byte for byte, from the same bundle on the same device."""

import functools
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from conftest import GOLDEN
from e2e.test_families import CASES, HEIGHT, WIDTH, case, checkpoint
from family_files import TINY
from PIL import Image
from player.opencl_environment import environment

from ondevice import cli
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.adapters import with_carried
from ondevice.run.opencl import choose_device
from ondevice.target import load_target

pytestmark = pytest.mark.device
PROMPT = "a green star on a yellow background"


@pytest.fixture(scope="module")
def player(tool):
    """`player(*arguments)`: od_player on the device that Python uses."""
    name = choose_device().name

    def call(verb, *arguments, **options):
        device = () if verb == "verify" else ("--device", name)
        return tool("od_player", verb, *arguments, *device, env=environment(), **options)

    return call


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo model for two sizes, with a decoder in bands."""
    out = tmp_path_factory.mktemp("player") / "demo.ondevice"
    assert cli.main(["convert", "demo", "--out", str(out), "--size", "128x128", "--tile-vae", "8"]) == 0
    return out


FAMILY_CASES = [
    "sdxl_e2e",
    pytest.param("sd2_e2e_zero_snr", marks=pytest.mark.phones),
    pytest.param("sdxl_e2e_negative", marks=pytest.mark.phones),
    pytest.param("sd3_e2e", marks=pytest.mark.phones),
    pytest.param("sd35_e2e", marks=pytest.mark.phones),
]
FAMILY_TARGETS = {"sdxl_e2e": "host", "sd2_e2e_zero_snr": "adreno_740", "sdxl_e2e_negative": "apple_a16"}
FAMILY_TARGETS |= {"sd3_e2e": "mali_g715", "sd35_e2e": "adreno_740"}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """`family(case)`: a bundle of tiny networks of another family, for a phone or for the host."""

    @functools.cache
    def compiled(name):
        name_of_family, _ = CASES[name]
        source = checkpoint(FAMILIES[name_of_family], case(name)[0]["scheduler"])
        recipe = Recipe("f16", "", load_target(FAMILY_TARGETS[name]))
        path = tmp_path_factory.mktemp("families") / f"{name}.ondevice"
        return compile_bundle(source, path, recipe, sizes=[(WIDTH, HEIGHT)])

    return compiled


def drawn(player, bundle, prompt, folder, flags, python=()):
    """(what od_player wrote, what Python wrote), as bytes."""
    ours, theirs = folder / "player.png", folder / "python.png"
    done = player("draw", bundle, prompt, *flags, "--out", ours)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ours}\n"
    assert cli.main(["generate", str(bundle), prompt, *map(str, python or flags), "--out", str(theirs)]) == 0
    return ours.read_bytes(), theirs.read_bytes()


FLAGS = [
    (),
    ("--steps", 4, "--seed", -7, "--guidance", 7.5, "--negative", "a circle (small), é"),
    ("--steps", 4, "--sampler", "euler_a", "--seed", 2**40 + 1),
    ("--steps", 6, "--sampler", "dpmpp_2m", "--guidance", 1),
    ("--steps", 6, "--sampler", "unipc", "--number", "guidance_rescale=0.5"),
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: " ".join(map(str, flags)) or "usual")
def test_the_same_bytes(demo, player, tmp_path, flags):
    ours, theirs = drawn(player, demo, PROMPT, tmp_path, flags)
    assert ours == theirs


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_other_families_draw_the_same_bytes(family, player, tmp_path, name):
    config, numbers = case(name)[0], CASES[name][1]
    flags = [
        "--steps",
        10,
        "--seed",
        3,
        *(word for key, value in numbers.items() for word in ("--number", f"{key}={value}")),
    ]
    if config.get("negative_prompt") is not None:
        flags += ["--negative", config["negative_prompt"]]
    ours, theirs = drawn(player, family(name), config["prompt"], tmp_path, flags)
    assert ours == theirs


def test_a_bundle_for_several_devices_is_drawn_on_one(player, tmp_path):
    """By the whole network's plans, with an adapter that changes the weights that devices share, too; the shares are
    left alone."""
    source = checkpoint(FAMILIES["sd21"], case("sd2_e2e_v")[0]["scheduler"])
    write_safetensors(tmp_path / "ink.safetensors", adapter(source.components, "peft", convolutions=True, gain=0.3))
    carried = with_carried(source, [f"{tmp_path / 'ink.safetensors'}:ink"])
    bundle = compile_bundle(carried, tmp_path / "m.ondevice", Recipe(ranks=2), sizes=[(WIDTH, HEIGHT)])
    assert {"unet", "unet_1of2", "unet_2of2"} <= {plan.component for plan in open_bundle(bundle).plans}
    files = [drawn(player, bundle, PROMPT, tmp_path, ["--steps", 10, *more]) for more in ((), ("--lora", "ink:0.8"))]
    assert files[0][0] == files[0][1] != files[1][0] == files[1][1]
    assert "whole; " in player("verify", bundle).stdout


def start_picture(folder):
    path = folder / "start.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 131, 3), np.uint8)).save(path)
    return path


KINDS = {
    "lcm": ["--steps", 4],
    "instruct-pix2pix": ["--init-image", "PICTURE", "--steps", 4, "--number", "image_guidance_scale=1.25"],
    "sdxl-refiner": ["--init-image", "PICTURE", "--strength", 0.6, "--steps", 10, "--number", "aesthetic_score=7"],
    "sd15-inpaint": [
        "--init-image",
        "PICTURE",
        "--mask",
        "PICTURE",
        "--strength",
        0.7,
        "--steps",
        4,
        "--sampler",
        "euler",
    ],
    "sd3": ["--negative", "naïve (dog:1.2)", "--emphasis", "compel", "--steps", 4],
    "sd3-without-t5": ["--init-image", "PICTURE", "--mask", "PICTURE", "--strength", 0.6, "--steps", 4],
    "sdxl": ["--refiner", "REFINER", "--refiner-start", 0.5, "--steps", 4, "--sampler", "euler", "--count", 1],
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_models_draw_the_same_bytes(player, tmp_path, name):
    def bundle(name):
        tiny = random_checkpoint_from_configs(**TINY[name], seed=5, family=name)
        return compile_bundle(tiny, tmp_path / f"{name}.ondevice", Recipe(), sizes=[(WIDTH, HEIGHT)])

    files = {"PICTURE": start_picture(tmp_path)} | ({"REFINER": bundle("sdxl-refiner")} if name == "sdxl" else {})
    flags = [files.get(flag, flag) for flag in (*KINDS[name], "--size", f"{WIDTH}x{HEIGHT}")]
    ours, theirs = drawn(player, bundle(name), PROMPT, tmp_path, flags)
    assert ours == theirs


def test_from_a_picture(demo, player, tmp_path):
    flags = [
        "--init-image",
        start_picture(tmp_path),
        "--strength",
        0.6,
        "--size",
        "128x128",
        "--steps",
        10,
        "--seed",
        5,
    ]
    ours, theirs = drawn(player, demo, PROMPT, tmp_path, flags)
    assert ours == theirs


def test_in_little_memory(demo, player, tmp_path):
    """In bands, in single passes, giving weights back: the same picture but for rounding, as in Python."""
    flags = ["--steps", 4, "--low-memory"]
    drawn(player, demo, PROMPT, tmp_path, flags, ["--steps", 4, "--tile-vae", 8])
    pixels = [np.asarray(Image.open(tmp_path / name), np.int16) for name in ("player.png", "python.png")]
    assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_a_memory_limit_is_kept_or_refused(demo, player, tmp_path):
    done = player("draw", demo, PROMPT, "--steps", 1, "--max-memory", "1MB", "--out", tmp_path / "a.png")
    assert done.returncode == 12
    assert done.stderr.startswith("error: memory: a picture needs at least ")
    assert not (tmp_path / "a.png").exists()


def test_previews_and_facts(demo, player, tmp_path):
    flags = ["--steps", 4, "--preview", tmp_path / "steps", "--preview-every", 2, "--json"]
    done = player("draw", demo, PROMPT, *flags, "--out", tmp_path / "a.png")
    facts = json.loads(done.stdout)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == [
        "latest.png",
        "progress.json",
        "step-0002.png",
        "step-0004.png",
    ]
    assert Image.open(tmp_path / "steps" / "step-0004.png").size == (128, 128)
    assert facts["out"] == str(tmp_path / "a.png") and facts["seconds_of_steps"] > 0
    assert Image.open(tmp_path / "a.png").text["parameters"] == facts["parameters"]


def test_a_packed_bundle_draws_the_same(demo, player, tmp_path):
    packed = tmp_path / "demo.odb"
    assert cli.main(["pack", str(demo), "--out", str(packed)]) == 0
    ours, theirs = drawn(player, packed, PROMPT, tmp_path, ["--steps", 2])
    assert ours == theirs


def test_memory_is_what_the_plan_says(demo, player):
    """Beside the plan's own bytes a process takes what its driver keeps of each program, about 1 MB, once the driver is
    there and kernels are built."""
    tiny = GOLDEN / "bundle" / "tiny.ondevice"
    component = next(iter(json.loads((tiny / "bundle.json").read_text())["components"]))

    def run(bundle, name):
        done = [player("run", bundle, name) for _ in range(2)][1]
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    driver, used = run(tiny, component)["peak_bytes"], run(demo, "unet")
    plan = json.loads(next((demo / "plans").glob("unet*.json")).read_text())
    assert used["peak_bytes"] - driver - used["arena"] - used["weights"] < 1.1e6 * len(plan["kernels"])


def test_ctrl_c_leaves_no_file(demo, player_build, tmp_path):
    """It comes while steps are drawn: after the first, of whose preview the file says."""
    words = [PROMPT, "--steps", "50", "--preview", tmp_path / "steps", "--out", tmp_path / "a.png"]
    command = [player_build / "od_player", "draw", demo, *words]
    with subprocess.Popen([*map(str, command)], env=environment(), stderr=subprocess.PIPE) as running:
        while not (tmp_path / "steps" / "step-0001.png").exists() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert os.listdir(tmp_path) == ["steps"]


REFUSED = [
    ((), 2, "usage"),
    (("draw", "BUNDLE"), 2, "error: prompt: this model draws nothing without this text."),
    (("draw", "BUNDLE", "a", "--steps", "0"), 2, 'error: --steps: is "0" (expected 1 to 20000).'),
    (("draw", "BUNDLE", "a", "--steps", "7"), 2, "error: sampler: the bundle has no table of ddim at 7 steps"),
    (("draw", "BUNDLE", "a", "--size", "120x120"), 2, "error: size: the bundle does not have 120x120 (it has 128x128)"),
    (("draw", "BUNDLE", "a", "--size", "127x128"), 2, "error: width: not a size the model can draw (got 127"),
    (("draw", "BUNDLE", "a", "--number", "crop=1"), 2, "error: crop: this model has no such number."),
    (("draw", "BUNDLE", "a", "--out", "a.jpg"), 2, "error: --out: od_player writes PNG"),
    (("draw", "BUNDLE", "a", "--init-image", "none.png"), 2, "error: none.png: there is no such file."),
    (("draw", "nothing", "a"), 9, "error: nothing"),
    (("draw", "BUNDLE", "a", "--device", "none such"), 10, "error: "),
    (("draw", "BUNDLE", "a", "--colour"), 2, "error: --colour: there is no such flag."),
    (("verify", "."), 9, "error: "),
    (("paint",), 2, "error: paint: there is no such verb."),
]


@pytest.mark.parametrize(
    "words, code, said", REFUSED, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_wrong_use_says_what_to_do(demo, tool, tmp_path, words, code, said):
    arguments = [str(demo) if word == "BUNDLE" else word for word in words]
    done = tool("od_player", *arguments, env=environment(), cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(said) or said == "usage"
    assert os.listdir(tmp_path) == []


def test_verify_reads_every_file(demo, player, family):
    assert "whole; " in player("verify", demo).stdout
    assert "whole; " in player("verify", family("sdxl_e2e")).stdout


def test_versions_are_the_same(tool):
    from ondevice import __version__

    assert tool("od_player", "--version").stdout == f"od_player {__version__}\n"
