"""Pictures that two devices draw together are those that one draws."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from PIL import Image
from recipe_weights import case, checkpoint

from ondevice import Pipeline, api, cli, errors
from ondevice.bundle import open_bundle
from ondevice.bundle.made_file import key_of
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.picture import spec_of
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.diffusion import parallel as sharing
from ondevice.diffusion import parallel_table
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.parallel import Layout, exchanged, layout_of, shared
from ondevice.diffusion.request import Request
from ondevice.drawing import parallel
from ondevice.graph.ranks import SHARE
from ondevice.lower import pack
from ondevice.run.discovery import find_device
from ondevice.run.guard import GuardedSession
from ondevice.run.opencl import OpenCLDevice

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"
REQUEST = Request(prompt=PROMPT, negative_prompt="green", num_inference_steps=3, seed=4, guidance_scale=4.0)
CASES = {"sd21": "sd2_e2e_v", "sdxl": "sdxl_e2e", "sd3-without-t5": "sd3_e2e_no_t5", "sd35-medium": "sd35_e2e"}
FAMILY = pytest.mark.parametrize(
    "family",
    ["sd21", "sd3-without-t5", *(pytest.param(one, marks=pytest.mark.sweep) for one in ("sdxl", "sd35-medium"))],
)
HALVES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a CPU of one core has no halves")


@pytest.fixture(scope="module")
def devices():
    """Four, each with memory and a queue of its own."""
    return [OpenCLDevice(find_device("cpu")) for _ in range(4)]


@pytest.fixture(scope="module")
def bundle(made_once):
    """`bundle(family)`: the tiny model's in fp32, with plans for two ranks."""

    def made(family):
        config, _, _ = case(CASES[family])
        source = checkpoint(FAMILIES[family], config["scheduler"])
        return open_bundle(
            made_once(
                f"parallel-{family}.ondevice",
                lambda path: compile_bundle(source, path, Recipe(dtype="f32", ranks=2), sizes=[(24, 16)]),
            )
        )

    return made


def runner(kind, bundle, devices):
    layout = layout_of(kind, [device.name for device in devices], bundle.pipeline)
    return layout, shared(bundle, layout, devices, lambda device: GuardedSession(bundle, device))


@pytest.fixture(scope="module")
def alone(bundle, devices):
    """`alone(family, split)`: what one device draws, in one pass or two."""
    drawn = {}

    def made(family, split=False):
        if (family, split) not in drawn:
            files = bundle(family)
            pipeline = Pipeline.of(files, GuardedSession(files, devices[0]))
            drawn[family, split] = pipeline.draw(REQUEST, Way(split=split))
        return drawn[family, split]

    return made


@FAMILY
def test_two_devices_draw_what_one_draws_in_two_passes(family, bundle, devices, alone):
    made = bundle(family)
    layout, both = runner("guidance", made, devices[:2])
    got = Pipeline.of(made, both).draw(REQUEST)
    np.testing.assert_array_equal(got.latents, alone(family, split=True).latents)
    check_alike(got, alone(family))
    said = exchanged(made, layout, 24 // 2, 16 // 2)
    assert both.moved.runs == 3 and not said.sums
    assert (both.moved.arrays / 3, both.moved.once) == (said.step, said.once)


@FAMILY
def test_devices_that_share_the_network_draw_what_one_draws(family, bundle, devices, alone):
    made = bundle(family)
    layout, both = runner("tensor", made, devices[:2])
    check_alike(Pipeline.of(made, both).draw(REQUEST), alone(family))
    said = exchanged(made, layout, 24 // 2, 16 // 2)
    assert said.sums == {"sd21": 20, "sdxl": 44}.get(family, 10) and both.moved.runs == 3
    assert ((both.moved.arrays + both.moved.sums) / 3, both.moved.once) == (said.step, said.once)
    row = next(row for row in parallel_table.table(made) if row.ranks == 2 and row.sums)
    assert (row.sums, row.nbytes) == (said.sums, both.moved.sums / 3) and len(row.blocks) > 1
    assert row.weights / 2 < row.most_weights < row.weights and row.flops / 2 < row.most_flops < row.flops
    assert f"  {row.sums} sums a step, for which " in "\n".join(parallel_table.to_text([row]))


def test_adapters_change_the_shares_of_weights(bundle, devices, alone, tmp_path):
    made, file = bundle("sd21"), tmp_path / "a.safetensors"
    config, _, _ = case(CASES["sd21"])
    components = checkpoint(FAMILIES["sd21"], config["scheduler"]).components
    write_safetensors(file, adapter(components, "peft", convolutions=True, seed=1, gain=0.3))
    drawn = []
    for session in (GuardedSession(made, devices[0]), runner("tensor", made, devices[:2])[1]):
        pipeline = Pipeline.of(made, session)
        pipeline.load_lora_weights(file)
        drawn.append(pipeline.draw(REQUEST))
        pipeline.unload_lora_weights()
        check_alike(pipeline.draw(REQUEST), alone("sd21"))
    check_alike(*drawn)
    changed = np.abs(drawn[0].latents - alone("sd21").latents).max()
    assert changed > 1e-2 * np.abs(drawn[0].latents).max()


@pytest.mark.parametrize("weights, dtype", [pytest.param("i8", "i8", marks=pytest.mark.sweep), ("i4", "u4x2")])
def test_shares_in_few_bits_are_as_near_as_the_whole(weights, dtype, devices, alone, tmp_path, monkeypatch):
    """Each share has scales of its own, so that it is not rounded as the whole is; but no more."""
    monkeypatch.setattr(pack, "pays", lambda k, n: k >= 8 and n >= 4)  # the real ones are larger
    config, _, _ = case(CASES["sd21"])
    source = checkpoint(FAMILIES["sd21"], config["scheduler"])
    recipe = Recipe(dtype="f32", weights=weights, ranks=2)
    made = open_bundle(compile_bundle(source, tmp_path / "a.ondevice", recipe, sizes=[(24, 16)]))
    shares = [one.dtype for one in made.manifest.weights.values() if one.made is not None and key_of(one.made) == SHARE]
    assert shares.count(dtype) > 20
    sessions = GuardedSession(made, devices[0]), runner("tensor", made, devices[:2])[1]
    one, two = (
        np.square(Pipeline.of(made, session).draw(REQUEST).latents - alone("sd21").latents).mean()
        for session in sessions
    )
    assert 0 < two < 1.5 * one


def test_each_device_streams_its_weights(bundle, devices, alone):
    made = bundle("sd21")
    for kind in ("guidance", "tensor"):
        _, both = runner(kind, made, devices[:2])
        both.stream_weights(1 << 20)
        check_alike(Pipeline.of(made, both).draw(REQUEST), alone("sd21"))
        assert all(0 < session.streamed_bytes <= 1 << 20 for session in both._sessions)


def test_four_devices_share_passes_and_the_network(bundle, devices, alone):
    made = bundle("sd3-without-t5")
    layout, both = runner("guidance,tensor", made, devices)
    check_alike(Pipeline.of(made, both).draw(REQUEST), alone("sd3-without-t5"))
    moved = [both.moved, *(group.moved for group in both._sessions)]
    said = exchanged(made, layout, 24 // 2, 16 // 2)
    assert sum(one.arrays + one.sums for one in moved) / 3 == said.step
    assert sum(one.once for one in moved) == said.once
    assert layout.text() == "the passes of guidance on 2, each on 2 that share the network"


def generated(*words):
    """What `generate` says, in a process of its own: the runtime may crash where one that has cut a device goes on to
    its very end."""
    command = [sys.executable, "-m", "ondevice.generate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stderr


def check_alike(got, expected):
    assert np.abs(got.latents - expected.latents).max() <= 1e-5 * np.abs(expected.latents).max()
    assert np.abs(got.pixels.astype(int) - expected.pixels).max() <= 1


@HALVES
def test_halves_of_a_cpu_draw_the_picture_of_one(demo_bundle, tmp_path):
    words = [demo_bundle, PROMPT, "--steps", "3", "--seed", "5"]
    assert cli.main(["generate", *map(str, words), "--out", str(tmp_path / "one.png")]) == 0
    said = generated(*words, "--out", tmp_path / "two.png", "--parallel", "guidance", "--device", "cpu/2")
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png"), int) for name in ("one", "two"))
    assert ((one - two) ** 2).mean() < 255**2 * 10**-5  # 50 dB, in fp16
    # latents and a prediction of 4 x 8 x 8 float32, and a timestep
    assert "parallel: the passes of guidance on 2 devices; 2.1 kB exchanged a step, " in said


def test_several_pictures_and_weights_that_were_given_back(demo_bundle, devices):
    bundle = open_bundle(demo_bundle)
    _, both = runner("guidance", bundle, devices[:2])
    pipeline = Pipeline.of(bundle, both)
    first = pipeline(PROMPT, num_inference_steps=2, seed=1, num_images_per_prompt=2)
    alone = pipeline(PROMPT, num_inference_steps=2, seed=2)
    np.testing.assert_array_equal(np.asarray(first.images[1]), np.asarray(alone.images[0]))
    both.release_all()
    again = pipeline(PROMPT, num_inference_steps=2, seed=2)
    np.testing.assert_array_equal(np.asarray(again.images[0]), np.asarray(alone.images[0]))


@HALVES
@pytest.mark.sweep
def test_a_bundle_for_ranks_from_the_command_line(tmp_path):
    out = tmp_path / "demo.ondevice"
    assert cli.main(["convert", "demo", "--size", "64x64", "--parallel", "tensor", "--out", str(out)]) == 0
    words = [out, PROMPT, "--steps", "2", "--seed", "5"]
    assert cli.main(["generate", *map(str, words), "--out", str(tmp_path / "one.png")]) == 0
    said = generated(*words, "--out", tmp_path / "two.png", "--parallel", "tensor", "--device", "cpu/2")
    assert "parallel: each step on 2 that share the network; " in said
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png"), int) for name in ("one", "two"))
    assert ((one - two) ** 2).mean() < 255**2 * 10**-5  # 50 dB, in fp16


def refused(capsys, error, *words):
    assert cli.main([str(word) for word in words]) == error.exit_code
    return capsys.readouterr().err.strip()


def test_what_cannot_be_shared_is_said(demo_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ONDEVICE_DEVICE", raising=False)
    draw = ("generate", demo_bundle, PROMPT, "--out", tmp_path / "a.png", "--steps", "1", "--parallel", "guidance")
    name = find_device("cpu").name
    assert refused(capsys, errors.UsageError, *draw, "--device", "cpu") == (
        f"error: --parallel: it takes two devices or more (got {name} alone). Fix: name several, as --device 0,1, or "
        "cut a CPU in two with --device cpu/2."
    )
    assert refused(capsys, errors.UsageError, *draw, "--device", "cpu,cpu").startswith(
        f"error: --device: {name} is named twice. Fix: name it once, as "
    )
    assert "too few for 999 parts. Fix: " in refused(capsys, errors.NoDeviceError, *draw, "--device", "cpu/999")
    assert refused(capsys, errors.UsageError, *draw, "--max-memory", "2GB") == (
        "error: --max-memory: it counts the memory of one device, and --parallel takes several. "
        "Fix: leave --max-memory out."
    )
    assert refused(capsys, errors.UsageError, *draw, "--profile") == (
        "error: --profile: they show the time of one device, and --parallel takes several. Fix: leave --profile out."
    )
    nan = (*draw[:-1], "tensor", "--on-nan", "fp32")
    assert refused(capsys, errors.UsageError, *nan) == (
        "error: --on-nan: a device that has a share of the network cannot compute it again in float32 by itself. Fix: "
        "leave it out, or use --parallel guidance."
    )
    assert "; and where several are named, they must share something. Fix: add --parallel guidance, or name one" in (
        refused(capsys, errors.UsageError, *draw[:-2], "--device", "cpu/2")
    )
    assert not (tmp_path / "a.png").exists()


def test_guidance_that_is_off_has_no_halves(demo_bundle, devices, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "devices", lambda args: devices[:2])
    draw = ("generate", demo_bundle, PROMPT, "--out", tmp_path / "a.png", "--parallel", "guidance", "--device", "cpu/2")
    assert refused(capsys, errors.UsageError, *draw, "--guidance", "1").endswith(
        "error: --parallel: without guidance a step is one pass (got guidance_scale 1, expected above 1). Fix: ask for "
        "guidance, or leave --parallel out."
    )


def test_devices_and_passes_must_fit(demo_bundle):
    spec = open_bundle(demo_bundle).pipeline
    assert layout_of("guidance", ["a", "b"], spec) == Layout(2)
    with pytest.raises(errors.UsageError) as caught:
        layout_of("guidance", ["a", "b", "c"], spec)
    assert str(caught.value) == (
        "--parallel: 3 devices for 2 passes of guidance (expected at most 2). Fix: name 2 devices, or use "
        "guidance,tensor with 4."
    )
    assert layout_of("tensor", ["a", "b", "c"], spec) == Layout(1, 3)
    assert layout_of("guidance,tensor", list("abcdef"), spec) == Layout(2, 3)
    for count, fix in ((2, "use guidance or tensor alone"), (5, "name 4 devices")):
        with pytest.raises(errors.UsageError) as caught:
            layout_of("guidance,tensor", list("abcde")[:count], spec)
        assert str(caught.value) == (
            f"--parallel: {count} devices for 2 passes, each on several (expected 4, or another multiple of 2 above "
            f"that). Fix: {fix}."
        )
    with pytest.raises(errors.UsageError, match=r"unknown \(got 'pipeline', expected guidance, tensor or"):
        layout_of("pipeline", ["a", "b"], spec)
    lcm = build(checkpoint(FAMILIES["lcm"], case("lcm_e2e")[0]["scheduler"]))
    with pytest.raises(errors.UsageError) as caught:
        layout_of("guidance", ["a", "b"], spec_of(lcm))
    assert str(caught.value) == (
        "--parallel: this model draws in one pass, without guidance, so there are no halves to share. Fix: use "
        "tensor, or leave --parallel out."
    )


def test_groups_of_three_share_the_two_passes(demo_bundle, monkeypatch):
    """Each has neighbours in the list of devices, and all ranks."""
    spec = open_bundle(demo_bundle).pipeline
    plans = [SimpleNamespace(component=role.component, sizes={"batch": 1}) for role in spec.loop_roles()]
    made = SimpleNamespace(pipeline=spec, plans=plans, components={f"{plans[0].component}_1of3": "f32"})
    monkeypatch.setattr(sharing, "Share", lambda bundle, one, rank, check: (one, *rank))
    monkeypatch.setattr(sharing, "Ranks", lambda bundle, shares, parts: shares)
    monkeypatch.setattr(sharing, "PassesApart", lambda bundle, groups, parts: groups)
    found = shared(made, Layout(2, 3), "abcdef", GuardedSession)
    assert found == [[(one, number, 3) for number, one in enumerate(group)] for group in ("abc", "def")]


def test_a_bundle_without_plans_for_ranks(demo_bundle, devices):
    with pytest.raises(errors.UsageError) as caught:
        runner("tensor", open_bundle(demo_bundle), devices[:3])
    assert str(caught.value) == (
        "--parallel: the bundle has no plans for 3 devices that share the network. Fix: convert the checkpoint again "
        "with --parallel tensor:3."
    )


@pytest.mark.parametrize(
    "given, said",
    [
        ("guidance", "--parallel: 'guidance' is not tensor or tensor:N. Fix: use tensor:2; --parallel guidance of "),
        ("tensor:x", "--parallel: 'tensor:x' is not tensor or tensor:N. Fix: "),
        ("tensor:1", "--parallel: not a number of ranks (got 1, expected 2 to 8). Fix: use tensor:2."),
        ("tensor:3", "--parallel: unet: its norms have "),
        ("tensor --format onnx", "--parallel: a graph in another format runs whole on one device (got tensor). Fix: "),
    ],
)
def test_conversions_that_cannot_be_had(given, said, tmp_path, capsys):
    words = ("convert", "demo", "--size", "64x64", "--out", tmp_path / "a", "--parallel", *given.split())
    assert refused(capsys, errors.UsageError, *words).startswith(f"error: {said}")


def test_a_model_is_shown_as_devices_would_share_it(demo_bundle, capsys):
    """From its plans alone, without a bundle."""
    words = ["show", "demo", "--size", "64x64", "--target", "host", "--component", "unet", "--parallel"]
    assert cli.main([*words, "tensor", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["parallel"]
    assert (row["component"], row["ranks"]) == ("unet", 2) and row["sums"] > 10 and row["nbytes"] > 1e5
    assert row["weights"] / 2 < row["most_weights"] < row["weights"] and row["flops"] / 2 < row["most_flops"]
    assert cli.main([*words, "tensor"]) == 0
    assert f"  {row['sums']} sums a step, for which " in capsys.readouterr().out
    assert refused(capsys, errors.UsageError, *words, "tensor:9") == (
        "error: --parallel: not a number of ranks (got 9, expected 2 to 8). Fix: use tensor:2."
    )
    assert "(got --after lower)" in refused(capsys, errors.UsageError, *words, "tensor", "--after", "lower")
    of_bundle = refused(capsys, errors.UsageError, "show", demo_bundle, "--parallel", "tensor")
    assert of_bundle.startswith("error: --parallel: a bundle has the plans that it was converted with. Fix: leave")


def test_from_python(demo_bundle, monkeypatch):
    found = find_device("cpu")
    monkeypatch.setattr(api, "find_devices", lambda word: [found] * len(word.split(",")))
    opened = []
    monkeypatch.setattr(api.own_thread, "opened", lambda one: opened.append(one) or OpenCLDevice(one))
    pipeline = Pipeline.from_bundle(demo_bundle, device="cpu,cpu", parallel="guidance")
    assert opened == [found, found], "parts of a core each must compute on it"
    picture = pipeline(PROMPT, num_inference_steps=2, seed=1)
    alone = Pipeline.from_bundle(demo_bundle, device="cpu")(PROMPT, num_inference_steps=2, seed=1)
    assert np.abs(np.asarray(picture.images[0], int) - np.asarray(alone.images[0], int)).mean() < 0.1
    with pytest.raises(errors.UsageError, match="parallel"):
        Pipeline.from_bundle(demo_bundle, device="cpu", parallel="guidance")
