"""What a picture needs, from plans alone, and which savings are taken to fit."""

from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from diffusion.fake_networks import spec_of
from tiny_model import TINY

from ondevice import cli, errors
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.diffusion import memory_budget, memory_table
from ondevice.diffusion.bands import decode
from ondevice.diffusion.memory_budget import Need, Way
from ondevice.diffusion.request import Request
from ondevice.drawing import memory
from ondevice.plan.blocks import Streaming
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

# Three levels, so that one upsampler is kept and one is not, and of its resnets one has a shortcut.
DEEP = TINY | {
    "vae": TINY["vae"]
    | {
        "block_out_channels": [6, 12, 12],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    }
}
PLACE = (5, 9)  # width, height in latents


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    checkpoint = random_checkpoint_from_configs(**DEEP, seed=3)
    path = tmp_path_factory.mktemp("memory") / "deep.ondevice"
    return open_bundle(compile_bundle(checkpoint, path, Recipe("f32", tile_vae=12), sizes=[(20, 36)]))


def test_plans_for_longer_texts_are_counted(tmp_path):
    """The longest text's, whichever are drawn; and `--chunks` goes with weights alone."""
    checkpoint = random_checkpoint_from_configs(**DEEP, seed=3)
    path = compile_bundle(checkpoint, tmp_path / "long.ondevice", Recipe("f32", chunks=2), sizes=[(20, 36)])
    long = open_bundle(path)
    lengths = [entry.sizes["tokens"] for entry in long.plans if entry.component == "unet"]
    assert lengths == [7, 7, 14, 14] and memory_budget.default_size(long) == (20, 36)
    longest = max(entry.arena for entry in long.plans)
    assert memory_budget.need(long, *PLACE, Way()).arena == longest
    for chunks in (0, 9):
        with pytest.raises(errors.UsageError, match="--chunks: not a number of chunks"):
            compile_bundle(checkpoint, tmp_path / "x.ondevice", Recipe("f32", chunks=chunks), sizes=[(20, 36)])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    checkpoint = random_checkpoint_from_configs(**DEEP, seed=3)
    return open_bundle(
        compile_bundle(
            checkpoint, tmp_path_factory.mktemp("memory") / "plain.ondevice", Recipe("f32"), sizes=[(20, 36)]
        )
    )


@pytest.mark.device
def test_a_picture_in_bands_is_the_one_in_one_piece(bundle):
    session = Session(bundle, choose_device())
    latents = np.random.default_rng(0).normal(size=(1, 4, 9, 5)).astype(np.float32)
    latents[:, :, 4:] *= 3  # no two bands have the same statistics
    whole = session.run("vae_decoder", {"latent_sample": latents}, batch=1, height=9, width=5)["sample"]
    found = memory_budget.stages(bundle, *PLACE, 12)
    assert len(found) == 1 + 2 * (1 + 2 * 2) + 1 and all(stage.made[1] <= 12 for stage in found)
    cut = decode(session, found, latents)
    assert cut.shape == whole.shape
    np.testing.assert_allclose(cut, whole, rtol=0, atol=2e-5 * np.abs(whole).max())


def made_before(bundle):
    """Bytes of keys and values, float32, of both texts."""
    (plan,) = [bundle.plan(e.component, **e.sizes) for e in bundle.plans if e.component == "keys_values"]
    return 2 * sum(plan.operands[index].nbytes for index in plan.outputs)


def test_needs_by_hand(bundle):
    def arena(component, **sizes):
        return max(e.arena for e in bundle.plans if e.component == component and e.sizes.items() >= sizes.items())

    whole_decoder = {"batch": 1, "width": 5, "height": 9}
    whole = memory_budget.need(bundle, *PLACE, Way())
    pieces = [
        arena("text_encoder"),
        arena("unet", batch=2) + made_before(bundle),
        next(e.arena for e in bundle.plans if e.component == "vae_decoder" and e.sizes == whole_decoder),
    ]
    assert whole.arena == max(pieces) and whole.device == whole.arena + whole.weights
    shards = {name: entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith("weights/")}
    assert whole.weights == sum(shards.values()) - shards["weights/vae_encoder-000.bin"]
    cut = memory_budget.need(bundle, *PLACE, Way(rows=12))
    assert (
        cut.arena
        == max(arena("text_encoder"), arena("unet", batch=2) + made_before(bundle), arena("vae_decoder", rows=12))
        and cut.host > whole.host
    )
    less = memory_budget.need(bundle, *PLACE, Way(split=True, rows=12, unload=True))
    assert less.weights < cut.weights and less.device < cut.device
    assert memory_budget.need(bundle, *PLACE, Way(), given=["image"]).weights > whole.weights
    assert (
        whole.total(mapped=True) == whole.arena + whole.host and whole.total(mapped=False) == whole.device + whole.host
    )


SIDE = {"height": 8, "width": 8}


class Listed:
    """A bundle known by its plans' arenas alone. Its weights: text encoder 5 bytes, UNet 200, decoder 3, encoder 4."""

    pipeline, model = spec_of(scale=2), {}
    weights = {"text_encoder": 5, "unet": 200, "vae_decoder": 3, "vae_encoder": 4}

    def __init__(self, batches=(1, 2), rows=(), unet=50, decoder=300):
        sizes = [
            ("text_encoder", {"batch": 1}, 10),
            *(("unet", SIDE | {"batch": batch}, unet * batch) for batch in batches),
        ]
        sizes += [("vae_decoder", SIDE | {"batch": 1}, decoder), ("vae_encoder", SIDE | {"batch": 1}, 70)]
        sizes += [
            ("vae_decoder", SIDE | {"batch": 1, "rows": high, "stage": stage}, 20 * high + stage)
            for high in rows
            for stage in (1, 2)
        ]
        self.plans = [
            SimpleNamespace(component=component, sizes=place, arena=arena) for component, place, arena in sizes
        ]
        self.manifest = SimpleNamespace(
            files={name: SimpleNamespace(bytes=size) for name, size in self.weights.items()}
        )

    def plan(self, component, **sizes):
        (found,) = (entry for entry in self.plans if (entry.component, entry.sizes) == (component, sizes))
        return SimpleNamespace(
            component=component,
            arena=found.arena,
            inputs=(),
            operands=[
                SimpleNamespace(weight=component, nbytes=self.weights[component], view=None),
                SimpleNamespace(weight=None, view=None),
            ],
            dispatches=[SimpleNamespace(operands=(0, 1), reads=1000)],
        )

    def weight(self, key):
        return key, 0, self.weights[key]


def test_plans_that_run_at_every_size():
    """Their usual sizes are what they have by themselves."""
    free = Listed(batches=(2,))
    known = list(free.plans)
    assert not memory_budget.takes_any_size(free) and not memory_budget.has_plan(free, "vae_encoder", 5, 9)
    for plan in known:
        free.plans.append(SimpleNamespace(component=plan.component, sizes=dict.fromkeys(plan.sizes, 0), arena=0))
    assert memory_budget.takes_any_size(free) and memory_budget.default_size(free) == (16, 16)
    assert memory_budget.batches(free, 5, 9) == {1, 2} and memory_budget.latent_sizes(free) == [(8, 8)]
    assert memory_budget.encodes_pictures(free, 5, 9) and memory_budget.has_plans(free, 5, 9, at_once=True)


@pytest.mark.parametrize(
    "way, more, arena, weights, device",
    [
        (Way(), {}, 300, 208, 508),
        (Way(), {"given": ["image"]}, 300, 212, 512),
        (Way(unload=True), {}, 300, 200, 303),  # the decoder's arena and weights; before it the UNet's, 100 + 200
        (Way(split=True, unload=True), {}, 300, 200, 303),
        (Way(unload=True), {"unet": 150}, 300, 200, 500),  # the UNet's: not the largest arena and the largest weights
        (Way(split=True, unload=True), {"unet": 150}, 300, 200, 350),
        (Way(unload=True), {"unet": 150, "guided": False}, 300, 200, 350),
        (Way(), {"unet": 150, "decoder": 20, "guided": False}, 150, 208, 358),
        # guided in two passes, as it has no other
        (Way(), {"unet": 150, "decoder": 20, "batches": (1,)}, 150, 208, 358),
    ],
)
def test_the_most_at_once_by_hand(way, more, arena, weights, device):
    bundle = Listed(**{name: more.pop(name) for name in list(more) if name in ("unet", "decoder", "batches")})
    assert memory_budget.need(bundle, 8, 8, way, **more) == Need(way, arena, weights, device, host=3 * 4 * 16 * 16)


class WithFast(Listed):
    """The same with a fast decoder of 20 bytes and an arena of 30."""

    weights = Listed.weights | {"taesd_decoder": 20}

    def __init__(self, **more):
        super().__init__(**more)
        role = replace(self.pipeline.after[0], component="taesd_decoder")
        self.pipeline = replace(self.pipeline, fast=(role,))
        self.plans.append(SimpleNamespace(component="taesd_decoder", sizes=SIDE | {"batch": 1}, arena=30))


def test_a_fast_decoder_counts_where_it_runs():
    bundle, host = WithFast(), 3 * 4 * 16 * 16
    assert memory_budget.need(bundle, 8, 8, Way()) == Need(Way(), 300, 208, 508, host)
    fast, shown = Way(fast=True), Way(previews=True)
    assert memory_budget.need(bundle, 8, 8, fast) == Need(fast, 100, 225, 325, host)
    assert memory_budget.need(bundle, 8, 8, shown) == Need(shown, 300, 228, 528, host)
    assert [way.rows for way in memory_budget.ways(WithFast(rows=(2,)), 8, 8, start=fast)] == [
        0,
        0,
        0,
    ]  # it has no bands
    assert fast.text() == "by the fast decoder"
    rows = memory_table.table(bundle, [(8, 8)])
    assert [(way.fast, way.rows) for way in (need.way for _, need in rows)][-1] == (True, 0)
    with pytest.raises(errors.PlanError, match=r"Fix: use a smaller --size\.$"):
        memory_budget.fit(bundle, 8, 8, 100, mapped=False, guided=True, given=(), start=fast)


@pytest.mark.parametrize("rows", [(2, 4, 6), (6, 2, 4)])
def test_of_several_band_heights_the_lowest_saves_most(rows, monkeypatch):
    bundle = Listed(rows=rows)
    assert memory_budget.band_heights(bundle, 8, 8) == [6, 4, 2] and memory_budget.band_heights(bundle, 8, 4) == []
    assert [way.rows for way in memory_budget.ways(bundle, 8, 8)] == [0, 0, 2, 2]
    monkeypatch.setattr(memory_budget, "stages", lambda *place: [SimpleNamespace(sizes=place[0].plans[-2].sizes)])
    monkeypatch.setattr(memory_budget, "held_bytes", lambda stages: 1000)
    assert memory_budget.need(bundle, 8, 8, Way(rows=2)).host == 3 * 4 * 16 * 16 + 1000


@pytest.mark.parametrize(
    "batches, guided, start, splits",
    [
        ((1, 2), True, Way(), [False, True]),
        ((1, 2), True, Way(split=True), [True]),
        ((1, 2), False, Way(), [False]),
        ((2,), True, Way(), [False]),
    ],
)
def test_two_passes_are_a_saving_of_guidance_and_of_bundles_that_have_both(batches, guided, start, splits):
    assert [
        way.split for way in memory_budget.ways(Listed(batches), 8, 8, guided=guided, start=start) if not way.unload
    ] == splits
    assert len(memory_budget.ways(Listed(rows=(2, 4)), 8, 8, start=Way(True, 4, True))) == 1, "nothing is left to save"


def way_of(bundle, *, guidance=7.5, image=False, has=0, maps=False, **flags):
    args = Namespace(**{"tile_vae": None, "max_memory": None, "preview": None, "stream_weights": None} | flags)
    pixels = np.zeros((16, 16, 3), np.uint8) if image else None
    request = Request(prompt="x", width=16, height=16, guidance_scale=guidance, image=pixels)
    return memory.way_of(args, bundle, {"global_bytes": has, "maps_weights": maps, "name": "small"}, request)


@pytest.mark.parametrize(
    "batches, guidance, split", [((1,), 7.5, True), ((1,), 1.0, False), ((2,), 7.5, False), ((1, 2), 7.5, False)]
)
@pytest.mark.parametrize("flag, has", [("3kB", 0), (None, 3000), ("3kB", 10_000)])
def test_a_bundle_of_one_batch_is_held_to_the_memory_there_is(batches, guidance, split, flag, has, capsys, caplog):
    """3000 bytes: not even the picture's."""
    bundle = Listed(batches)
    with pytest.raises(errors.PlanError, match=r"memory: a picture needs at least .* 0\.0 MB are allowed"):
        way_of(bundle, guidance=guidance, has=has, max_memory=flag)
    assert bool(caplog.messages) is split
    assert way_of(bundle, guidance=guidance, has=3, max_memory="4kB") == Way(split)
    assert "memory: 0.0 MB of 0.0 MB" in capsys.readouterr().err


def test_a_picture_without_guidance_needs_the_unet_at_batch_1():
    with pytest.raises(
        errors.UsageError, match=r"--guidance: a picture without guidance needs the unet at batch 1, .* batch 2 only"
    ):
        way_of(Listed((2,)), guidance=1.0)


def test_what_was_asked_for_stays_where_memory_is_short(monkeypatch, caplog):
    """The picture takes 3072 bytes, the UNet 100 (in two passes 50) and weights of 200,
    the decoder 300 (in bands of 4 rows 82)."""
    stage = SIDE | {"batch": 1, "stage": 2}
    monkeypatch.setattr(
        memory_budget, "stages", lambda bundle, width, height, rows: [SimpleNamespace(sizes=stage | {"rows": rows})]
    )
    monkeypatch.setattr(memory_budget, "held_bytes", lambda stages: 0)
    listed = Listed(rows=(2, 4))
    assert way_of(listed, has=9000, tile_vae=4) == Way(rows=4) and way_of(listed, has=9000, tile_vae=0) == Way(rows=2)
    assert way_of(listed, has=3072 + 508) == Way() and way_of(listed, has=3072 + 507) == Way(rows=2)
    assert way_of(listed, has=3072 + 307) == Way(True, 2)
    assert way_of(listed, has=3072 + 325, tile_vae=4) == Way(rows=4) and way_of(
        listed, has=3072 + 300, tile_vae=4
    ) == Way(True, 4)
    assert (
        way_of(listed, has=3072 + 250) == Way(True, 2, True)
        and "small has 0.0 MB: guidance in two passes, decod" in caplog.text
    )
    assert way_of(listed, has=3072 + 300, maps=True) == Way(), "weights that are mapped are not counted"
    assert way_of(listed, has=3072 + 300, max_memory="1MB") == Way(), "the flag wins"
    heavy = Listed(rows=(1,), decoder=30, unet=10)
    assert way_of(heavy, has=3072 + 220) == Way(unload=True), "giving weights back is enough"
    assert way_of(heavy, has=3072 + 210) == Way(split=True, unload=True), "and bands of no use"
    small = Listed(decoder=20, unet=10)
    assert way_of(small, has=3072 + 69, maps=True) == Way()
    assert way_of(small, has=3072 + 70, maps=True, image=True) == Way()
    with pytest.raises(errors.PlanError, match="convert with --tile-vae"):
        way_of(small, has=3072 + 69, maps=True, image=True)


def test_savings_are_taken_in_order_and_only_where_they_help(bundle):
    def fit(limit, mapped=False):
        return memory_budget.fit(bundle, *PLACE, limit, mapped=mapped, guided=True, given=(), start=Way()).way

    needs = {
        way: memory_budget.need(bundle, *PLACE, way).total(mapped=False) for way in memory_budget.ways(bundle, *PLACE)
    }
    assert list(needs) == [Way(), Way(True), Way(True, 12), Way(True, 12, True)]
    assert fit(needs[Way()]) == Way()
    least = min(needs.values())
    assert fit(least).unload
    for limit in range(least, needs[Way()] + 4096, 4096):
        assert memory_budget.need(bundle, *PLACE, fit(limit)).total(mapped=False) <= limit
    with pytest.raises(
        errors.PlanError,
        match=r"memory: a picture needs at least .* giving weights back after use\), and 0.0 MB are allowed",
    ) as caught:
        fit(1000)
    assert caught.value.exit_code == 8


def test_without_bands_the_error_says_how_to_get_them(plain):
    with pytest.raises(errors.PlanError, match="convert with --tile-vae"):
        memory_budget.fit(plain, *PLACE, 1000, mapped=True, guided=True, given=(), start=Way())
    with pytest.raises(errors.UsageError) as caught:
        memory_budget.stages(plain, *PLACE, 0)
    assert str(caught.value) == (
        "--tile-vae: the bundle has no plans that decode 20x36 in bands (it has none). Fix: "
        "convert with `--tile-vae --size 20x36`."
    )


def test_other_bands_are_named(bundle):
    with pytest.raises(
        errors.UsageError,
        match=r"in bands of 99 rows \(it has bands of 12 rows\)\. Fix: use one of these, or convert with",
    ):
        memory_budget.stages(bundle, *PLACE, 99)


def test_a_table_of_every_way(bundle, plain):
    lines = memory_table.to_text(memory_table.table(bundle, memory_budget.latent_sizes(bundle)))
    ways = memory_budget.ways(bundle, *PLACE)
    ways.append(memory_budget.streamed(bundle, *PLACE, Way(stream=Streaming(0, True))))
    for line, way in zip(lines[3:], ways, strict=True):
        assert line.startswith(f"  20x36    {way.text()}  ")
    assert len(memory_table.to_text(memory_table.table(plain, memory_budget.latent_sizes(plain, (20, 36))))) == 3 + 4
    assert memory_table.to_text(memory_table.table(plain, memory_budget.latent_sizes(plain, (8, 8)))) == []


def test_only_sizes_that_can_be_decoded_are_listed():
    bundle = Listed()
    assert memory_budget.latent_sizes(bundle) == [(8, 8)]
    bundle.plans.append(SimpleNamespace(component="unet", sizes={"batch": 1, "height": 8, "width": 16}, arena=1))
    assert memory_budget.latent_sizes(bundle) == [(8, 8)]


def test_show_prints_it(bundle, capsys):
    assert cli.main(["show", str(bundle.path), "--after", "plan"]) == 0
    said = capsys.readouterr().out
    assert "guidance in two passes, decoding in bands of 12 rows, giving weights back after use" in said
    assert said.endswith(
        "numbers that a picture is drawn with: guidance_scale 7.5, guidance_rescale 0.0, strength 0.8\n"
        "pictures that it takes: image (or none), mask (or none)\n"
    )


@pytest.mark.parametrize(
    "text, value", [("2GB", 2_000_000_000), ("1.5 GiB", 1_610_612_736), ("800mb", 800_000_000), ("4096", 4096)]
)
def test_amounts(text, value):
    assert memory_budget.parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "much", "2 cows", "-1GB", "0", "1e9"])
def test_amounts_that_are_refused(text):
    with pytest.raises(errors.UsageError, match="is not an amount of memory"):
        memory_budget.parse_bytes(text)


def test_a_need_counts_mapped_weights_as_the_systems():
    assert Need(Way(), 10, 100, 110, 5).total(mapped=True) == 15
    assert Need(Way(), 10, 100, 110, 5).total(mapped=False) == 115
