"""What a bundle says of how its weights come from the checkpoint's: evaluated, it gives the stored bytes."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoint_files import TINY_TEXT, TINY_UNET, TINY_VAE
from family_files import TINY

from ondevice.bundle.format import Checker
from ondevice.bundle.in_memory import weight_sources
from ondevice.bundle.made_file import adaptable, check_stored, dump_made, key_of, parse_any
from ondevice.bundle.weights import stored
from ondevice.compiler import Recipe
from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.adapter_names import modules_of
from ondevice.graph.adapted import leaves
from ondevice.lower import pack
from ondevice.lower.stored import OPS, leaves_of, number_step, ops_of, values_of
from ondevice.target import load_target

CONFIGS = {"sd15": {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae": TINY_VAE}, "sdxl": TINY["sdxl"]}


@functools.cache
def checkpoint(family, ranks=1):
    """Of a network that so many devices can share, where it is for several."""
    configs = CONFIGS[family]
    heads = configs["unet"]["attention_head_dim"] if ranks == 1 else ranks
    configs = configs | {"unet": configs["unet"] | {"attention_head_dim": heads}}
    return random_checkpoint_from_configs(**configs, seed=5, family=family)


@functools.cache
def weights_of(family, dtype, weights, target, ranks=1, without=()):
    """The stored weights of the UNet, for one pass and two of two sizes, and of the text encoders."""
    model = build(checkpoint(family, ranks), ranks=ranks)
    roles = [role for role in model.roles if model.family.roles[role].part != "vae"]
    sizes = [{"batch": 2, "height": 8, "width": 16}, {"batch": 1, "height": 16, "width": 8}]
    todo = [Job(role, one) for role in roles for one in (sizes if model.sized(role) else [{"batch": 1}])]
    on = load_target(target)  # with Winograd's method wherever it can be had: the real ones want more channels
    on = replace(on, winograd={key: 1 if key.startswith("min_") else value for key, value in on.winograd.items()})
    on = replace(on, winograd={**on.winograd, "stored": 1}) if target == "host" else on
    recipe = Recipe(dtype, weights=weights, target=on, without=without)
    found = {}
    for compiled in programs(model, recipe, todo):
        found |= weight_sources(compiled.program)
    return found


CASES = [
    ("sd15", "f16", "i4", "host"),
    ("sd15", "f32", "", "apple_a16"),
    ("sdxl", "f16", "", "host"),
    ("sdxl", "f16", "i8", "gpu"),
    ("sdxl", "f16", "", "adreno_740"),
    ("sd15", "f16", "i8", "host", 2),  # with the shares of two devices
]
OTHERS = [
    (family, dtype, weights, target)
    for family in CONFIGS
    for dtype, weights in (("f16", ""), ("f32", ""), ("f16", "i8"), ("f16", "i4"))
    for target in ("host", "gpu", "adreno_740", "apple_a16")
    if (family, dtype, weights, target) not in CASES
]


@pytest.mark.parametrize(
    "family, dtype, weights, target, ranks",
    [*((*case, 1)[:5] for case in CASES), *(pytest.param(*one, 1, marks=pytest.mark.phones) for one in OTHERS)],
)
def test_every_stored_weight_is_what_it_is_said_to_be_made_of(monkeypatch, family, dtype, weights, target, ranks):
    """Every matrix and kernel of the UNet and the text encoders: fused, in panels, transformed, in few bits."""
    monkeypatch.setattr(pack, "pays", lambda k, n: k >= 8 and n >= 4)  # the real ones are larger
    source, found = checkpoint(family, ranks), weights_of(family, dtype, weights, target, ranks)
    known = modules_of(source)
    made = adaptable(known, {key: one.made for key, one in found.items()})
    parts = {
        f"{part}/{name}": tensor for part, one in source.components.items() for name, tensor in one.weights.items()
    }
    for key, expression in made.items():
        values = values_of(expression, lambda leaf: parts[leaf.weight].numpy().astype(np.float32))
        bits = values.astype({"f16": np.float16, "f32": np.float32}.get(found[key].dtype, values.dtype)).tobytes()
        assert bits == b"".join(map(bytes, stored(key, found[key]))), key
        said = json.loads(json.dumps(dump_made(expression)))
        assert parse_any(Checker("bundle.json"), {key_of(expression): said}, ()) == expression
        check_stored(Checker("bundle.json"), expression, found[key].dtype, found[key].shape, ("made",))
    used = {leaf.weight for expression in made.values() for leaf in leaves_of(expression)}
    last = {"sd15": (), "sdxl": ("text_encoder/text_model.encoder.layers.1.", "text_encoder/text_model.final")}[family]
    unused = {name for name, _ in leaves(known) if name not in used}
    assert all(name.startswith(last) for name in unused) if last else not unused
    rest = {key for key, one in found.items() if one.made is None}
    assert all(any(word in key for word in ("full.", "zeros.", "mask", "rank_of", "frequencies")) for key in rest), rest
    assert any(number_step(one) for one in made.values()) == bool(weights)


def test_every_way_to_store_a_weight_is_met(monkeypatch):
    """So that the test before leaves none out."""
    monkeypatch.setattr(pack, "pays", lambda k, n: k >= 8 and n >= 4)
    made = [one.made for case in CASES for one in weights_of(*case).values() if one.made is not None]
    rare = {"scale", "pad"}  # of decoders, and of weights that are narrower than a kernel's vectors
    assert {op for one in made for op in ops_of(one)} >= {"concat", *OPS} - rare


def test_weights_of_graphs_without_fusions_are_known_too():
    found = weights_of("sd15", "f32", "", "host", without=("all",))
    made = adaptable(modules_of(checkpoint("sd15")), {key: one.made for key, one in found.items()})
    assert len({leaf.weight for one in made.values() for leaf in leaves_of(one)}) > 100
