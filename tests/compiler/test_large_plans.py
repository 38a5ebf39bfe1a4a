"""Plans that need larger buffers than a target's devices have: left out, or in bands, with the reason; or refused."""

from dataclasses import replace

import numpy as np
import pytest
from diffusion.test_memory_budget import DEEP
from family_files import TINY_VIDEO

from ondevice.api import Pipeline
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle, planning
from ondevice.compiler.jobs import Job
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.tiny_files import with_random_taesd
from ondevice.diffusion import memory_budget
from ondevice.errors import PlanError, StrictError
from ondevice.target import Limits, load_target

LARGEST = 40_000  # bytes: between the decoder's arena in bands, at most 24,064, and those of what is left out


def compiled(path, allocation, **options):
    target = replace(load_target("gpu"), name="small", limits=Limits(allocation=allocation))
    checkpoint, tile_vae = random_checkpoint_from_configs(**DEEP, seed=3), options.pop("tile_vae", 0)
    return compile_bundle(
        checkpoint, path, Recipe("f32", target=target, tile_vae=tile_vae), sizes=[(20, 36)], **options
    )


@pytest.fixture(scope="module", params=[12, 0], ids=["asked for in bands", "not asked"])
def small(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "BAND", 12)
        return open_bundle(compiled(tmp_path_factory.mktemp("small") / "b", LARGEST, tile_vae=request.param))


def test_every_buffer_is_within_the_limit(small):
    assert max(entry.arena for entry in small.plans) <= LARGEST
    assert max(entry.bytes for name, entry in small.manifest.files.items() if name.startswith("weights/")) <= LARGEST
    kept = [(entry.component, entry.sizes["batch"]) for entry in small.plans if "stage" not in entry.sizes]
    assert kept == [("text_encoder", 1), ("keys_values", 1), ("unet", 1)]
    assert [entry.sizes["stage"] for entry in small.plans if "stage" in entry.sizes] == list(range(1, 13))
    assert small.pipeline.latents.begin is None, "no plans encode a picture"


def test_memory_is_planned_in_bands(small):
    need = memory_budget.need(small, 5, 9, memory_budget.Way())
    assert need.way == memory_budget.Way(rows=12) and need.arena <= LARGEST
    assert memory_budget.latent_sizes(small) == [(5, 9)] and memory_budget.has_plans(small, 5, 9, at_once=False)
    assert {way.rows for way in memory_budget.ways(small, 5, 9)} == {12}, "there is no other way"


def test_a_fast_decoder_that_is_too_large_is_left_out(tmp_path, caplog):
    target = replace(load_target("gpu"), name="small", limits=Limits(allocation=LARGEST))
    checkpoint = with_random_taesd(random_checkpoint_from_configs(**DEEP, seed=3), 4)
    path = compile_bundle(checkpoint, tmp_path / "b", Recipe("f32", target=target, tile_vae=12), sizes=[(20, 36)])
    assert open_bundle(path).pipeline.fast == ()
    assert "left out, so the bundle has no fast decoder (--taesd) at this size" in caplog.text


@pytest.mark.device
@pytest.mark.sweep
def test_the_picture_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "BAND", 24)
    pictures = []
    for allocation in (None, 700_000):
        target = replace(load_target("gpu"), limits=Limits(allocation=allocation))
        path = tmp_path / str(allocation)
        compile_bundle(open_checkpoint(None, family="demo"), path, Recipe("f32", target=target), sizes=[(64, 48)])
        whole = memory_budget.has_plan(open_bundle(path), "vae_decoder", height=6, width=8)
        assert whole == (allocation is None)
        drawn = Pipeline.from_bundle(path)("a red circle", num_inference_steps=2, seed=5).images[0]
        pictures.append(np.asarray(drawn, np.int64))
    assert np.abs(pictures[1] - pictures[0]).max() <= 1 and pictures[0].std() > 1


def test_what_is_left_out_is_said(tmp_path, caplog):
    with pytest.raises(StrictError):
        compiled(tmp_path / "b", LARGEST, tile_vae=12, strict=True)
    large = "its arena of 0.1 MB is over the 0.0 MB of a buffer of small; left out, so the bundle has"
    for component, without in (
        ("unet", "guidance in two passes, which is slower"),
        ("vae_decoder", "pictures decoded in bands only, which is slower"),
        ("vae_encoder", "no --init-image at this size"),
    ):
        assert f"{component}: {large} {without}" in caplog.messages


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        (
            20_000,
            r"unet: its arena of 0\.0 MB is over the 0\.0 MB of a buffer of small\. Fix: use a smaller --size, or an",
        ),
        (3_000, r"text_encoder: its arena"),
    ],
)
def test_no_picture_could_be_drawn_without_it(tmp_path, allocation, message):
    with pytest.raises(PlanError, match=message):
        compiled(tmp_path / "b", allocation, tile_vae=12)


def test_a_target_of_a_set_that_the_model_is_too_large_for(tmp_path, caplog):
    large, small = (replace(load_target("gpu"), name=str(n), limits=Limits(allocation=n)) for n in (100_000, 20_000))
    checkpoint = random_checkpoint_from_configs(**DEEP, seed=3)
    for first, others in ((large, [small]), (small, [large])):
        recipe = Recipe("f32", target=first, others=others, set_name="phones")
        bundle = open_bundle(compile_bundle(checkpoint, tmp_path / first.name, recipe, sizes=[(20, 36)]), verify=True)
        assert [target.name for target in bundle.manifest.targets] == ["100000"]
        assert "buffer of 20000. phones has no plans for it" in caplog.text
        caplog.clear()
    with pytest.raises(PlanError, match=r"unet: its arena of 0\.0 MB is over"):
        recipe = Recipe("f32", target=small, others=[replace(small, name="another")], set_name="phones")
        compile_bundle(checkpoint, tmp_path / "none", recipe, sizes=[(20, 36)])


@pytest.mark.parametrize(
    ("allocations", "fix"),
    [
        ([1_600_000], "use --decode-chunk 4, or a smaller --size."),
        ([1_100_000, 800_000, 900_000], "use --decode-chunk 2, or a smaller --size."),
        ([390_000], "use a smaller --size, or another --target."),
    ],
)
def test_a_decoder_of_films_says_how_many_frames_at_once_would_fit(allocations, fix):
    """One of 5 frames has an arena of 1.97 MB here, and each has a fifth of it. Of several targets, the one with the
    largest buffers is what is said."""
    model = build(random_checkpoint_from_configs(**TINY_VIDEO, family="svd", seed=1))
    first, *others = (replace(load_target("gpu"), name=f"of{n}", limits=Limits(allocation=n)) for n in allocations)
    recipe = Recipe("f32", target=first, others=others, set_name="phones" if others else "")
    decoder = Job("vae_decoder", {"batch": 1, "height": 12, "width": 16, "frames": 5})
    with pytest.raises(PlanError) as caught:
        planning.planned_each(model, recipe, [decoder], [], lambda: None)
    large = f"its arena of 2.0 MB is over the {max(allocations) / 1e6:.1f} MB of a buffer of of{max(allocations)}."
    assert str(caught.value).endswith(f": vae_decoder: {large} Fix: {fix}")


def test_a_weight_that_is_too_large(tmp_path):
    plan = open_bundle(compiled(tmp_path / "b", None)).plan("unet", batch=1, height=9, width=5)
    largest = max(operand.nbytes for operand in plan.operands if operand.weight)
    assert planning.too_large(replace(plan, arena=0), Limits(allocation=largest)) is None
    assert "its weight unet/" in planning.too_large(replace(plan, arena=0), Limits(allocation=largest - 1))
