"""Every network of the families beside Stable Diffusion 1.x,
against outputs that diffusers and transformers gave in float64."""

import numpy as np
import pytest
from recipe_weights import case, weights

from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.families import FAMILIES
from ondevice.graph import reference

BOUND = 5e-6  # of the largest value: sines and cosines, and the vectors themselves, are rounded to float32

# (case, family, role) -> {input of the graph: array of the case}, {output: array}
CASES = {
    ("sd2_text_encoder", "sd21", "text_encoder"): (["input_ids"], {"last_hidden_state": "last_hidden_state"}),
    ("sd2_unet", "sd21", "unet"): (["sample", "timestep", "encoder_hidden_states"], {"out_sample": "sample"}),
    ("sdxl_text_encoder", "sdxl", "text_encoder"): (["input_ids"], {"hidden": "hidden_states.-2"}),
    ("sdxl_text_encoder_2", "sdxl", "text_encoder_2"): (
        ["input_ids"],
        {"hidden": "hidden_states.-2", "pooled": "text_embeds"},
    ),
    ("sdxl_vae", "sdxl", "vae_decoder"): ({"latent_sample": "latent"}, {"sample": "sample"}),
    ("sd2_vae", "sd21", "vae_decoder"): ({"latent_sample": "latent"}, {"sample": "sample"}),
    ("sd2_vae", "sd21", "vae_encoder"): ({"sample": "pixels"}, {"latent_parameters": "moments"}),
}


def run(family, role, raw, salt, inputs, **sizes):
    """The role's outputs for a config, with the recipe's weights."""
    about, graph = family.roles[role], family.graph(role)
    network = family.parts[about.part].architecture
    config = family.normalize(about.part, raw, "test")
    sizes |= {"batch": max(len(array) for array in inputs.values()), "tokens": 77}
    picture = next((array.shape for array in inputs.values() if array.ndim == 4), None)
    if picture:
        scale = network.scale(config) if picture[1] == 3 else 1
        sizes |= {"height": picture[2] // scale, "width": picture[3] // scale}
    model = graph.build(
        GraphBuilder(role, weights(network, config, salt)), config, **{name: sizes[name] for name in graph.sizes}
    )
    return reference.run(model, inputs)


def close(found, expected):
    return np.abs(found - expected).max() <= BOUND * np.abs(expected).max()


@pytest.mark.parametrize("key", CASES, ids=lambda key: f"{key[0]}-{key[2]}")
def test_networks_give_what_the_reference_gave(key):
    (name, family, role), (inputs, outputs) = key, CASES[key]
    raw, salt, arrays = case(name)
    inputs = inputs if isinstance(inputs, dict) else {name: name for name in inputs}
    found = run(FAMILIES[family], role, raw, salt, {port: arrays[f"in.{array}"] for port, array in inputs.items()})
    assert set(found) == set(outputs)
    for port, array in outputs.items():
        expected = arrays[f"out.{array}"]
        assert found[port].shape == expected.shape
        assert close(found[port], expected), port


def test_sdxl_unet_takes_what_its_condition_gives():
    raw, salt, arrays = case("sdxl_unet")
    text, width = arrays["in.encoder_hidden_states"], 32
    given = {
        "hidden": text[..., :width],
        "hidden_2": text[..., width:],
        "pooled": arrays["in.text_embeds"],
        "time_ids": arrays["in.time_ids"],
    }
    outputs = run(FAMILIES["sdxl"], "condition", raw, salt, given, hidden=width, ids=6)
    np.testing.assert_array_equal(outputs["context"], text)
    inputs = {
        "sample": arrays["in.sample"],
        "timestep": arrays["in.timestep"],
        "encoder_hidden_states": text,
        "added": outputs["added"],
    }
    assert close(run(FAMILIES["sdxl"], "unet", raw, salt, inputs)["out_sample"], arrays["out.sample"])


def test_an_lcm_is_told_its_guidance():
    raw, salt, arrays = case("lcm_unet")
    given = {"guidance_scale": np.float32([[8.5]])}
    outputs = run(FAMILIES["lcm"], "guidance", raw, salt, given)
    inputs = {name: arrays[f"in.{name}"] for name in ("sample", "timestep", "encoder_hidden_states")} | outputs
    assert close(run(FAMILIES["lcm"], "unet", raw, salt, inputs)["out_sample"], arrays["out.sample"])


def test_the_refiner_takes_what_its_sizes_give():
    raw, salt, arrays = case("sdxl_refiner_unet")
    given = {"pooled": arrays["in.text_embeds"], "time_ids": arrays["in.time_ids"]}
    outputs = run(FAMILIES["sdxl-refiner"], "condition", raw, salt, given, ids=5)
    inputs = {name: arrays[f"in.{name}"] for name in ("sample", "timestep", "encoder_hidden_states")} | outputs
    assert close(run(FAMILIES["sdxl-refiner"], "unet", raw, salt, inputs)["out_sample"], arrays["out.sample"])


def test_the_end_of_a_text_is_found_by_its_id_where_the_config_names_it():
    raw, salt, arrays = case("sdxl_text_encoder_2")
    ids = arrays["in.input_ids"][:1].copy()
    ends = int(ids.argmax())
    given = {"input_ids": ids}
    by_largest = run(FAMILIES["sdxl"], "text_encoder_2", raw, salt, given)["pooled"]
    padded = ids.copy()
    padded[0, ends:] = 49407  # what comes after the first is not looked at
    again = run(FAMILIES["sdxl"], "text_encoder_2", raw, salt, {"input_ids": padded})["pooled"]
    np.testing.assert_allclose(again, by_largest, atol=1e-9)
    by_id = run(FAMILIES["sdxl"], "text_encoder_2", raw | {"eos_token_id": 49407}, salt, given)["pooled"]
    np.testing.assert_allclose(by_id, by_largest, atol=1e-9)
    other = run(FAMILIES["sdxl"], "text_encoder_2", raw | {"eos_token_id": int(ids[0, 1])}, salt, given)["pooled"]
    assert ends != 1 and np.abs(other - by_largest).max() > 0.1


@pytest.mark.parametrize("role", ["vae_decoder", "vae_encoder"])
def test_the_vae_is_held_smaller_and_draws_the_same(role):
    """In float64 nothing is rounded but the sums' order: a power of two changes no bit."""
    raw, salt, arrays = case("sdxl_vae")
    port, array = ("latent_sample", arrays["in.latent"]) if role == "vae_decoder" else ("sample", arrays["out.sample"])
    plain, small = (
        run(FAMILIES["sdxl"], role, raw | {"force_upcast": upcast, "norm_num_groups": 4}, salt, {port: array})
        for upcast in (False, True)
    )
    family = FAMILIES["sdxl"]
    network, config = family.parts["vae"].architecture, family.normalize("vae", raw, "test")
    graph = (
        family.graph(role)
        .build(GraphBuilder(role, weights(network, config, salt)), config, batch=1, height=4, width=4)
        .graph
    )
    half = role.removeprefix("vae_")
    assert {f"{half}.conv_in.weight:by0.015625", f"{half}.mid_block.attentions.0.to_out.0.weight.T:by0.015625"} <= set(
        graph.initializers
    )
    epsilons = {node.attributes["epsilon"].as_float() for node in graph if node.op_type == "InstanceNormalization"}
    assert sorted(epsilons) == pytest.approx([1e-6 * 2.0**-12, 1e-6])
    for name, expected in plain.items():
        np.testing.assert_allclose(small[name], expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_the_vae_in_bands_is_held_as_the_whole():
    """Stages of a whole picture each, one after the other."""
    family, (raw, salt, arrays) = FAMILIES["sdxl"], case("sdxl_vae")
    network = family.parts["vae"].architecture
    config, bands = family.normalize("vae", raw, "test"), family.graph("vae_decoder").bands
    values, stored = {"latent_sample": arrays["in.latent"]}, weights(network, config, salt)
    for stage in range(bands.count(config, 8, 12)):
        model = bands.build(GraphBuilder("vae_decoder", stored), config, height=8, width=12, stage=stage + 1, rows=16)
        values |= reference.run(model, {value.name: values[value.name] for value in model.graph.inputs})
    assert close(values["sample"].transpose(0, 3, 1, 2), arrays["out.sample"])
