"""What pictures need whose weights are streamed, by component and in all."""

from dataclasses import replace

import pytest
from diffusion.test_memory_budget import DEEP, PLACE, made_before

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
    streamed = memory_budget.need(bundle, *PLACE, Way(stream=Streaming(0, True)), given=given)
    assert max(row.arena + row.kept for row in rows.values()) == whole.arena == streamed.arena
    assert sum(row.weights for row in rows.values()) == whole.weights
    assert max(row.streamed for row in rows.values()) == streamed.weights
    assert streamed.total(mapped=True) == streamed.arena + streamed.weights + streamed.host
    unet = rows["unet"]
    assert unet.kept == made_before(bundle) and unet.whole == unet.arena + unet.kept + unet.weights
    assert unet.at_most == unet.whole - unet.weights + unet.streamed and unet.to_json()["at_most"] == unet.at_most
    lines = memory_table.components_to_text([*rows.values()])
    assert lines[1].startswith("each component in MB at 20x36") and lines[3].split()[0] == "text_encoder"
    assert memory_table.components_to_text([]) == memory_table.components(bundle, []) == []


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
