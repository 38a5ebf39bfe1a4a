"""Every network of the families beside Stable Diffusion 1.x,
against outputs that diffusers and transformers gave in float64."""

import numpy as np
import pytest
from recipe_weights import case, weights
from recipe_weights import weight as recipe_weight

from ondevice.converters.architectures import mmdit, t5
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
    ("sd3_text_encoder", "sd3", "text_encoder"): (
        ["input_ids"],
        {"hidden": "hidden_states.-2", "pooled": "text_embeds"},
    ),
    ("sd3_text_encoder_2", "sd3", "text_encoder_2"): (
        ["input_ids"],
        {"hidden": "hidden_states.-2", "pooled": "text_embeds"},
    ),
    ("sd3_vae", "sd3", "vae_decoder"): ({"latent_sample": "latent"}, {"sample": "sample"}),
    ("sd3_vae", "sd3", "vae_encoder"): ({"sample": "pixels"}, {"latent_parameters": "moments"}),
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


@pytest.mark.parametrize("tokens", [77, 256])
def test_t5_gives_what_the_reference_gave(tokens):
    raw, salt, arrays = case("t5_encoder")
    ids, expected = (
        (arrays["in.input_ids"], arrays["out.last_hidden_state"])
        if tokens == 77
        else (arrays["in.input_ids_256"], arrays["out.last_hidden_state_256.first16"])
    )
    given = raw | {t5.TOKENS: tokens}
    found = run(FAMILIES["sd3"], "text_encoder_3", given, salt, {"input_ids": ids})["last_hidden_state"]
    assert close(found[:, : expected.shape[1]], expected)


def test_t5_puts_distances_into_the_buckets_of_the_reference():
    raw, _, arrays = case("t5_encoder")
    config = FAMILIES["sd3"].normalize("text_encoder_3", raw, "test")
    np.testing.assert_array_equal(t5.buckets(config, np.arange(-200, 201)), arrays["out.buckets_of_minus200_to_200"])


def test_t5_is_held_smaller_and_gives_the_same(monkeypatch):
    raw, salt, arrays = case("t5_encoder")
    given = {"input_ids": arrays["in.input_ids"]}
    small = run(FAMILIES["sd3"], "text_encoder_3", raw | {t5.TOKENS: 77}, salt, given)["last_hidden_state"]
    monkeypatch.setattr(t5, "HELD", 1.0)
    plain = run(FAMILIES["sd3"], "text_encoder_3", raw | {t5.TOKENS: 77}, salt, given)["last_hidden_state"]
    np.testing.assert_allclose(small, plain, rtol=0, atol=1e-12)


def embedded(raw, salt, states):
    """The MM-DiT's context of joint states, float64."""
    wide, out = raw["joint_attention_dim"], raw["caption_projection_dim"]
    weight, bias = (
        recipe_weight(salt, f"context_embedder.{leaf}", shape).astype(np.float64)
        for leaf, shape in (("weight", (out, wide)), ("bias", (out,)))
    )
    return states @ weight.T + bias


def modulated(raw, salt, pooled, timestep, family="sd3"):
    """What modulates the blocks, by port."""
    texts = {"states": 1, "width": 1, "width_2": 2, "pooled": 5, "states_3": 1}
    widths = {"hidden": 1, "hidden_2": 2, "hidden_3": raw["joint_attention_dim"]}
    given = {name: np.zeros((len(pooled), 1, width), np.float32) for name, width in widths.items()}
    given |= {"pooled": pooled[:, :5], "pooled_2": pooled[:, 5:]}
    added = run(FAMILIES[family], "condition", raw, salt, given, **texts)["added"]
    return run(FAMILIES[family], "modulation", raw, salt, {"timestep": timestep, "added": added})


@pytest.mark.parametrize("name, family", [("sd3_transformer", "sd3"), ("sd35_transformer", "sd35-medium")])
def test_a_mmdit_takes_what_its_condition_and_its_modulation_give(name, family):
    raw, salt, arrays = case(name)
    rows = modulated(raw, salt, arrays["in.pooled_projections"], arrays["in.timestep"], family)
    context = embedded(raw, salt, arrays["in.encoder_hidden_states"])
    inputs = {"sample": arrays["in.sample"], "encoder_hidden_states": context, **rows}
    found = run(FAMILIES[family], "transformer", raw, salt, inputs, context=context.shape[1])
    assert close(found["out_sample"], arrays["out.sample"])


def test_positions_are_those_of_the_stored_table():
    raw, _, arrays = case("sd3_transformer")
    config = FAMILIES["sd3"].normalize("transformer", raw, "test")
    np.testing.assert_array_equal(mmdit.positions(config, 12, 12), arrays["out.pos_embed"])
    np.testing.assert_array_equal(mmdit.positions(config, 5, 10)[0], _cut(arrays, 5, 10))
    medium, full = FAMILIES["sd3"].config("transformer"), case("sd3_pos_embed_full")[2]
    at, values = full["in.at"], full["out.values"]
    table = mmdit.positions(medium, 192, 192)[0]
    np.testing.assert_array_equal(table[at[:, 0], at[:, 1]], values)


def _cut(arrays, rows, columns):
    table = arrays["out.pos_embed"].reshape(12, 12, -1)
    top, left = (12 - rows) // 2, (12 - columns) // 2
    return table[top : top + rows, left : left + columns].reshape(rows * columns, -1)


def test_one_row_of_zeros_stands_for_all_of_them():
    """Exact but for the order of sums, in float64."""
    raw, salt, arrays = case("sd35_transformer")
    rows = modulated(raw, salt, arrays["in.pooled_projections"], arrays["in.timestep"])
    states = arrays["in.encoder_hidden_states"]
    many, one = (np.concatenate([states, np.zeros((2, count, states.shape[2]))], 1) for count in (40, 1))
    found = []
    for context, more in ((many, {}), (one, {"zeros": 40})):
        inputs = {"sample": arrays["in.sample"], "encoder_hidden_states": embedded(raw, salt, context), **rows}
        sizes = {"batch": 2, "height": 12, "width": 20, "context": context.shape[1], **more}
        config = FAMILIES["sd3"].normalize("transformer", raw, "test")
        b = GraphBuilder("transformer", weights(FAMILIES["sd3"].parts["transformer"].architecture, config, salt))
        found.append(reference.run(mmdit.noise(b, config, **sizes), inputs)["out_sample"])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)
