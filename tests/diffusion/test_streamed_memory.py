"""What pictures need whose weights are streamed, by component and in all."""

from dataclasses import replace

import pytest
from diffusion.test_memory_budget import DEEP, PLACE, made_before, plain  # noqa: F401 (a fixture)

from ondevice import errors
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.diffusion import memory_budget, memory_table
from ondevice.diffusion.memory_way import Way
from ondevice.plan.arena import round_up
from ondevice.plan.blocks import Streaming, weights_read


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    checkpoint = random_checkpoint_from_configs(**DEEP, seed=3)
    path = tmp_path_factory.mktemp("memory") / "deep.ondevice"
    return open_bundle(compile_bundle(checkpoint, path, Recipe("f32", tile_vae=12), sizes=[(20, 36)]))


def test_what_each_component_takes(bundle):
    """With its weights whole and streamed, as the picture's need has it for all of them."""
    rows = {row.component: row for row in memory_table.components(bundle, memory_budget.latent_sizes(bundle))}
    given = ["image"] if "vae_encoder" in rows else []
    whole = memory_budget.need(bundle, *PLACE, Way(), given=given)
    way = memory_budget.streamed(bundle, *PLACE, Way(stream=Streaming(0, True)), given=given)
    streamed = memory_budget.need(bundle, *PLACE, way, given=given)
    assert max(row.whole.arena + row.whole.kept for row in rows.values()) == whole.arena
    assert sum(row.whole.weights for row in rows.values()) == whole.weights
    assert max(row.streamed.arena + row.streamed.kept for row in rows.values()) == streamed.arena
    assert max(row.streamed.weights for row in rows.values()) == streamed.weights
    assert max(row.streamed.at_most - row.streamed.pictures for row in rows.values()) == streamed.device
    assert [row.component for row in rows.values() if row.whole.pictures] == ["vae_decoder"]
    assert rows["vae_decoder"].whole.pictures == whole.host and rows["vae_decoder"].streamed.pictures == streamed.host
    unet = rows["unet"].whole
    assert unet.kept == made_before(bundle) and unet.at_most == unet.arena + unet.kept + unet.weights
    assert rows["unet"].to_json()["whole"]["at_most"] == unet.at_most
    most, through = memory_table.at_most([*rows.values()])
    assert unet.at_most < most <= whole.device + whole.host and through == max(
        row.streamed.at_most for row in rows.values()
    )
    lines = memory_table.components_to_text([*rows.values()])
    assert lines[1].startswith("each component in MB at 20x36") and lines[3].split()[0] == "text_encoder"
    assert lines[-1].startswith(f"  a picture: {most / 1e6:,.1f} MB, with --stream-weights {through / 1e6:,.1f}")
    assert memory_table.components_to_text([]) == memory_table.components(bundle, []) == []


def test_what_goes_with_streaming(bundle, plain):  # noqa: F811
    """Bands where a picture takes less so, and what was used is given back; what is asked for stays."""
    how = Streaming(0, True)
    for one in (bundle, plain):
        lowest = replace(Way(stream=how, unload=True), rows=12 if one is bundle else 0)
        whole = Way(stream=how, unload=True)
        totals = {way: memory_budget.need(one, *PLACE, way).total(mapped=True) for way in (whole, lowest)}
        assert memory_budget.streamed(one, *PLACE, Way(stream=how)) == min(totals, key=totals.get)
    assert memory_budget.streamed(bundle, *PLACE, Way(stream=how, fast=True)) == Way(stream=how, fast=True, unload=True)
    assert memory_budget.streamed(bundle, *PLACE, Way(stream=how, rows=12)).rows == 12
    for one in (bundle, plain):
        with pytest.raises(errors.PlanError, match="a dispatch reads"):
            memory_budget.streamed(one, *PLACE, Way(stream=Streaming(512, False)))


def test_streaming_is_the_last_saving_where_weights_are_copied(bundle):
    """In a window that all components take turns in; on a device that maps them it saves nothing that is counted."""
    start = Way(True, 12, True)
    whole = memory_budget.need(bundle, *PLACE, start)
    small = memory_budget.need(bundle, *PLACE, replace(start, stream=Streaming(0, False)))
    window = Streaming(max(least_window(bundle)), False)
    least = memory_budget.need(bundle, *PLACE, replace(start, stream=window))
    assert least.device < small.device <= whole.device + 512 * 100
    more = {"guided": True, "given": ()}
    limit = whole.total(mapped=False)
    assert memory_budget.fit(bundle, *PLACE, limit, mapped=False, start=start, **more).way == start
    chosen = memory_budget.fit(bundle, *PLACE, limit, mapped=False, start=replace(start, stream=window), **more)
    assert chosen.way.stream == window and "streaming weights" in chosen.way.text()
    with pytest.raises(errors.PlanError, match="a dispatch reads"):
        memory_budget.need(bundle, *PLACE, replace(start, stream=Streaming(512, False)))


def least_window(bundle):
    """The most that one dispatch of each plan reads."""
    for one in bundle.plans:
        reads = weights_read(bundle.plan(one.component, **one.sizes), False)
        yield max(sum(round_up(size) for size in read.values()) for read in reads)
