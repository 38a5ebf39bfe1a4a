"""The networks of Stable Video Diffusion: outputs that diffusers and transformers gave in float64, published names and
shapes, names in single files, and what is exact about frames, chunks and single tokens."""

import gzip
import math

import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import DATA
from recipe_weights import case, uniform, weights
from recipe_weights import weight as recipe_weight

from ondevice.converters.architectures import autoencoder_kl_temporal, clip_vision, unet_temporal, unet_temporal_names
from ondevice.converters.architectures.autoencoder_kl_temporal import AUTOENCODER_KL_TEMPORAL as VAE
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.clip_vision import CLIP_VISION
from ondevice.converters.architectures.unet_temporal import UNET_TEMPORAL
from ondevice.converters.architectures.unet_temporal_blocks import frame_codes
from ondevice.errors import CheckpointError
from ondevice.graph import reference

BOUND = 5e-6  # of the largest value, as of the other families
FULL = {
    "image_encoder": (CLIP_VISION, clip_vision.OPENCLIP),
    "unet": (UNET_TEMPORAL, unet_temporal_names.SGM),
    "vae": (VAE, autoencoder_kl_temporal.SGM),
}
CONFIGS = {
    "image_encoder": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "patch_size": 14}
    | {"num_attention_heads": 16, "projection_dim": 1024, "hidden_act": "gelu", "image_size": 224},
    "unet": {"_class_name": "UNetSpatioTemporalConditionModel"},
    "vae": {"_class_name": "AutoencoderKLTemporalDecoder", "block_out_channels": [128, 256, 512, 512]}
    | {"layers_per_block": 2, "down_block_types": ["DownEncoderBlock2D"] * 4},
}


def graph(network, name, raw, salt, changes=None, **sizes):
    """A graph with the recipe's weights, of which `changes` are others."""
    config = network.normalize(raw, "test")
    held = weights(network, config, salt) | (changes or {})
    return network.graphs[name].build(GraphBuilder(name, held), config, **sizes)


def close(found, expected, bound=BOUND):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() <= bound * np.abs(expected).max()


def test_the_image_encoder_gives_what_the_reference_gave():
    raw, salt, arrays = case("svd_image_encoder")
    pixels = np.float32(2 * math.sqrt(3)) * uniform("svd/in", "pixel_values", (1, 3, 224, 224))
    model = graph(CLIP_VISION, "embeds", raw, salt, batch=1)
    found = reference.run(model, {"pixel_values": pixels})["image_embeds"]
    assert close(found[:, 0], arrays["out.image_embeds"])
    model = graph(CLIP_VISION, "embeds", raw, salt, batch=2)
    both = reference.run(model, {"pixel_values": np.concatenate([pixels * 0.5, pixels])})["image_embeds"]
    assert close(both[1:], found, 1e-12)


@pytest.fixture(scope="module")
def clips():
    """Two clips of three frames: config, salt, arrays, and what `condition` makes of their numbers."""
    raw, salt, arrays = case("svd_unet")
    ids = arrays["in.added_time_ids"] + np.float32([1, 0, 0])  # as the user says them
    added = reference.run(graph(UNET_TEMPORAL, "condition", raw, salt, batch=2), {"time_ids": ids})["added"]
    return raw, salt, arrays, added


def whole(raw, salt, changes=None):
    """The UNet that is given both kinds of latents side by side, of two clips of three frames of 8x12."""
    config = UNET_TEMPORAL.normalize(raw, "test")
    b = GraphBuilder("unet", weights(UNET_TEMPORAL, config, salt) | (changes or {}))
    inputs = {"timestep": (1,), "added": (2, 128), "encoder_hidden_states": (2, 1, 24), "sample": (6, 8, 8, 12)}
    timestep, added, context, x = (b.input(name, shape) for name, shape in inputs.items())
    return unet_temporal.denoised(b, config, timestep, added, unet_temporal.made_looks(b, config, context), x)


def given(arrays, added):
    return {
        "sample": arrays["in.sample"].reshape(6, 8, 8, 12),
        "timestep": arrays["in.timestep"],
        "encoder_hidden_states": arrays["in.encoder_hidden_states"],
        "added": added,
    }


def test_the_unet_gives_what_the_reference_gave(clips):
    raw, salt, arrays, added = clips
    found = reference.run(whole(raw, salt), given(arrays, added))["out_sample"]
    assert close(found, arrays["out.sample"].reshape(6, 4, 8, 12), 1e-6)  # an epsilon ten times another's is seen


@pytest.mark.parametrize("frames", [1, 3])
def test_the_unet_in_two_is_the_whole_and_clips_do_not_mix(clips, frames):
    raw, salt, arrays, added = clips
    sizes = {"batch": 2, "frames": frames, "height": 8, "width": 12}
    inputs = given(arrays, added) | {
        "sample": arrays["in.sample"][:, :frames, :4].reshape(2 * frames, 4, 8, 12),
        "image_latents": arrays["in.sample"][:, 0, 4:],
    }
    found = reference.run(graph(UNET_TEMPORAL, "noise", raw, salt, **sizes), inputs)["out_sample"]
    context = {"encoder_hidden_states": inputs.pop("encoder_hidden_states")}
    once = reference.run(graph(UNET_TEMPORAL, "looks", raw, salt, batch=2), context)
    assert not once["looks"][0].any() and once["looks"][1].any()  # the first clip's context is zeros
    rest = reference.run(graph(UNET_TEMPORAL, "step", raw, salt, **sizes), inputs | once)["out_sample"]
    assert close(rest, found, 1e-12)
    second = {name: array if name == "timestep" else np.split(array, 2)[1] for name, array in (inputs | once).items()}
    alone = reference.run(graph(UNET_TEMPORAL, "step", raw, salt, **sizes | {"batch": 1}), second)["out_sample"]
    assert close(alone, found[frames:], 1e-9)


@pytest.mark.parametrize("mix", [-30.0, 0.0, 3.0])
def test_a_blender_keeps_its_part_of_the_frames_alone(clips, mix):
    """Of all kept (a = 1 within 1e-13) nothing is seen of other frames; of none, all is."""
    raw, salt, arrays, added = clips
    names = [
        name for name in UNET_TEMPORAL.weights(UNET_TEMPORAL.normalize(raw, "test")) if name.endswith("mix_factor")
    ]
    changes = {name: ir.tensor(np.float32([mix * 10 if mix > 0 else mix]), name=name) for name in names}
    inputs, model = given(arrays, added), whole(raw, salt, changes)
    found = reference.run(model, inputs)["out_sample"]
    other = inputs["sample"].copy()
    other[2] = -other[2]
    again = reference.run(model, inputs | {"sample": other})["out_sample"]
    alone = close(again[:2], found[:2], 1e-9)
    assert alone == (mix > 0) and not close(again[2], found[2], 0.1)


def test_codes_of_frames_are_those_of_timesteps():
    first, second = (recipe_weight("x", name, shape) for name, shape in (("a", (32, 8)), ("b", (8, 32))))
    biases = recipe_weight("x", "a.bias", (32,)), recipe_weight("x", "b.bias", (8,))
    found = frame_codes(3, first, biases[0], second, biases[1])
    angles = 2 * np.exp(-np.log(10000) * np.arange(4) / 4)  # of the last
    x = first @ np.concatenate([np.cos(angles), np.sin(angles)]) + biases[0]
    np.testing.assert_allclose(found[2], second @ (x / (1 + np.exp(-x))) + biases[1], rtol=0, atol=1e-6)


def test_the_decoder_gives_what_the_reference_gave():
    raw, salt, arrays = case("svd_vae")
    latents, sizes = arrays["in.latent"], {"batch": 1, "height": 4, "width": 6}
    models = {frames: graph(VAE, "decoder", raw, salt, frames=frames, **sizes) for frames in (1, 2, 3)}
    found = reference.run(models[3], {"latent_sample": latents})["sample"]
    assert close(found, arrays["out.frames_of_3"])
    parts = [reference.run(models[len(part)], {"latent_sample": part})["sample"] for part in (latents[:2], latents[2:])]
    assert close(np.concatenate(parts), arrays["out.frames_of_2_then_1"])
    assert not close(np.concatenate(parts), found, 0.01)  # zeros at a chunk's end are seen


@pytest.mark.parametrize("held", [True, False])
def test_the_encoder_gives_what_the_reference_gave(held):
    raw, salt, arrays = case("svd_vae")
    pixels = arrays["in.pixels"]
    model = graph(VAE, "encoder", raw | {"force_upcast": held}, salt, batch=1, height=8, width=12)
    assert ("encoder.conv_in.weight:by0.015625" in model.graph.initializers) == held
    assert close(reference.run(model, {"sample": pixels})["latent_parameters"], arrays["out.moments"])


def test_names_and_shapes_equal_the_published_ones():
    lines = gzip.decompress((DATA / "manifests" / "svd.tsv.gz").read_bytes()).decode().splitlines()
    rows = {tuple(row[:2]): row[2] for row in (line.split("\t") for line in lines)}
    for part, (network, _) in FULL.items():
        config = network.normalize(CONFIGS[part], "test")
        published = {name: shape for (of, name), shape in rows.items() if of == part}
        found = {name: "x".join(map(str, shape)) for name, shape in network.weights(config).items()}
        unused = {name for name in published if network.vain(name, config)}
        assert found == {name: shape for name, shape in published.items() if name not in unused}
        assert len(unused) == (4 * 32 if part == "unet" else 0)


NAMES = {
    "unet": {
        "conv_in.weight": "input_blocks.0.0.weight",
        "add_embedding.linear_2.bias": "label_emb.0.2.bias",
        "down_blocks.0.resnets.1.spatial_res_block.conv1.weight": "input_blocks.2.0.in_layers.2.weight",
        "down_blocks.1.resnets.0.spatial_res_block.conv_shortcut.bias": "input_blocks.4.0.skip_connection.bias",
        "down_blocks.0.resnets.0.temporal_res_block.norm2.bias": "input_blocks.1.0.time_stack.out_layers.0.bias",
        "mid_block.resnets.1.temporal_res_block.time_emb_proj.bias": "middle_block.2.time_stack.emb_layers.1.bias",
        "down_blocks.3.resnets.1.time_mixer.mix_factor": "input_blocks.11.0.time_mixer.mix_factor",
        "down_blocks.2.downsamplers.0.conv.weight": "input_blocks.9.0.op.weight",
        "up_blocks.0.upsamplers.0.conv.bias": "output_blocks.2.1.conv.bias",
        "up_blocks.1.upsamplers.0.conv.bias": "output_blocks.5.2.conv.bias",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2.bias": (
            "output_blocks.11.1.transformer_blocks.0.ff.net.2.bias"
        ),
        "up_blocks.3.attentions.2.temporal_transformer_blocks.0.ff_in.net.0.proj.bias": (
            "output_blocks.11.1.time_stack.0.ff_in.net.0.proj.bias"
        ),
        "down_blocks.0.attentions.0.time_pos_embed.linear_2.weight": "input_blocks.1.1.time_pos_embed.2.weight",
        "down_blocks.0.attentions.0.time_mixer.mix_factor": "input_blocks.1.1.time_mixer.mix_factor",
    },
    "vae": {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": "encoder.down.1.block.0.nin_shortcut.weight",
        "quant_conv.weight": "quant_conv.weight",
        "decoder.mid_block.attentions.0.to_out.0.bias": "decoder.mid.attn_1.proj_out.bias",
        "decoder.mid_block.resnets.1.temporal_res_block.conv2.bias": "decoder.mid.block_2.time_stack.out_layers.3.bias",
        "decoder.up_blocks.0.resnets.2.spatial_res_block.conv1.weight": "decoder.up.3.block.2.conv1.weight",
        "decoder.up_blocks.3.resnets.0.temporal_res_block.conv1.bias": (
            "decoder.up.0.block.0.time_stack.in_layers.2.bias"
        ),
        "decoder.up_blocks.3.resnets.0.time_mixer.mix_factor": "decoder.up.0.block.0.mix_factor",
        "decoder.conv_out.weight": "decoder.conv_out.weight",
        "decoder.time_conv_out.weight": "decoder.conv_out.time_mix_conv.weight",
    },
    "image_encoder": {
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.pre_layrnorm.bias": "ln_pre.bias",
        "vision_model.encoder.layers.31.self_attn.v_proj.weight": "transformer.resblocks.31.attn.in_proj_weight",
        "vision_model.encoder.layers.0.mlp.fc2.bias": "transformer.resblocks.0.mlp.c_proj.bias",
        "visual_projection.weight": "proj",
    },
}
"""As the code that Stable Video Diffusion was published with names its layers."""


@pytest.mark.parametrize("part", NAMES)
def test_names_in_single_files(part):
    network, layout = FULL[part]
    config = network.normalize(CONFIGS[part], "test")
    places = {name: layout.place(name, config) for name in network.weights(config)}
    found = {name: places[name].name for name in NAMES[part]}
    assert found == NAMES[part]
    assert len({(place.name, place.part) for place in places.values()}) == len(places)
    value = (
        layout.place("vision_model.encoder.layers.0.self_attn.v_proj.bias", config) if part == "image_encoder" else None
    )
    assert value is None or (value.part, value.parts) == (2, 3)
    turned = {name for name, place in places.items() if place.transposed}
    assert value is None or turned == {"visual_projection.weight"}, "OpenCLIP multiplies by it from the right"
    spare = "output_blocks.11.1.time_stack.0.attn2.to_q.weight"
    assert layout.spare(spare, config) == (part == "unet") and not layout.spare("time_stack.0.norm3.bias", config)


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        ("unet", {"_class_name": "UNet2DConditionModel"}, "'_class_name' is not supported (got 'UNet2DConditionModel'"),
        ("unet", {"in_channels": 4}, "in_channels 4 leaves no channels for a picture beside out_channels 4"),
        ("unet", {"projection_class_embeddings_input_dim": 512}, "512 is not 3 times addition_time_embed_dim (256)"),
        (
            "unet",
            {"block_out_channels": [48, 96, 96, 96]},
            "block_out_channels 48 is not a multiple of the groups of its",
        ),
        (
            "unet",
            {"num_attention_heads": [5, 10, 20]},
            "'num_attention_heads' has 3 entries and block_out_channels has 4",
        ),
        ("unet", {"num_attention_heads": 7}, "block_out_channels 320 is not a multiple of num_attention_heads 7"),
        ("unet", {"transformer_layers_per_block": 2}, "'transformer_layers_per_block' is not supported (got 2"),
        ("unet", {"down_block_types": ["DownBlock2D"] * 4}, "'down_block_types' is not supported"),
        ("unet", {"num_frames": 0}, "'num_frames' is not supported (got 0"),
        ("vae", {"layers_per_block": 1}, "'layers_per_block' is not supported (got 1, expected 2)"),
        ("vae", {"block_out_channels": [80]}, "block_out_channels has 1"),
        ("vae", {"block_out_channels": [80] * 4}, "80 is not a multiple of the groups of its norms, 32"),
        ("image_encoder", {"image_size": 336}, "'image_size' is not supported (got 336, expected 224)"),
        ("image_encoder", {"patch_size": 15}, "image_size 224 is not a multiple of patch_size 15"),
        ("image_encoder", {"num_attention_heads": 7}, "hidden_size 1280 is not a multiple of num_attention_heads 7"),
    ],
)
def test_configs_that_are_refused(part, changes, what):
    network, _ = FULL[part]
    with pytest.raises(CheckpointError) as caught:
        network.normalize(CONFIGS[part] | changes, "here")
    assert what in str(caught.value) and "Fix: " in str(caught.value)


def test_a_list_of_equals_is_one_number():
    lists = {"transformer_layers_per_block": [1] * 4, "layers_per_block": [2] * 4, "cross_attention_dim": [1024] * 4}
    assert UNET_TEMPORAL.normalize(CONFIGS["unet"] | lists, "here") == UNET_TEMPORAL.normalize(CONFIGS["unet"], "here")
