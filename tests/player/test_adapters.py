"""Adapters that a bundle carries, in the C++ player: the goldens' bytes, Python's pictures, and switches of them."""

import functools
import json
from pathlib import Path

import pytest
from adapter_files import adapter
from bundle.test_golden import shares
from checkpoint_files import write_safetensors
from conftest import GOLDEN
from family_files import TINY
from player.opencl_environment import environment

from ondevice import cli
from ondevice.bundle.changed import ChangedWeights, changes_of
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.adapters import with_carried
from ondevice.converters.source import Source
from ondevice.diffusion.memory_budget import mb
from ondevice.run.opencl import choose_device

PROMPT = "a red circle on a blue background"
RECIPES = {"fp16": Recipe(), "int8": Recipe(weights="i8"), "int4": Recipe(weights="i4")}
SIZES = {"demo": (64, 64), "sdxl-turbo": (48, 32), "demo-sd3": (64, 64)}
USES = json.loads((GOLDEN / "bundle" / "expected_adapters.json").read_text())


@pytest.mark.parametrize("use", USES, ids=lambda use: " ".join(name for name, _ in use["adapters"]))
def test_changed_weights_are_the_goldens(tool, use):
    words = [f"{name}:{scale}" for name, scale in use["adapters"]]
    out = tool("check_adapters", GOLDEN / "bundle" / "adapters.ondevice", *words).stdout
    assert dict(line.split("\t") for line in out.splitlines()) == use["weights"]


def test_a_change_of_nothing_finds_the_scales_that_were_there(tool):
    """int4's exact units: whole multiples stay what they are, and all else is rounded as Python rounds it."""
    bundle = open_bundle(GOLDEN / "bundle" / "adapters.ondevice")
    changes = changes_of(bundle, bundle.manifest.adapters["first"])
    changed = ChangedWeights(bundle, {leaf: [(1e-30, change) for change in terms] for leaf, terms in changes.items()})
    out = tool("check_adapters", bundle.path, "first:1e-30").stdout
    assert dict(line.split("\t") for line in out.splitlines()) == {
        key: changed.values(key).tobytes().hex() for key in changed.keys - shares(bundle)
    }


def test_what_is_not_finite_is_refused_by_the_weight(tool):
    out = tool("check_adapters", GOLDEN / "bundle" / "adapters.ondevice", "first:1e37").stdout
    found = dict(line.split("\t") for line in out.splitlines())
    said = "13 {}: with its adapters it holds NaN, infinity, or what is too large for {}."
    assert found["tiny/fused"].startswith(said.format("tiny/fused", "f16"))
    assert "Fix: use another adapter, or a smaller scale." in found["tiny/fused"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """`bundles(family, storage)`: of a tiny model, with two adapters beside its weights."""
    folder = tmp_path_factory.mktemp("adapters")

    @functools.cache
    def bundle(family, storage):
        if family.startswith("demo"):
            source = Source(family).open()
        else:
            wide = {"sample_size": 64, "block_out_channels": [32, 64], "attention_head_dim": 4}
            configs = TINY["sdxl"] | {"unet": TINY["sdxl"]["unet"] | wide}
            source = random_checkpoint_from_configs(**configs, seed=2, family=family)
        given = []
        for seed, name in enumerate(("ink", "clay")):
            path = folder / f"{family}-{name}.safetensors"
            write_safetensors(path, adapter(source.components, "peft", convolutions=True, seed=seed, gain=0.1))
            given.append(f"{path}:{name}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compile, "rounding", lambda *_: None)  # which takes as long as all else
            made = with_carried(source, given)
            path = folder / f"{family}-{storage}.ondevice"
            return Path(compile_bundle(made, path, RECIPES[storage], sizes=[SIZES[family]]))

    return bundle


@functools.cache
def drawn(bundle, *flags):
    """What Python draws, as bytes."""
    path = bundle.with_suffix(".png")
    assert cli.main(["generate", str(bundle), PROMPT, "--steps", "2", *flags, "--out", str(path)]) == 0
    return path.read_bytes()


CASES = [("demo", "fp16"), ("demo", "int4"), ("sdxl-turbo", "fp16"), ("demo-sd3", "int8")]


@pytest.mark.device
@pytest.mark.sweep
@pytest.mark.parametrize("family, storage", CASES)
def test_the_same_bytes_as_python(tool, bundles, tmp_path, family, storage):
    bundle, ours = bundles(family, storage), tmp_path / "player.png"
    flags = ["--lora", "ink:0.7", "--lora", "clay:-0.4"]
    words = ["draw", bundle, PROMPT, "--steps", 2, *flags, "--device", choose_device().name]
    done = tool("od_player", *words, "--out", ours, env=environment())
    assert done.returncode == 0, done.stderr
    assert ours.read_bytes() == drawn(bundle, *flags)


@pytest.mark.device
@pytest.mark.parametrize("told", ["", pytest.param("0x1000=4", marks=pytest.mark.sweep)], ids=["mapped", "copied"])
def test_a_loaded_player_switches(tool, odd, bundles, tmp_path, told):
    """From one to another, to both, to none and back: where weights are the mapped file, and where they are copies."""
    bundle = bundles("demo", "int8")
    uses = ["", "ink:1", "clay:0.5,ink:-0.25", "clay:0.5", "", "ink:1"]
    words = [bundle, choose_device().found.index, PROMPT, 2, tmp_path, *uses]
    done = tool("check_switch", *words, env=environment(**odd(told)))
    assert done.returncode == 0, done.stderr
    held = [int(line) for line in done.stdout.splitlines()]
    pictures = [(tmp_path / f"{i}.png").read_bytes() for i in range(len(uses))]
    assert pictures[0] == pictures[4] and pictures[1] == pictures[5] and len({*pictures}) == 4
    for use, picture in zip(uses[:3], pictures, strict=False):
        flags = [word for one in use.split(",") if one for word in ("--lora", one)]
        assert picture == drawn(bundle, *flags)
    if told:
        assert len({*held}) == 1  # they are written where they are
    else:
        assert held[0] == held[4] < held[3] <= held[1] == held[5]


@pytest.mark.device
def test_a_memory_limit_counts_what_is_changed(tool, bundles, tmp_path):
    bundle = bundles("demo", "int8")
    words = ["draw", bundle, PROMPT, "--steps", 1, "--device", choose_device().name, "--out", tmp_path / "a.png"]
    plain, changed = (
        tool("od_player", *words, *more, "--verbose", "--json", env=environment()) for more in ((), ("--lora", "ink"))
    )
    facts = [json.loads(done.stdout)["device_bytes"] for done in (plain, changed)]
    own = facts[1] - facts[0]
    assert own > 1e5, mb(own)
    limit = f"{facts[0] + own // 2}B"
    done = tool("od_player", *words, "--lora", "ink", "--max-memory", limit, env=environment())
    assert done.returncode == 12 and done.stderr.startswith("error: memory: a picture needs at least "), done.stderr


@pytest.mark.device
def test_what_is_not_carried_is_refused(tool, bundles, tmp_path):
    bundle = bundles("demo", "int8")
    for given, said in (
        (
            "chalk",
            f"chalk: there is no adapter of that name in {bundle.name} (it carries ink, clay). Fix: name one of these.",
        ),
        ("ink:20000", "ink: 20000 is no scale (expected a number such as 0.8). Fix: use 1."),
        ("ink:x", '--lora: is "x". Fix: give a number such as 7.5.'),
    ):
        words = ["draw", bundle, PROMPT, "--lora", given, "--device", choose_device().name]
        done = tool("od_player", *words, "--out", tmp_path / "a.png", env=environment())
        assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    assert list(tmp_path.iterdir()) == []
    assert {*open_bundle(bundle).manifest.adapters} == {"ink", "clay"}
