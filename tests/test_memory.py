"""What a picture needs, from plans alone, and which savings are taken to fit."""

import numpy as np
import pytest
from tiny_model import TINY

from ondevice import cli, errors, memory
from ondevice.bundle import open_bundle
from ondevice.compiler import compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.diffusion.bands import decode
from ondevice.memory import Need, Way
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
    return open_bundle(compile_bundle(checkpoint, path, sizes=[(20, 36)], dtype="f32", tile_vae=12))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    checkpoint = random_checkpoint_from_configs(**DEEP, seed=3)
    return open_bundle(compile_bundle(checkpoint, tmp_path_factory.mktemp("memory") / "plain.ondevice", sizes=[(20, 36)], dtype="f32"))


@pytest.mark.device
def test_a_picture_in_bands_is_the_one_in_one_piece(bundle):
    session = Session(bundle, choose_device())
    latents = np.random.default_rng(0).normal(size=(1, 4, 9, 5)).astype(np.float32)
    latents[:, :, 4:] *= 3  # no two bands have the same statistics
    whole = session.run("vae_decoder", {"latent_sample": latents}, batch=1, height=9, width=5)["sample"]
    found = memory.stages(bundle, *PLACE, 12)
    assert len(found) == 1 + 2 * (1 + 2 * 2) + 1 and all(stage.made[1] <= 12 for stage in found)
    cut = decode(session, found, latents)
    assert cut.shape == whole.shape
    np.testing.assert_allclose(cut, whole, rtol=0, atol=2e-5 * np.abs(whole).max())


def test_needs_by_hand(bundle):
    def arena(component, **sizes):
        return max(e.arena for e in bundle.plans if e.component == component and e.sizes.items() >= sizes.items())

    whole = memory.need(bundle, *PLACE, Way())
    pieces = [arena("text_encoder"), arena("unet", batch=2), memory.entry_of(bundle, "vae_decoder", batch=1, width=5, height=9).arena]
    assert whole.arena == max(pieces) and whole.device == whole.arena + whole.weights
    shards = {name: entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith("weights/")}
    assert whole.weights == sum(shards.values()) - shards["weights/vae_encoder-000.bin"]
    cut = memory.need(bundle, *PLACE, Way(rows=12))
    assert cut.arena == max(arena("text_encoder"), arena("unet", batch=2), arena("vae_decoder", rows=12)) and cut.host > whole.host
    less = memory.need(bundle, *PLACE, Way(split=True, rows=12, unload=True))
    assert less.weights < cut.weights and less.device < cut.device
    assert memory.need(bundle, *PLACE, Way(), image=True).weights > whole.weights
    assert whole.total(mapped=True) == whole.arena + whole.host and whole.total(mapped=False) == whole.device + whole.host


def test_savings_are_taken_in_order_and_only_where_they_help(bundle):
    def fit(limit, mapped=False):
        return memory.fit(bundle, *PLACE, limit, mapped=mapped, guided=True, image=False, start=Way()).way

    needs = {way: memory.need(bundle, *PLACE, way).total(mapped=False) for way in memory.ways(bundle, *PLACE)}
    assert list(needs) == [Way(), Way(True), Way(True, 12), Way(True, 12, True)]
    assert fit(needs[Way()]) == Way()
    least = min(needs.values())
    assert fit(least).unload
    for limit in range(least, needs[Way()] + 4096, 4096):
        assert memory.need(bundle, *PLACE, fit(limit)).total(mapped=False) <= limit
    with pytest.raises(
        errors.PlanError, match=r"memory: a picture needs at least .* giving weights back after use\), and 0.0 MB are allowed"
    ) as caught:
        fit(1000)
    assert caught.value.exit_code == 8


def test_without_bands_the_error_says_how_to_get_them(plain):
    with pytest.raises(errors.PlanError, match="convert with --tile-vae"):
        memory.fit(plain, *PLACE, 1000, mapped=True, guided=True, image=False, start=Way())
    with pytest.raises(errors.UsageError) as caught:
        memory.stages(plain, *PLACE, 0)
    assert str(caught.value) == (
        "--tile-vae: the bundle has no plans that decode 20x36 in bands (it has none). Fix: convert with `--tile-vae --size 20x36`."
    )


def test_other_bands_are_named(bundle):
    with pytest.raises(
        errors.UsageError, match=r"in bands of 99 rows \(it has bands of 12 rows\)\. Fix: use one of these, or convert with"
    ):
        memory.stages(bundle, *PLACE, 99)


def test_a_table_of_every_way(bundle, plain):
    lines = memory.to_text(memory.table(bundle, memory.latent_sizes(bundle)))
    for line, way in zip(lines[3:], memory.ways(bundle, *PLACE), strict=True):
        assert line.startswith(f"  20x36    {way.text()}  ")
    assert len(memory.to_text(memory.table(plain, memory.latent_sizes(plain, (20, 36))))) == 3 + 3
    assert memory.to_text(memory.table(plain, memory.latent_sizes(plain, (8, 8)))) == []


def test_show_prints_it(bundle, capsys):
    assert cli.main(["show", str(bundle.path), "--after", "plan"]) == 0
    assert "guidance in two passes, decoding in bands of 12 rows, giving weights back after use" in capsys.readouterr().out


@pytest.mark.parametrize("text, value", [("2GB", 2_000_000_000), ("1.5 GiB", 1_610_612_736), ("800mb", 800_000_000), ("4096", 4096)])
def test_amounts(text, value):
    assert memory.parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "much", "2 cows", "-1GB", "0", "1e9"])
def test_amounts_that_are_refused(text):
    with pytest.raises(errors.UsageError, match="is not an amount of memory"):
        memory.parse_bytes(text)


def test_a_need_counts_mapped_weights_as_the_systems():
    assert Need(Way(), 10, 100, 110, 5).total(mapped=True) == 15
    assert Need(Way(), 10, 100, 110, 5).total(mapped=False) == 115
