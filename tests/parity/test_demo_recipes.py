"""Recipes beside LoRA, DreamBooth and distillation: each step against its formula, and the demo models' settings."""

import json

import numpy as np
import pytest
from checkpoint_files import message
from parity.test_pretrain import given, listed  # noqa: F401
from parity.test_train import arrays, few_threads, job_of, losses  # noqa: F401

from benchmarks.shapes import data
from ondevice import cli
from ondevice.errors import CheckpointError, UsageError
from ondevice.train import autoencoder, pretrain, taesd, text_encoder, video
from ondevice.train.masks import random_mask
from ondevice.train.order import mixed

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")
AcceleratorState = pytest.importorskip("accelerate.state").AcceleratorState
SCALING = 0.18215
FOUR = (-1, 1, 1, 1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """What benchmarks/shapes/data.py writes, little of it."""
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        words = ["data", str(folder / "made"), "--pictures", "24", "--captions", "300", "--films", "3"]
        patch.setattr("sys.argv", words)
        data.main()
    return folder / "made"


def words_of(**settings):
    return [word for pair in settings.items() for word in pair]


def batch_of(job, count=3):
    if hasattr(job.data, "first"):
        samples = iter(job.data)
        return job.collate([next(samples) for _ in range(count)])
    return job.collate([job.data[position] for position in range(count)])


def numbers(seeds, *draws):
    """What is drawn for each sample, one after the other: a shape of normal numbers, a limit, or "u", 0 to 1."""
    rows = []
    for seed in seeds:
        one = torch.Generator().manual_seed(seed)
        rows.append(
            [
                torch.rand((), generator=one)
                if draw == "u"
                else torch.randint(draw, (), generator=one)
                if isinstance(draw, int)
                else torch.randn(draw, generator=one)
                for draw in draws
            ]
        )
    return [torch.stack(row) for row in zip(*rows, strict=True)]


def agrees(step, found, expected, weight):
    """Loss, and the gradient of a weight."""
    found.backward()
    gradient, weight.grad = weight.grad.clone(), None
    step.zero_grad()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert gradient.abs().max() > 0 and (gradient - weight.grad).abs().max() <= 1e-3 * gradient.abs().max()


def near_edges(pixels, more):
    """Weights of pixels, [N, 3, h, w] in float64: in the 9x9 around them a channel varies by more than a tenth."""
    wide = np.pad(pixels, ((0, 0), (0, 0), (4, 4), (4, 4)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (9, 9), (2, 3))
    weight = 1 + more * (np.ptp(windows, (4, 5)).max(1, keepdims=True) > 0.1)
    return torch.from_numpy(weight / weight.mean())


# The demo models' settings --------------------------------------------------------------------------------------------

MODELS = {  # settings -> recipe, what is asked of the result
    "text_encoder": ("text_encoder", None),
    "sd3_text_encoder": ("text_encoder", None),
    "sd3_text_encoder_2": ("text_encoder", None),
    "autoencoder": ("autoencoder", None),
    "autoencoder_finer": ("autoencoder", None),
    "taesd": ("taesd", "demo --taesd"),
    "demo": ("pretrain", "sd15 --checkpoint"),
    "demo-inpaint": ("pretrain", "sd15-inpaint --checkpoint"),
    "demo-lcm": ("lcm", "lcm --checkpoint"),
    "demo-sd3": ("pretrain", "demo-sd3 --checkpoint"),
    "demo-video": ("video", "demo-video --checkpoint"),
}
FEW = {"train_batch_size": 2, "lr_warmup_steps": 1, "adam_beta2": 0.95}
FALLS = {"text_encoder": 0.8, "sd3_text_encoder": 0.8, "autoencoder": 0.95, "taesd": 0.8}  # to what part of it
STEPS = {"text_encoder": 30, "sd3_text_encoder": 30, "autoencoder": 60, "taesd": 25}  # of others 2


def test_every_demo_model_is_trained_by_a_recipe(shapes, tmp_path, monkeypatch, capsys):
    """One after the other, for some are made of others: the loss falls where few steps show it, and what is written
    converts."""
    assert {path.stem for path in shapes.glob("*.json")} == MODELS.keys()
    monkeypatch.chdir(shapes)
    for name, (recipe, convert) in MODELS.items():
        AcceleratorState._reset_state(True)  # one run a process is usual
        few = FEW | {"max_train_steps": STEPS.get(name, 2)} | ({"train_batch_size": 16} if "text" in name else {})
        few |= {} if recipe in ("text_encoder", "video") else {"buffer_count": 4}
        assert cli.main(["train", recipe, f"{name}.json", *(f"--{key}={value}" for key, value in few.items())]) == 0
        said = list(losses(shapes / name).values())
        assert len(said) == few["max_train_steps"] and np.isfinite(said).all()
        if name in FALLS:
            third = len(said) // 3
            assert np.mean(said[-third:]) < FALLS[name] * np.mean(said[:third]), (name, said)
        if convert is not None:
            bundle = tmp_path / f"{name}.ondevice"
            words = [*convert.split(), str(shapes / name / "model"), "--out", str(bundle)]
            assert cli.main(["convert", *words]) == 0, name
            assert bundle.is_dir()
    student = arrays(shapes / "demo-lcm" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert "time_embedding.cond_proj.weight" in student and not any("mid_block" in name for name in student)
    assert "280 of 281 weights begin as the model's own" in capsys.readouterr().err


# Pretraining ----------------------------------------------------------------------------------------------------------


def test_timesteps_empty_captions_and_weights(listed, tmp_path):  # noqa: F811
    """The later half three times as often; steps with hardly any signal weigh more; one caption in two is left out."""
    words = {"timestep_bias_strategy": "later", "timestep_bias_portion": 0.5, "timestep_bias_multiplier": 3}
    words |= {"snr_floor": 0.05, "snr_gamma": 5, "proportion_empty_prompts": 0.5}
    _, job = job_of(pretrain, *given(listed, tmp_path, **words))
    from ondevice.train.draws import Draws

    steps = Draws(range(2000)).among(job.step._noising.often)
    assert abs((steps >= 500).float().mean() - 0.75) < 0.03
    assert abs((steps >= 750).float().mean() - 0.375) < 0.03 and steps.max() < 1000
    batch = batch_of(job, 40)
    assert 10 < batch["captions"].count("") < 30
    batch = {name: value[:3] for name, value in batch.items()}
    found = job.step(batch)["loss"]
    (first, e), t = numbers(batch["seeds"], (4, 8, 8), (4, 8, 8)), []
    for seed in batch["seeds"]:
        one = torch.Generator().manual_seed(seed)
        u = [
            torch.randn((4, 8, 8), generator=one),
            torch.randn((4, 8, 8), generator=one),
            torch.rand((), generator=one),
        ][2]
        t.append(int(2000 * u) if u < 0.25 else 500 + int((u - 0.25) / 0.75 * 500))
    t = torch.tensor(t)
    with torch.no_grad():
        posterior = job.step.vae.encode(batch["pixels"]).latent_dist
        x = (posterior.mean + posterior.std * first) * SCALING
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t]
    told = job.step._texts.of(batch["captions"])[0]
    guess = job.step.net(a.reshape(FOUR).sqrt() * x + (1 - a).reshape(FOUR).sqrt() * e, t, told).sample
    snr = a / (1 - a)
    expected = ((guess - e).square().mean((1, 2, 3)) * snr.clamp(0.05, 5) / snr).mean()
    agrees(job.step, found, expected, job.step.net.conv_in.weight)


def test_rates_of_a_network_that_reads_texts_faster(listed, tmp_path):  # noqa: F811
    words = {"cross_attention_learning_rate": 2e-3, "unet_learning_rate": 1e-3, "train_text_encoder": "true"}
    _, job = job_of(pretrain, *given(listed, tmp_path, text_encoder_learning_rate=3e-3, **words))
    net = dict(job.step.net.named_parameters())
    attn2 = {id(one) for name, one in net.items() if ".attn2." in name}
    assert [group["lr"] for group in job.groups] == [1e-3, 2e-3, 3e-3]
    assert {id(one) for one in job.groups[1]["params"]} == attn2 and attn2
    assert len(job.groups[0]["params"]) + len(attn2) == len(net)


@pytest.fixture
def nine(tmp_path):
    """The demo's UNet with nine input channels."""
    from ondevice.base.paths import MODELS

    config = json.loads((MODELS / "demo" / "unet" / "config.json").read_text()) | {"in_channels": 9}
    (tmp_path / "nine.json").write_text(json.dumps(config))
    return {"unet_name_or_path": tmp_path / "nine.json", "take_what_fits": "true"}


def test_a_step_of_inpainting_is_the_formula(listed, tmp_path, nine, capsys):  # noqa: F811
    """And what fits of the model's weights is there: with nothing in the further channels it predicts as the model."""
    _, job = job_of(pretrain, *given(listed, tmp_path, **nine))
    assert "of 326 weights begin as the model's own" in capsys.readouterr().err
    _, plain = job_of(pretrain, *given(listed, tmp_path))
    batch = batch_of(job, 2)
    with torch.no_grad():
        assert not job.step.net.conv_in.weight[:, 4:].any()
        job.step.net.conv_in.weight[:, 4:] += 0.05
    found = job.step(batch)["loss"]
    first, under, e, t = numbers(batch["seeds"], (4, 8, 8), (4, 8, 8), (4, 8, 8), 1000)
    masks = np.stack([random_mask(np.random.default_rng(mixed(seed, 1)), 64, 64) for seed in batch["seeds"]])
    masks = torch.from_numpy(masks)[:, None].float()
    with torch.no_grad():
        encode = job.step.vae.encode
        clean, kept = encode(batch["pixels"]).latent_dist, encode(batch["pixels"] * (1 - masks)).latent_dist
        x, stays = ((one.mean + one.std * n) * SCALING for one, n in ((clean, first), (kept, under)))
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t].reshape(FOUR)
    noisy, told = a.sqrt() * x + (1 - a).sqrt() * e, job.step._texts.of(batch["captions"])[0]
    guess = job.step.net(torch.cat([noisy, masks[..., ::8, ::8], stays], 1), t, told).sample
    agrees(job.step, found, (guess - e).square().mean(), job.step.net.conv_in.weight)
    with torch.no_grad():
        nothing = job.step.net(torch.cat([noisy, torch.zeros(2, 5, 8, 8)], 1), t, told).sample
        torch.testing.assert_close(nothing, plain.step.net(noisy, t, told).sample)


@pytest.mark.parametrize(
    ("more", "said", "kind"),
    [
        ({"validation_prompt": "a"}, "--validation_prompt: pictures of an inpainting model are not drawn", UsageError),
        ({"text_encoder_2_name_or_path": "demo"}, "--text_encoder_2_name_or_path: the model has no text_enc", None),
        ({"vae_name_or_path": "./gone"}, "--vae_name_or_path ./gone: it cannot be read (", None),
        ({"timestep_bias_strategy": "range", "timestep_bias_begin": 9, "timestep_bias_end": 9},
         "--timestep_bias_begin: no timestep is there (got 9 to 9, expected some of 0 to 1000).", UsageError),
    ],
)  # fmt: skip
def test_pretraining_that_is_refused(more, said, kind, listed, tmp_path, nine):  # noqa: F811
    words = given(listed, tmp_path, **nine, **more)
    assert message(lambda: job_of(pretrain, *words), kind or CheckpointError).startswith(said)


# Autoencoders ---------------------------------------------------------------------------------------------------------


def test_a_step_of_an_autoencoder_is_the_formula(listed, tmp_path):  # noqa: F811
    words = {"vae_name_or_path": "demo", "file_list": listed, "output_dir": tmp_path, "buffer_count": 3, "crop": 32}
    words |= {"l1_weight": 0.7, "l2_weight": 1.5, "kl_weight": 0.01, "edge_weight": 3, "latent_noise": 0.2}
    _, job = job_of(autoencoder, *words_of(**words))
    step, batch = job.step, batch_of(job)
    found = step(batch)["loss"]
    y, x, e, more = numbers(batch["seeds"], 5, 5, (4, 4, 4), (1, 1, 1))
    cut = [one[:, 8 * j : 8 * j + 32, 8 * i : 8 * i + 32] for one, j, i in zip(batch["pixels"], y, x, strict=True)]
    pixels = torch.stack(cut)
    posterior = step.vae.encode(pixels).latent_dist
    mean, spread = posterior.mean, posterior.std
    drawn = mean + spread * e + 0.2 / SCALING * more.abs() * e
    off = step.vae.decode(drawn).sample.double() - pixels
    weight = near_edges(pixels.double().numpy(), 3)
    m, s = SCALING * mean.double(), SCALING * spread.double()
    kl = (0.5 * (m**2 + s**2 - 1 - (s**2).log())).mean()
    expected = 0.7 * (weight * off.abs()).mean() + 1.5 * (weight * off**2).mean() + 0.01 * kl
    agrees(step, found, expected, step.vae.encoder.conv_in.weight)


def test_latents_that_are_folded(listed, tmp_path):  # noqa: F811
    """They have mean 0 and spread 1 / scaling_factor, and mean the same pictures as before."""
    from ondevice.train.autoencoding import folded

    words = {"vae_name_or_path": "demo", "file_list": listed, "output_dir": tmp_path, "buffer_count": 3}
    _, job = job_of(autoencoder, *words_of(**words))
    vae, pixels = job.step.vae, [one[None] for one in batch_of(job, 12)["pixels"]]
    with torch.no_grad():
        vae.quant_conv.weight[1] *= 3
        vae.quant_conv.bias[2] += 5
        made = folded(vae, pixels)
        before, after = (net.encode(torch.cat(pixels)).latent_dist for net in (vae, made))
        assert after.mean.mean((0, 2, 3)).abs().max() < 1e-3 / SCALING
        drawn = after.mean + after.std * torch.randn(after.mean.shape, generator=torch.Generator().manual_seed(1))
        assert (drawn.std((0, 2, 3)) * SCALING - 1).abs().max() < 0.02
        times = before.mean.std((0, 2, 3)) / after.mean.std((0, 2, 3))
        torch.testing.assert_close((before.std / after.std).mean((0, 2, 3)), times, rtol=1e-3, atol=0)
        one, other = vae.decode(before.mode()).sample, made.decode(after.mode()).sample
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
        vae.quant_conv = None
        said = message(lambda: folded(vae, pixels), CheckpointError)
    assert (
        said == "vae: it has no convolutions about its latents, which could scale them. Fix: give --fold_latents false."
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"crop": 72}, "--crop: the squares are larger than the pictures (got 72, expected 64 or less)."),
        ({"crop": 20}, "--crop: it is no multiple of the pixels of a latent (got 20, expected one of 8). Fix: use 16."),
    ],
)
def test_autoencoders_that_are_refused(more, said, listed, tmp_path):  # noqa: F811
    words = words_of(vae_name_or_path="demo", file_list=listed, output_dir=tmp_path, **more)
    assert message(lambda: job_of(autoencoder, *words), UsageError).startswith(said)


def test_a_step_of_a_tiny_autoencoder_is_the_formula(listed, shapes, tmp_path):  # noqa: F811
    words = {"vae_name_or_path": "demo", "file_list": listed, "output_dir": tmp_path, "buffer_count": 3}
    words |= {"taesd_name_or_path": shapes / "configs/demo/taesd/config.json", "on_the_way": 0.5, "edge_weight": 2}
    _, job = job_of(taesd, *words_of(**words))
    step, batch = job.step, batch_of(job, 4)
    found = step(batch)["loss"]
    first, e, amount, turn, kind = numbers(batch["seeds"], (4, 8, 8), (4, 8, 8), "u", "u", "u")
    assert 0 < (kind < 0.5).sum() < 4
    amount, turn, kind = (one.reshape(FOUR) for one in (amount, turn, kind))
    with torch.no_grad():
        posterior = step.vae.encode(batch["pixels"]).latent_dist
        z = (posterior.mean + posterior.std * first) * SCALING
        far = torch.cos(torch.pi * turn / 2) * z + torch.sin(torch.pi * turn / 2) * e
        z = torch.where(kind < 0.5, far, z + 0.15 * amount * e)
        seen = step.vae.decode(z / SCALING).sample.clamp(-1, 1)
    off = step.tiny.decoder(z).double() - seen
    weight = near_edges(seen.double().numpy(), 2)
    encoded = step.tiny.encoder(batch["pixels"]) - posterior.mean * SCALING
    expected = (encoded**2).mean() + (weight * off.abs()).mean() + 2 * (weight * off**2).mean()
    agrees(step, found, expected, next(step.tiny.decoder.parameters()))


# A text encoder, films ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projected", [False, True])
def test_a_step_of_a_text_encoder_is_the_formula(projected, shapes, tmp_path):
    config = "demo-sd3/text_encoder" if projected else "demo/text_encoder"
    words = {"text_encoder_name_or_path": shapes / "configs" / config / "config.json", "output_dir": tmp_path}
    words |= {"tokenizer_name": shapes / ("tokenizer_16" if projected else "tokenizer"), "with_projection": projected}
    from parity.test_train import settings

    from ondevice.train.engine import Engine

    found = settings(text_encoder, *words_of(seed=7, input_path=shapes / "rows.jsonl", **words))
    job = text_encoder.job(found, Engine("text_encoder", found))
    step, batch = job.step, batch_of(job, 5)
    loss = step(batch)["loss"]
    expected, rows = torch.zeros((), dtype=torch.float64), [[] for _ in step.heads]
    for caption, words in zip(batch["captions"], batch["words"], strict=True):
        ids = step._tokens(caption, padding="max_length", max_length=16 if projected else 77).input_ids
        given = step.encoder(input_ids=torch.tensor([ids]), output_hidden_states=True)
        states = (given.hidden_states[-2] if projected else given.last_hidden_state)[0]
        rows[0] += [(state, words) for state in states[ids.index(598) :]]
        if projected:
            rows[1].append((given.text_embeds[0], words))
    for heads, read in zip(step.heads, rows, strict=True):
        size = torch.stack([state.double().square().mean() for state, _ in read]).mean()
        expected = expected + 0.01 * (size - 1) ** 2
        for number, head in enumerate(heads):
            each = [torch.log_softmax(head(state).double(), -1)[words[number]] for state, words in read]
            expected = expected - torch.stack(each).mean()
    weight = step.encoder.get_input_embeddings().weight
    agrees(step, loss, expected, weight)


def test_a_step_of_films_is_the_formula(shapes, tmp_path):
    """The network's guess of the film, weighed as EDM weighs it: by 1 / c_out squared."""
    words = {"pretrained_model_name_or_path": shapes / "video", "vae_name_or_path": "demo", "output_dir": tmp_path}
    words |= {"data_dir": shapes / "films", "num_frames": 4, "width": 32, "height": 16, "train_image_encoder": "true"}
    words |= {"conditioning_dropout_prob": 0.5, "noise_aug_strength": 0.1, "even_sigmas": 0.5}
    from parity.test_train import settings

    from ondevice.train.engine import Engine

    found = settings(video, *words_of(seed=7, **words))
    job = video.job(found, Engine("video", found))
    step, batch = job.step, batch_of(job)
    loss = step(batch)["loss"]
    frames = batch["frames"] / 127.5 - 1
    shape = (4, 4, 2, 4)
    noise, usual, even, which, e, shown = numbers(batch["seeds"], (3, 16, 32), (), "u", "u", shape, "u")
    low, high = np.log(0.002), np.log(700)
    s = torch.where(which < 0.5, low + (high - low) * even, 0.7 + 1.6 * usual).exp().reshape(-1, 1, 1, 1, 1)
    kept = (shown >= 0.5).float()
    with torch.no_grad():
        x = torch.stack([step.vae.encode(film).latent_dist.mean for film in frames]) * SCALING
        first = step.vae.encode(frames[:, 0] + 0.1 * noise).latent_dist.mean
    from ondevice.train.filming import looked_at

    context = step.image_encoder(looked_at(frames[:, 0])).image_embeds * kept[:, None]
    beside = (first * kept.reshape(FOUR))[:, None].repeat(1, 4, 1, 1, 1)
    ids = torch.tensor([[6.0, motion, 0.1] for motion in batch["motion"].tolist()])
    noisy = x + s * e
    v = step.unet(
        torch.cat([noisy / (s**2 + 1).sqrt(), beside], 2), s.flatten().log() / 4, context[:, None], ids
    ).sample
    guess = noisy / (s**2 + 1) - s / (s**2 + 1).sqrt() * v
    expected = ((guess - x) ** 2 * (s**2 + 1) / s**2).mean()
    agrees(step, loss, expected, step.image_encoder.visual_projection.weight)


def test_what_a_picture_looks_like_to_an_image_encoder():
    """As diffusers' own pipeline prepares it."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
    from transformers import CLIPImageProcessor

    from ondevice.train.filming import looked_at

    pixels = torch.rand(1, 3, 48, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    unit = (_resize_with_antialiasing(pixels, (224, 224)) + 1) / 2
    options = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "return_tensors": "pt"}
    given = CLIPImageProcessor()(images=[unit[0].permute(1, 2, 0).numpy()], do_normalize=True, **options).pixel_values
    torch.testing.assert_close(looked_at(pixels), given, atol=1e-5, rtol=1e-5)
