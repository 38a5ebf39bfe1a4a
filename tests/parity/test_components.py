"""Each component's graph, run by onnxruntime, equals the diffusers or transformers module."""

import numpy as np
import onnx_ir as ir
import pytest
from parity.modules import TEXT, UNET, VAE, as_component, relative_error, torch_module

from ondevice.converters.architectures.autoencoder_kl import decoder, encoder
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.clip_text import last_state
from ondevice.converters.architectures.unet import noise

pytestmark = pytest.mark.parity
BOUND = 1e-5


def run(model, inputs):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


UNETS = {
    "odd": ({}, 2, 12, 8),
    "sizes that no level divides": ({}, 1, 13, 7),
    "two layers, linear projections, heads per level": (
        {"layers_per_block": 2, "use_linear_projection": True, "attention_head_dim": [3, 5, 7]},
        1,
        8,
        12,
    ),
    "attention elsewhere": (
        {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        },
        1,
        8,
        8,
    ),
    "BK-SDM: one layer, no middle": ({"mid_block_type": None}, 1, 9, 5),
    "SSD-1B: nested and reversed depths, a middle without attention": (
        {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, [2, 1], [1, 3]],
            "reverse_transformer_layers_per_block": [[1, 1, 2], [2, 1, 1], 1],
            "mid_block_type": "UNetMidBlock2D",
            "use_linear_projection": True,
        },
        1,
        8,
        6,
    ),
    "layers per level, attention to the text alone, nested depths around a middle": (
        {
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": [1, 2, 1],
            "only_cross_attention": [True, False, False],
            "transformer_layers_per_block": [0, 1, [2]],
            "reverse_transformer_layers_per_block": [1, 1, [2, 1]],
            "time_embedding_dim": 50,
        },
        2,
        5,
        8,
    ),
    "sines first, shifted": ({"flip_sin_to_cos": False, "freq_shift": 1}, 1, 4, 4),
    "one level, odd width": (
        {
            "block_out_channels": [45],
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
            "norm_num_groups": 9,
            "norm_eps": 1e-4,
        },
        1,
        5,
        3,
    ),
}


@pytest.mark.parametrize("changes, batch, height, width", UNETS.values(), ids=UNETS)
@pytest.mark.parametrize("timestep", [981.0])
def test_unet(changes, batch, height, width, timestep):
    torch = pytest.importorskip("torch")
    config = UNET | changes
    module = torch_module("unet", config)
    part = as_component("unet", config, module)
    x, text = normal(1, batch, 4, height, width), normal(2, batch, 77, 20)
    with torch.no_grad():
        expected = module(torch.tensor(x), torch.tensor(timestep), torch.tensor(text)).sample.numpy()
    graph = noise(GraphBuilder("unet", part.weights), part.config, batch=batch, height=height, width=width, tokens=77)
    got = run(graph, {"sample": x, "timestep": np.array([timestep], np.float32), "encoder_hidden_states": text})
    assert got.shape == expected.shape and relative_error(got, expected) <= BOUND


@pytest.mark.parametrize(
    "changes", [{}, {"hidden_act": "gelu", "num_hidden_layers": 3, "layer_norm_eps": 1e-3}], ids=["quick", "erf"]
)
def test_text_encoder(changes):
    torch = pytest.importorskip("torch")
    config = TEXT | changes
    module = torch_module("text_encoder", config)
    part = as_component("text_encoder", config, module)
    ids = np.random.default_rng(0).integers(0, 1000, (2, 77)).astype(np.int32)
    with torch.no_grad():
        expected = module(torch.tensor(ids, dtype=torch.long)).last_hidden_state.numpy()
    assert (
        relative_error(
            run(last_state(GraphBuilder("text", part.weights), part.config, batch=2), {"input_ids": ids}), expected
        )
        <= BOUND
    )


@pytest.mark.parametrize("height, width", [(5, 3), (8, 12)])
@pytest.mark.parametrize("layers", [1, 2])
def test_vae(height, width, layers):
    torch = pytest.importorskip("torch")
    config = VAE | {"layers_per_block": layers}
    module = torch_module("vae", config)
    part = as_component("vae", config, module)
    latent, picture = normal(1, 2, 4, height, width), normal(2, 2, 3, 8 * height, 8 * width)
    with torch.no_grad():
        decoded = module.decode(torch.tensor(latent)).sample.numpy()
        encoded = module.encode(torch.tensor(picture)).latent_dist.parameters.numpy()
    sizes, b = {"batch": 2, "height": height, "width": width}, lambda: GraphBuilder("vae", part.weights)
    assert relative_error(run(decoder(b(), part.config, **sizes), {"latent_sample": latent}), decoded) <= BOUND
    assert relative_error(run(encoder(b(), part.config, **sizes), {"sample": picture}), encoded) <= BOUND
