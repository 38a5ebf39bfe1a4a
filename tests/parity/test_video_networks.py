"""The networks of Stable Video Diffusion, run by onnxruntime, equal the modules of diffusers and transformers."""

import numpy as np
import onnx_ir as ir
import pytest
from parity.modules import relative_error
from parity.test_components import normal

from ondevice.converters.architectures.autoencoder_kl_temporal import AUTOENCODER_KL_TEMPORAL
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.clip_vision import CLIP_VISION
from ondevice.converters.architectures.unet_temporal import UNET_TEMPORAL

pytestmark = pytest.mark.parity
BOUND = 1e-5
UNET = {"in_channels": 8, "out_channels": 4, "block_out_channels": (32, 64, 96), "cross_attention_dim": 20}
UNET |= {"layers_per_block": (1, 2, 1), "num_attention_heads": (2, 4, 3), "addition_time_embed_dim": 10}
UNET |= {"projection_class_embeddings_input_dim": 30, "num_frames": 4, "sample_size": 8}
KINDS = {
    "attention above": (("CrossAttnDown", "CrossAttnDown", "Down"), ("Up", "CrossAttnUp", "CrossAttnUp")),
    "attention below": (("Down", "Down", "CrossAttnDown"), ("CrossAttnUp", "Up", "Up")),
}


def shaken(module):
    """The module in eval mode; no norm is left at ones and zeros, and no two blenders are alike."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.add_(torch.randn_like(weight) * (1.0 if "mix_factor" in name else 0.2 if weight.ndim == 1 else 0.0))
    return module.eval()


def built(network, name, module, **sizes):
    """The graph in onnxruntime, with the module's weights and no others: what it has no use for is left out."""
    ort = pytest.importorskip("onnxruntime")
    raw = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    raw = {key: list(value) if isinstance(value, tuple) else value for key, value in raw.items()}
    raw.pop("architectures", None)
    config = network.normalize(raw, "test")
    found = {name: ir.tensor(value.detach().numpy().copy(), name=name) for name, value in module.state_dict().items()}
    needed = network.weights(config)
    unused = {name for name in found if network.beyond(name, config) or network.vain(name, config)}
    assert {name for name in found if name not in unused and "position_ids" not in name} == set(needed)
    model = network.graphs[name].build(GraphBuilder(name, found), config, **sizes)
    text = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(text, providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, inputs)[0]


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_the_unet(kinds):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(1)
    down, up = ([f"{kind}BlockSpatioTemporal" for kind in way] for way in kinds)
    module = shaken(diffusers.UNetSpatioTemporalConditionModel(**UNET, down_block_types=down, up_block_types=up))
    batch, frames, height, width = 2, 4, 9, 7
    latents, picture = normal(0, batch * frames, 4, height, width), normal(1, batch, 4, height, width)
    context, timestep, ids = normal(2, batch, 1, 20), np.float32([0.31]), np.float32([[7, 127, 0.02], [12, 30, 0.5]])
    apart = torch.from_numpy(latents).reshape(batch, frames, 4, height, width)
    beside = torch.from_numpy(picture)[:, None].expand(-1, frames, -1, -1, -1)
    with torch.no_grad():
        expected = module(
            torch.cat([apart, beside], 2), torch.tensor(timestep[0]), torch.from_numpy(context),
            torch.from_numpy(ids - np.float32([1, 0, 0])),  # as diffusers' pipeline takes one frame per second off
        ).sample.numpy()  # fmt: skip
    added = built(UNET_TEMPORAL, "condition", module, batch=batch)(time_ids=ids)
    run = built(UNET_TEMPORAL, "step", module, batch=batch, frames=frames, height=height, width=width)
    looks = built(UNET_TEMPORAL, "looks", module, batch=batch)(encoder_hidden_states=context)
    got = run(sample=latents, timestep=timestep, looks=looks, added=added, image_latents=picture)
    assert relative_error(got, expected.reshape(latents.shape)) < BOUND


@pytest.mark.parametrize("frames", [1, 3])
def test_the_decoder(frames):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(2)
    down = ("DownEncoderBlock2D",) * 3
    module = shaken(
        diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 64, 96), layers_per_block=2, down_block_types=down
        )
    )
    latents = normal(3, frames, 4, 5, 3)
    with torch.no_grad():
        expected = module.decode(torch.from_numpy(latents), num_frames=frames).sample.numpy()
        pixels = torch.from_numpy(normal(4, 1, 3, 20, 12))
        moments = module.encode(pixels).latent_dist.parameters.numpy()
    run = built(AUTOENCODER_KL_TEMPORAL, "decoder", module, batch=1, frames=frames, height=5, width=3)
    assert relative_error(run(latent_sample=latents), expected) < BOUND
    run = built(AUTOENCODER_KL_TEMPORAL, "encoder", module, batch=1, height=5, width=3)
    assert relative_error(run(sample=pixels.numpy()), moments) < BOUND


def test_the_image_encoder():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(3)
    sizes = {"hidden_size": 40, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 5}
    config = transformers.CLIPVisionConfig(**sizes, patch_size=28, hidden_act="gelu", projection_dim=12)
    module = shaken(transformers.CLIPVisionModelWithProjection(config))
    pixels = normal(5, 2, 3, 224, 224)
    with torch.no_grad():
        expected = module(torch.from_numpy(pixels)).image_embeds.numpy()
    run = built(CLIP_VISION, "embeds", module, batch=2)
    assert relative_error(run(pixel_values=pixels)[:, 0], expected) < BOUND
