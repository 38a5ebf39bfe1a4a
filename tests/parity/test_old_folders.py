"""Folders as other versions of diffusers and transformers wrote them:
the picture is the one that today's diffusers draws from them."""

import json

import numpy as np
import pytest
from parity.test_pictures import GUIDANCE, NEGATIVE, PROMPT, STEPS, pipeline
from PIL import Image

from ondevice import cli

pytestmark = [pytest.mark.parity, pytest.mark.device]


def rewrite(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def loose_configs(folder):
    """Lists of one entry per level, whole numbers for floats, nulls, keys left out, a size that is no square."""

    def unet(config):
        config |= {
            "layers_per_block": [2] * 4,
            "cross_attention_dim": [config["cross_attention_dim"]] * 4,
            "only_cross_attention": [False] * 4,
        }
        config |= {
            "norm_eps": 1,
            "freq_shift": 0.0,
            "act_fn": "SiLU",
            "time_embedding_dim": 4 * config["block_out_channels"][0],
        }
        config |= {
            "resnet_out_scale_factor": 2.0,
            "mid_block_only_cross_attention": True,
            "cross_attention_norm": "layer_norm",
        }
        config |= {"use_linear_projection": None, "sample_size": [8, 12], "_class_name": "FlaxUNet2DConditionModel"}
        config["down_block_types"][-1] = "UNetResDownBlock2D"
        for key in (
            "conv_in_kernel",
            "mid_block_type",
            "attention_type",
            "resnet_time_scale_shift",
            "downsample_padding",
        ):
            del config[key]

    def vae(config):
        config |= {
            "scaling_factor": 1,
            "shift_factor": 0.0,
            "act_fn": "Swish",
            "_use_default_values": ["latent_channels"],
        }
        for key in ("force_upcast", "use_quant_conv", "mid_block_add_attention", "latents_mean"):
            del config[key]

    rewrite(folder / "unet" / "config.json", unet)
    rewrite(folder / "vae" / "config.json", vae)


def old_names(folder):
    """The VAE's attention as before 0.12, a text encoder that is a whole CLIP,
    and a UNet's size that 0.8 wrote by mistake."""
    safetensors = pytest.importorskip("safetensors.numpy")
    spelling = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    arrays = safetensors.load_file(path)
    for new, old in spelling.items():
        arrays = {name.replace(new, old): array for name, array in arrays.items()}
    safetensors.save_file(arrays, path, {"format": "pt"})
    path = folder / "text_encoder" / "model.safetensors"
    prefixed = {
        f"text_model.{name.removeprefix('text_model.')}": array for name, array in safetensors.load_file(path).items()
    }
    beside = ("text_projection.weight", "logit_scale", "vision_model.post_layernorm.weight", "visual_projection.weight")
    beyond = {"text_model.encoder.layers.2.layer_norm1.weight": np.ones(20, np.float32)}
    safetensors.save_file(prefixed | beyond | {name: np.ones(1, np.float32) for name in beside}, path, {"format": "pt"})
    path = folder / "text_encoder" / "config.json"
    path.write_text(
        json.dumps({"model_type": "clip", "text_config": json.loads(path.read_text()), "vision_config": {}})
    )


@pytest.mark.parametrize("aged", [loose_configs, old_names])
def test_the_picture_is_that_of_diffusers(aged, tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    saved, bundle, out = tmp_path / "saved", tmp_path / "m.ondevice", tmp_path / "a.png"
    pipeline("random", "PNDMScheduler").save_pretrained(saved)
    aged(saved)
    size = ["--size", "96x64"] if aged is old_names else []  # the others say it themselves
    assert (
        cli.main(["convert", "sd14", "--checkpoint", str(saved), "--dtype", "fp32", "--out", str(bundle), *size]) == 0
    )
    words = [
        "generate", bundle, PROMPT, "--negative", NEGATIVE, "--steps", STEPS, "--guidance", GUIDANCE, "--seed", 11,
        "--out", out,
    ]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(saved, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(11),
        output_type="np",
        **({"width": 96, "height": 64} if size else {}),
    ).images[0]
    assert expected.std() > 0.04, "a flat picture proves nothing"
    assert np.abs(np.asarray(Image.open(out), np.float64) - (expected * 255).round()).max() <= 1


@pytest.mark.parametrize(("saved_by", "size"), [("0.8.1", 32), ("0.9.0", 32), ("0.6.0", 96)])
def test_the_size_that_diffusers_draws_by_default(saved_by, size, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from ondevice.compiler.jobs import training_size
    from ondevice.converters.read.checkpoint import open_checkpoint

    pipeline("random", "PNDMScheduler").save_pretrained(tmp_path)
    rewrite(
        tmp_path / "unet" / "config.json", lambda config: config.update(sample_size=size, _diffusers_version=saved_by)
    )
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    expected = pipe.unet.config.sample_size * pipe.vae_scale_factor
    config = open_checkpoint(tmp_path, family="sd14").components["unet"].config
    assert training_size(config["sample_size"], pipe.vae_scale_factor) == (expected, expected)
