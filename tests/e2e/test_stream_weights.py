"""Pictures that are drawn with weights a block at a time: the same ones, in little memory."""

import os
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from adapter_files import adapter
from bundle.test_mapped import resident
from checkpoint_files import write_safetensors

from ondevice import Pipeline, cli
from ondevice.bundle.mapped import AROUND
from ondevice.bundle.packer import pack_bundle
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.source import Source
from ondevice.diffusion import pipeline
from ondevice.errors import BundleError, PlanError, UsageError
from ondevice.plan.blocks import Streaming, window_of
from ondevice.run.opencl import OpenCLDevice, choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"


class Copying(OpenCLDevice):
    """A device whose memory is not the host's: weights are copied to it."""

    def facts(self):
        return super().facts() | {"maps_weights": False}


def drawn(session, bundle):
    pipe = pipeline.Pipeline.of(bundle, session)
    picture = pipe(PROMPT, num_inference_steps=2, seed=1)
    return picture.latents, picture.pixels


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


def window(bundle, mapped, nbytes=0):
    """(least, most) bytes that all plans of the bundle take."""
    windows = [window_of(bundle.plan(one.component, **one.sizes), Streaming(nbytes, mapped)) for one in bundle.plans]
    return max(block.nbytes for one in windows for block in one.blocks), max(one.most for one in windows)


@pytest.fixture(scope="module")
def whole(demo_bundle):
    bundle = open_bundle(demo_bundle)
    return bundle, drawn(Session(bundle, choose_device()), bundle)


@pytest.mark.parametrize("device", [OpenCLDevice, Copying])
def test_the_same_picture_in_a_fraction_of_the_weights(whole, device):
    bundle, expected = whole
    session = Session(bundle, device(choose_device().found))
    mapped = bool(session._facts["maps_weights"])
    cap = max(512 << 10, window(bundle, mapped, 512 << 10)[0])
    assert cap < 0.2 * sum(bundle.component_bytes().values())
    for nbytes in (cap, 0):
        session.stream_weights(nbytes)
        assert same(drawn(session, bundle), expected)
        assert session.streamed_bytes <= window(bundle, mapped, nbytes)[1]
    assert session.streamed_bytes > 0


def test_pages_in_memory_are_those_that_are_counted(whole, monkeypatch):
    """What Linux says at every 64th launch. It maps pages together that it keeps together, beyond both ends of a
    block."""
    bundle, expected = open_bundle(whole[0].path), whole[1]
    session, most, cap = Session(bundle, choose_device()), [], 512 << 10
    if not session._facts["maps_weights"]:
        pytest.skip("the device has memory of its own")
    session.stream_weights(cap)
    launch, shards = OpenCLDevice.launch, {bundle.weight(key)[0] for key in bundle.manifest.weights}
    total = sum(bundle.manifest.files[name].bytes for name in shards)
    count = iter(range(1 << 30))
    others = sum(resident(bundle.path / name) for name in shards)  # mappings of other tests

    def watched(self, *args):
        if next(count) % 64 == 0:
            most.append(sum(resident(bundle.path / name) for name in shards))
        return launch(self, *args)

    monkeypatch.setattr(OpenCLDevice, "launch", watched)
    assert same(drawn(session, bundle), expected)
    assert 0 < max(most) - others <= cap + 2 * AROUND < 0.6 * total


def test_one_file(whole, tmp_path):
    bundle, expected = whole
    packed = open_bundle(pack_bundle(bundle, tmp_path / "demo.odpack"))
    session = Session(packed, choose_device())
    session.stream_weights(0)
    assert same(drawn(session, packed), expected)


@pytest.mark.sweep
@pytest.mark.parametrize("device", [OpenCLDevice, Copying])
@pytest.mark.parametrize("name", ["i8", "i4"])
def test_few_bits(made_once, name, device):
    demo = open_checkpoint(None, family="demo")
    path = made_once(f"demo {name}.ondevice", lambda path: compile_bundle(demo, path, Recipe(weights=name)))
    bundle = open_bundle(path)
    session = Session(bundle, device(choose_device().found))
    expected = drawn(session, bundle)
    session.stream_weights(1 << 20)
    assert same(drawn(session, bundle), expected)


@pytest.mark.parametrize("device", [OpenCLDevice, Copying])
def test_adapters_and_streamed_weights(whole, device, tmp_path):
    """Hot ones: what they change stays in memory of its own."""
    bundle, _ = whole
    path = tmp_path / "style.safetensors"
    write_safetensors(path, adapter(Source("demo").open().components, "peft", convolutions=True, seed=1, gain=0.1))
    found = []
    for through in (None, 0):
        session = Session(bundle, device(choose_device().found))
        session.stream_weights(through)
        pipe = pipeline.Pipeline.of(bundle, session)
        pipe.load_lora_weights(path)
        found.append(pipe(PROMPT, num_inference_steps=1, seed=1).latents)
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize("device", [OpenCLDevice, Copying])
def test_a_bundle_that_is_cut_while_it_draws(demo_bundle, device, tmp_path):
    copy = tmp_path / "demo.ondevice"
    shutil.copytree(demo_bundle, copy)
    bundle = open_bundle(copy)
    session = Session(bundle, device(choose_device().found))
    session.stream_weights(1 << 20)
    pipe = pipeline.Pipeline.of(bundle, session)
    shard = next(copy.glob("weights/unet-*.bin"))
    size = shard.stat().st_size

    def cut(pipe, step, timestep, values):
        os.truncate(shard, size // 2 // 4096 * 4096)

    with pytest.raises(BundleError, match=rf"weights/{shard.name}: was cut to \d+ bytes while it was drawn with"):
        pipe(PROMPT, num_inference_steps=3, seed=1, callback_on_step_end=cut)
    shutil.copy(Path(demo_bundle) / "weights" / shard.name, shard)
    again = open_bundle(copy)
    expected = drawn(Session(again, choose_device()), again)
    bundle.unmap(f"weights/{shard.name}")
    session.release_all()
    assert same(drawn(session, bundle), expected), "the session draws again once the file is whole"


def test_from_python_and_from_the_command_line(demo_bundle, whole, tmp_path):
    _, expected = whole
    pipe = Pipeline.from_bundle(demo_bundle, stream_weights="8MB")
    assert (pipe(PROMPT, num_inference_steps=2, seed=1).pixels == expected[1]).all()
    with pytest.raises(UsageError, match="stream_weights: 'much' is not an amount of memory"):
        Pipeline.from_bundle(demo_bundle, stream_weights="much")
    with pytest.raises(PlanError, match="a dispatch reads"):
        Pipeline.from_bundle(demo_bundle, stream_weights="1kB")(PROMPT, num_inference_steps=1)
    words = ["generate", str(demo_bundle), PROMPT, "--steps", "2", "--seed", "1", "--out"]
    said = StringIO()
    with redirect_stderr(said):
        assert cli.main([*words, str(tmp_path / "a.png")]) == 0
        assert cli.main([*words, str(tmp_path / "b.png"), "--stream-weights"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert said.getvalue().count("memory: at most ") == 1
    with redirect_stderr(said):
        assert cli.main([*words, str(tmp_path / "c.png"), "--stream-weights", "1kB"]) == 8
        assert cli.main([*words, str(tmp_path / "c.png"), "--stream-weights=1x"]) == 2
        limited = ["--stream-weights", "--max-memory", "1MB"]
        assert cli.main([*words, str(tmp_path / "c.png"), *limited]) == 8
    assert "weights through" in said.getvalue() and "streaming weights" in said.getvalue()
    assert np.asarray(expected[1]).shape == (64, 64, 3) and not (tmp_path / "c.png").exists()
