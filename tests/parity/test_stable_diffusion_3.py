"""Stable Diffusion 3.5 as diffusers saves and draws it: folder, pictures of several prompts, adapters, single file."""

import json

import numpy as np
import pytest
from checkpoint_files import arrays_of
from family_files import original
from PIL import Image

from ondevice import Pipeline as Drawer
from ondevice.base.paths import MODELS
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families import FAMILIES
from ondevice.converters.families.sd3 import skipping
from ondevice.converters.read.adapters import with_adapters
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.tiny_files import with_taesd
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.vocabulary.unigram import read_unigram

pytestmark = [pytest.mark.parity, pytest.mark.device]
FAMILY = FAMILIES["sd35-medium"]
PROMPTS = ("a red circle on a blue background", "Größe: 5×7 cm, naïve café", "")
WIDTH, HEIGHT, STEPS, GUIDANCE = 48, 32, 4, 5.0
CLIP = {"vocab_size": 49408, "hidden_size": 20, "intermediate_size": 36, "num_hidden_layers": 2}
CLIP |= {"num_attention_heads": 2, "projection_dim": 20, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
T5 = {"vocab_size": 32128, "d_model": 48, "d_kv": 8, "d_ff": 40, "num_heads": 3, "num_layers": 2}
T5 |= {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False, "tie_word_embeddings": False}
DIT = {"sample_size": 16, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 3, "in_channels": 16}
DIT |= {"out_channels": 16, "joint_attention_dim": 48, "caption_projection_dim": 48, "pooled_projection_dim": 44}
DIT |= {"pos_embed_max_size": 12, "dual_attention_layers": (0,), "qk_norm": "rms_norm"}
VAE = {"latent_channels": 16, "block_out_channels": [8, 12], "layers_per_block": 1, "norm_num_groups": 4}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
VAE |= {"use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305, "shift_factor": 0.0609}


def tiny(base):
    """(diffusers' pipeline, its folder in `base`)."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = base / "m"
    torch.manual_seed(3)
    second = CLIP | {"hidden_size": 24, "projection_dim": 24, "hidden_act": "gelu"}
    parts = {
        "text_encoder": transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**CLIP)),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**second)),
        "text_encoder_3": transformers.T5EncoderModel(transformers.T5Config(**T5)),
        "transformer": diffusers.SD3Transformer2DModel(**DIT),
        "vae": diffusers.AutoencoderKL(**VAE),
    }
    with torch.no_grad():  # AdaLN begins at zero in some versions: what it does must be seen
        for name, weight in parts["transformer"].named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.02 if name.endswith("bias") else 0.6 / weight[0].numel() ** 0.5))
            if ".norm_" in name and weight.ndim == 1:
                weight.add_(1.0)
    for name in ("tokenizer", "tokenizer_2"):
        held = folder.parent / name
        held.mkdir()
        for file, data in FAMILY.tokenizer(name).items():
            (held / file).write_bytes(data)
        parts[name] = transformers.CLIPTokenizer.from_pretrained(held)
    found = read_unigram(MODELS / "t5_tokenizer")  # without sentencepiece transformers does not read the file itself
    pieces = [(text, score or 0.0) for text, score in found.pieces]
    parts["tokenizer_3"] = transformers.T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=found.charsmap)
    scheduler = json.loads((MODELS / "sd3" / "scheduler" / "scheduler_config.json").read_text())
    parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler.from_config(scheduler)
    pipe = diffusers.StableDiffusion3Pipeline(**{n: p.eval() if hasattr(p, "eval") else p for n, p in parts.items()})
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe, folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("sd35"))


def latents():
    return np.random.default_rng(7).standard_normal((1, 16, HEIGHT // 2, WIDTH // 2), dtype=np.float32)


def expected(pipe, prompt, output, **more):
    torch = pytest.importorskip("torch")
    found = pipe(
        prompt,
        negative_prompt="blurry",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        width=WIDTH,
        height=HEIGHT,
        latents=torch.tensor(latents()),
        output_type=output,
        **more,
    ).images
    return found.numpy() if output == "latent" else found[0]


def compiled(checkpoint, path, dtype="f32"):
    return compile_bundle(checkpoint, path, Recipe(dtype), sizes=[(WIDTH, HEIGHT)])


def drawn(path, prompt, **more):
    made = open_bundle(path)
    call = {"negative_prompt": "blurry", "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    return Pipeline.of(made, Session(made, choose_device()))(prompt, **call, latents=latents(), **more)


def test_pictures_are_those_of_diffusers(saved, tmp_path):
    pipe, folder = saved
    path = compile_bundle(
        open_checkpoint(folder, family=FAMILY), tmp_path / "m", Recipe("f32"), sizes=[(WIDTH, HEIGHT)]
    )
    for prompt in PROMPTS:
        picture, wanted = drawn(path, prompt), expected(pipe, prompt, "latent")
        assert np.abs(picture.latents - wanted).max() <= 2e-5 * np.abs(wanted).max()
        pixels = np.round(255 * expected(pipe, prompt, "np")).astype(int)
        assert np.abs(picture.pixels.astype(int) - pixels).max() <= 2
    half = compile_bundle(
        open_checkpoint(folder, family=FAMILY), tmp_path / "h", Recipe("f16"), sizes=[(WIDTH, HEIGHT)]
    )
    error = drawn(half, PROMPTS[0]).pixels / 255 - expected(pipe, PROMPTS[0], "np")
    assert -10 * np.log10((error**2).mean()) >= 40


def test_skipped_layers_guide_as_in_diffusers(saved, tmp_path, monkeypatch):
    pipe, folder = saved
    family = skipping(FAMILY, (1,))
    monkeypatch.setitem(FAMILIES, family.name, family)
    numbers = {"skip_layer_guidance_start": 0.2, "skip_layer_guidance_stop": 0.8, "skip_layer_guidance_scale": 1.5}
    wanted = expected(pipe, PROMPTS[0], "latent", skip_guidance_layers=[1], **numbers)
    path = compiled(open_checkpoint(folder, family=family), tmp_path / "m")
    assert np.abs(drawn(path, PROMPTS[0], numbers=numbers).latents - wanted).max() <= 2e-5 * np.abs(wanted).max()
    without = drawn(path, PROMPTS[0], numbers=numbers | {"skip_layer_guidance_stop": 0.0}).latents
    plain = expected(pipe, PROMPTS[0], "latent")
    assert np.abs(without - plain).max() <= 2e-5 * np.abs(plain).max() < 0.1 * np.abs(wanted - plain).max()


def test_a_mask_is_that_of_diffusers(saved, tmp_path):
    """StableDiffusion3InpaintPipeline with a MM-DiT that knows of no mask."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipe, folder = saved
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    mask = np.kron(rng.integers(0, 2, (4, 6), np.uint8) * 255, np.ones((8, 8), np.uint8))
    call = {"negative_prompt": "blurry", "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "strength": 0.5}
    inpaint = diffusers.StableDiffusion3InpaintPipeline(**pipe.components)
    inpaint.set_progress_bar_config(disable=True)
    more = {"image": Image.fromarray(image), "mask_image": Image.fromarray(mask), "width": WIDTH, "height": HEIGHT}
    generator = torch.Generator().manual_seed(3)
    wanted = inpaint(PROMPTS[0], **call, **more, generator=generator, output_type="latent").images.numpy()
    made = open_bundle(compiled(open_checkpoint(folder, family=FAMILY), tmp_path / "m"))
    picture = Pipeline.of(made, Session(made, choose_device()))(PROMPTS[0], **call, seed=3, image=image, mask=mask)
    assert np.abs(picture.latents - wanted).max() <= 2e-5 * np.abs(wanted).max()
    np.testing.assert_array_equal(picture.pixels[mask == 0], image[mask == 0])


def test_a_tiny_autoencoder_draws_what_it_draws_in_diffusers(saved, tmp_path):
    """TAESD3's module, of 16 channels, beside the model's own."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipe, folder = saved
    torch.manual_seed(9)
    sizes = {f"{half}_block_out_channels": (12, 12) for half in ("encoder", "decoder")}
    sizes |= {"num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1), "upsampling_scaling_factor": 2}
    tiny = diffusers.AutoencoderTiny(latent_channels=16, **sizes).eval()
    with torch.no_grad():
        for parameter in tiny.decoder.parameters():
            parameter.mul_(2.0)
    tiny.save_pretrained(tmp_path / "tiny")
    fast = diffusers.StableDiffusion3Pipeline(**pipe.components | {"vae": tiny})
    fast.set_progress_bar_config(disable=True)
    wanted = expected(fast, PROMPTS[0], "np") * 255
    assert wanted.std() > 10, "a flat picture proves nothing"
    checkpoint = with_taesd(open_checkpoint(folder, family=FAMILY), str(tmp_path / "tiny"))
    path = compiled(checkpoint, tmp_path / "m")
    assert np.abs(drawn(path, PROMPTS[0], taesd=True).pixels - wanted.round()).max() <= 2


def test_from_pretrained_draws_the_same(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("ondevice.api.cache_dir", lambda: tmp_path)  # of bundles; kernels stay where they are
    pipe, folder = saved
    drawer = Drawer.from_pretrained(folder, size=(WIDTH, HEIGHT), dtype="fp32")  # it says itself what it is
    call = {"negative_prompt": "blurry", "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    picture = drawer(PROMPTS[0], **call, latents=latents())
    pixels = np.round(255 * expected(pipe, PROMPTS[0], "np")).astype(int)
    assert np.abs(np.asarray(picture.images[0]).astype(int) - pixels).max() <= 2


def test_adapters_are_those_of_diffusers(saved, tmp_path):
    """peft's names, and kohya's of the same modules."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    pipe, folder = saved
    torch.manual_seed(1)
    modules = (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.1.attn.add_k_proj",
        "transformer_blocks.2.ff.net.2",
    )
    factors = {}
    for name in modules:
        weight = pipe.transformer.get_submodule(name).weight
        factors[name] = torch.randn(4, weight.shape[1]) * 0.2, torch.randn(weight.shape[0], 4) * 0.2
    peft = {f"transformer.{n}.lora_{s}.weight": f for n, two in factors.items() for s, f in zip("AB", two, strict=True)}
    safetensors.save_file(peft, tmp_path / "peft.safetensors")
    kohya = {}
    for name, (down, up) in factors.items():
        key = f"lora_transformer_{name.replace('.', '_')}"
        kohya |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(4.0)}
    safetensors.save_file(kohya, tmp_path / "kohya.safetensors")
    checkpoint = open_checkpoint(folder, family=FAMILY)
    pipe.load_lora_weights(tmp_path / "peft.safetensors")
    try:
        wanted = expected(pipe, PROMPTS[0], "latent")
    finally:
        pipe.unload_lora_weights()
    changed = with_adapters(checkpoint, [str(tmp_path / "peft.safetensors")])
    path = compiled(changed, tmp_path / "m")
    assert np.abs(drawn(path, PROMPTS[0]).latents - wanted).max() <= 2e-5 * np.abs(wanted).max()
    other = with_adapters(checkpoint, [str(tmp_path / "kohya.safetensors")])
    assert other.adapters == ("kohya.safetensors at 1: 3 of 3 applied",)
    for name, array in arrays_of(changed, "transformer").items():
        np.testing.assert_allclose(arrays_of(other, "transformer")[name], array, rtol=0, atol=1e-6)


def test_diffusers_finds_the_same_weights_in_our_single_file(saved):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("diffusers.loaders.single_file_utils")
    _, folder = saved
    found = open_checkpoint(folder, family=FAMILY)
    file = {name: torch.tensor(array) for name, array in original(found, FAMILY).items()}
    file["model.diffusion_model.pos_embed"] = torch.zeros(1)  # which is made again here
    theirs = files.convert_sd3_transformer_checkpoint_to_diffusers(dict(file))
    for name, array in arrays_of(found, "transformer").items():
        np.testing.assert_array_equal(theirs[name].numpy(), array, err_msg=name)
