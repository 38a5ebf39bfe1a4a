"""Stable Diffusion XL, trained: steps against formulas written out, runs that go on, and results that convert."""

import argparse
import json
import shutil

import numpy as np
import pytest
from parity.test_kinds_of_models import parts
from parity.test_lcm import shards  # noqa: F401
from parity.test_train import (  # noqa: F401
    CAPTION,
    FILE,
    arrays,
    bare,
    classes,
    common,
    drawn,
    few_threads,
    job_of,
    losses,
    pictures,
    same,
    subject,
    train,
)
from PIL import Image

from ondevice import cli
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.train import dreambooth, lcm, lcm_lora, lora

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")
SIDE = 32
LATENT = (4, SIDE // 2, SIDE // 2)  # the tiny VAE halves a side


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """A tiny Stable Diffusion XL as diffusers saves it."""
    diffusers, base = pytest.importorskip("diffusers"), tmp_path_factory.mktemp("xl")
    diffusers.StableDiffusionXLPipeline(**parts("sdxl", base), add_watermarker=False).save_pretrained(base / "m")
    return base / "m"


def told_of(folder, captions):
    """(states, pooled) of captions, as diffusers' pipeline reads them."""
    pipe = pytest.importorskip("diffusers").StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    states, _, pooled, _ = pipe.encode_prompt(prompt=list(captions), device="cpu", do_classifier_free_guidance=False)
    return states, pooled


def alphas():
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


def latents(step, pixels, first):
    with torch.no_grad():
        posterior = step.vae.encode(pixels).latent_dist
        return (posterior.mean + posterior.std * first) * 0.13025


def compare(loss, found, expected, weight):
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.abs().max() > 0 and (found - weight.grad).abs().max() <= 1e-4 * found.abs().max()


def test_a_step_of_a_lora_is_the_formula(pictures, xl, tmp_path):  # noqa: F811
    """Its time ids: height and width of each picture, top and left of its piece, and the resolution."""
    words = (*common(pictures, tmp_path, xl), "resolution", SIDE, "random_flip", "true", "noise_offset", 0.2)
    _, job = job_of(lora, *words)
    step = job.step
    for name, one in step.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    batch = job.collate([job.data[position] for position in range(4)])
    assert batch["sizes"][:, :2].tolist() == [[72, 80]] * 4 and not batch["sizes"][:, 2].any()
    lefts = batch["sizes"][:, 3].tolist()  # 80 becomes 36
    assert all(0 <= left <= 4 for left in lefts) and len({*lefts}) > 1
    loss = step(batch)["loss"]
    loss.backward()
    weight = next(p for n, p in step.named_parameters() if p.requires_grad and "lora_A" in n)
    found, weight.grad = weight.grad.clone(), None

    def then(generator):
        return torch.randn((4, 1, 1), generator=generator), torch.randint(1000, (), generator=generator)

    first, noise, offset, t = drawn(batch["seeds"], LATENT, then)
    x, e = latents(step, batch["pixels"], first), noise + 0.2 * offset
    a = alphas()[t].reshape(-1, 1, 1, 1)
    states, pooled = told_of(xl, batch["captions"])
    ids = torch.tensor([[72.0, 80.0, 0.0, left, SIDE, SIDE] for left in lefts])
    added = {"text_embeds": pooled, "time_ids": ids}
    guess = step.net(a.sqrt() * x + (1 - a).sqrt() * e, t, states, added_cond_kwargs=added).sample
    compare(loss, found, ((guess - e) ** 2).mean(), weight)


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
def test_a_step_of_dreambooth_is_the_formula(encoder, bare, classes, xl, tmp_path):  # noqa: F811
    """With a prior, and text encoders that learn: what reaches the network does, and nothing else."""
    words = {"train_text_encoder": "true", "text_encoder_lr": 1e-5, "resolution": SIDE, "prior_loss_weight": 0.7}
    _, job = job_of(dreambooth, *subject(bare, classes, tmp_path / "out", xl, **words))
    step = job.step
    assert [group["lr"] for group in job.groups] == [5e-6, 1e-5, 1e-5]
    batch = job.collate([job.data[position] for position in (0, 7)])
    loss = step(batch)["loss"]
    loss.backward()
    left = [name for name, one in step.named_parameters() if one.requires_grad and one.grad is None]
    still = [name for name, one in step.encoders.named_parameters() if not one.requires_grad]
    assert not left and still and all(name.startswith("text_encoder.") for name in still), (left, still)
    weight = step.encoders[encoder].get_input_embeddings().weight
    found = weight.grad.clone()
    step.zero_grad()

    first, e, t = drawn(batch["seeds"], LATENT, lambda g: [torch.randint(1000, (), generator=g)])
    x, a = latents(step, batch["pixels"], first), alphas()[t].reshape(-1, 1, 1, 1)
    both = []
    for name, folder in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        tokenizer = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(xl / folder)
        ids = tokenizer(batch["captions"], padding="max_length", max_length=77, return_tensors="pt").input_ids
        both.append(step.encoders[name](ids, output_hidden_states=True))
    states = torch.cat([one.hidden_states[-2] for one in both], -1)
    ids = torch.cat([batch["sizes"].float(), torch.full((4, 2), float(SIDE))], 1)
    added = {"text_embeds": both[1].text_embeds, "time_ids": ids}
    guess = step.net(a.sqrt() * x + (1 - a).sqrt() * e, t, states, added_cond_kwargs=added).sample
    each = ((guess - e) ** 2).mean((1, 2, 3))
    compare(loss, found, each[:2].mean() + 0.7 * each[2:].mean(), weight)


def drawn_by(model, *words, folder, steps=1):
    """A picture of what was trained."""
    bundle, out = folder / "m.ondevice", folder / "a.png"
    asked = ["convert", model, *words, "--size", f"{SIDE}x{SIDE}", "--out", bundle]
    assert cli.main([*map(str, asked)]) == 0
    assert cli.main(["generate", str(bundle), CAPTION, "--steps", str(steps), "--out", str(out)]) == 0
    return np.asarray(Image.open(out))


def test_a_lora_goes_on_and_converts(pictures, xl, tmp_path, capsys):  # noqa: F811
    """Of the network and of both text encoders; a file for diffusers, too."""
    more = (
        "resolution",
        SIDE,
        "train_text_encoder",
        "true",
        "checkpointing_steps",
        1,
        "gradient_checkpointing",
        "true",
    )
    for name, steps in (("whole", (2,)), ("broken", (1, 2))):
        for count in steps:
            words = (*common(pictures, tmp_path / name, xl), *more, "max_train_steps", count)
            assert train("lora", *words, "resume_from_checkpoint", "latest") == 0
    same(tmp_path / "whole" / FILE, tmp_path / "broken" / FILE)
    names = arrays(tmp_path / "whole" / FILE)
    assert {name.partition(".")[0] for name in names} == {"unet", "text_encoder", "text_encoder_2"}
    capsys.readouterr()
    drawn_by("sdxl", "--checkpoint", xl, "--lora", tmp_path / "whole" / FILE, folder=tmp_path)
    count = len(names) // 2
    assert f"{FILE} at 1: {count} of {count} applied" in "".join(capsys.readouterr())
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(xl, add_watermarker=False)
    pipe.load_lora_weights(tmp_path / "whole" / FILE)
    for part in ("unet", "text_encoder", "text_encoder_2"):
        taken = sum("lora_" in name for name, _ in getattr(pipe, part).named_parameters())
        assert taken == sum(name.startswith(f"{part}.") for name in names)


def test_dreambooth_goes_on_and_converts(bare, classes, xl, tmp_path):  # noqa: F811
    words = {"train_text_encoder": "true", "checkpointing_steps": 1, "resolution": SIDE, "learning_rate": 1e-4}
    for name, steps in (("whole", (2,)), ("broken", (1, 2))):
        for count in steps:
            given = words | {"max_train_steps": count, "resume_from_checkpoint": "latest"}
            assert train("dreambooth", *subject(bare, classes, tmp_path / name, xl, **given)) == 0
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model"), ("text_encoder_2", "model")):
        same(*(tmp_path / name / "model" / part / f"{file}.safetensors" for name in ("whole", "broken")))
        assert any(
            (one != other).any()
            for one, other in zip(*(arrays(folder / part / f"{file}.safetensors").values()
                                    for folder in (xl, tmp_path / "whole" / "model")), strict=True)
        ), part  # fmt: skip
    assert open_checkpoint(tmp_path / "whole" / "model", family="sdxl").components.keys() >= {"unet", "text_encoder_2"}


def given(pattern, out, model, **more):
    words = {"pretrained_teacher_model": model, "train_shards_path_or_url": pattern, "output_dir": out}
    words |= {"buffer_count": 2, "train_batch_size": 2, "checkpointing_steps": 1, "resolution": SIDE} | more
    return [word for pair in words.items() for word in pair]


@pytest.mark.parametrize("recipe", [lcm, lcm_lora])
def test_a_step_of_a_distillation_is_the_formula(recipe, shards, xl, tmp_path):  # noqa: F811
    """Where there is no text the teacher is given zeros."""
    own = recipe is lcm
    words = {"loss_type": "huber", "huber_c": 0.01, "w_min": 2, "w_max": 6}
    _, job = job_of(recipe, *given(shards, tmp_path, xl, **words, **({} if own else {"rank": 4})))
    step, samples = job.step, iter(job.data)
    with torch.no_grad():
        for number, (name, one) in enumerate(step.named_parameters()):
            if one.requires_grad and (own or "lora_B" in name):
                one += 0.02 * torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
    job.followed(None)
    batch = job.collate([next(samples) for _ in range(3)])
    loss = step(batch)["loss"]
    loss.backward()
    weight = next(
        p for n, p in step.named_parameters() if p.requires_grad and ("lora_A" in n or n.startswith("net.conv_in"))
    )
    found, weight.grad = weight.grad.clone(), None

    def then(generator):
        return torch.randint(50, (), generator=generator), torch.rand((), generator=generator)

    first, e, place, u = drawn(batch["seeds"], LATENT, then)
    z, a = latents(step, batch["pixels"], first), alphas()
    n, w, four = 20 * (place + 1) - 1, 2 + 4 * u, (-1, 1, 1, 1)
    before, wide = (n - 20).clamp(min=0), w.reshape(four)
    sa, sn = a[n].sqrt().reshape(four), (1 - a[n]).sqrt().reshape(four)
    x = sa * z + sn * e
    states, pooled = told_of(xl, batch["captions"])
    ids = torch.cat([batch["sizes"].float(), torch.full((3, 2), float(SIDE))], 1)
    angles = 1000 * w[:, None] * torch.exp(-np.log(10000) * torch.arange(128) / 127)
    told = {"timestep_cond": torch.cat([angles.sin(), angles.cos()], 1)} if own else {}

    def net(module, x, t, part=1.0, **more):
        return module(
            x, t, part * states, added_cond_kwargs={"text_embeds": part * pooled, "time_ids": ids}, **more
        ).sample

    def f(x, t):
        signal, spread = a[t].sqrt().reshape(four), (1 - a[t]).sqrt().reshape(four)
        x0, scaled = (x - spread * net(step.net, x, t, **told)) / signal, 10.0 * t.reshape(four)
        return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25).sqrt() * x0

    with torch.no_grad():
        if not own:
            step.net.disable_adapters()
        cond, uncond = (net(step.teacher if own else step.net, x, n, part) for part in (1.0, 0.0))
        if not own:
            step.net.enable_adapters()
        eps = cond + wide * (cond - uncond)
        x0 = (x - sn * eps) / sa
        target = f(a[before].sqrt().reshape(four) * x0 + (1 - a[before]).sqrt().reshape(four) * eps, before)
    compare(loss, found, ((f(x, n) - target) ** 2 + 0.01**2).sqrt().sub(0.01).mean(), weight)


def test_a_student_goes_on_and_draws(shards, xl, tmp_path):  # noqa: F811
    more = {"num_ddim_timesteps": 40, "timestep_scaling_factor": 8, "resume_from_checkpoint": "latest"}
    for name, steps in (("whole", (2,)), ("broken", (1, 2))):
        for count in steps:
            assert train("lcm", *given(shards, tmp_path / name, xl, **more, max_train_steps=count)) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    model = tmp_path / "whole" / "model"
    same(*(tmp_path / name / "model/unet/diffusion_pytorch_model.safetensors" for name in ("whole", "broken")))
    about = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    assert about["_class_name"] == "LCMScheduler" and about["original_inference_steps"] == 40
    assert (
        about["timestep_scaling"] == 8
        and json.loads((model / "model_index.json").read_text())["force_zeros_for_empty_prompt"]
    ), "it draws as it was trained"
    drawn_by("lcm-sdxl", "--checkpoint", model, folder=tmp_path, steps=4)


def test_a_lora_for_few_steps(shards, xl, tmp_path):  # noqa: F811
    more = {"rank": 2, "max_train_steps": 1, "validation_prompt": CAPTION, "num_validation_images": 1}
    assert train("lcm_lora", *given(shards, tmp_path, xl, num_inference_steps=2, **more)) == 0
    assert Image.open(tmp_path / "validation" / "step-000001-1.png").size == (SIDE, SIDE)


def test_the_vae_computes_in_single_precision(pictures, xl, tmp_path):  # noqa: F811
    """While the network computes in halves; a VAE that need not is given apart."""
    from accelerate.state import AcceleratorState

    words = (*common(pictures, tmp_path, xl), "resolution", SIDE, "mixed_precision", "bf16")
    shutil.copytree(xl / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": False}))
    for more, expected in (
        ((), torch.float32),
        (("pretrained_vae_model_name_or_path", tmp_path / "vae"), torch.bfloat16),
    ):
        AcceleratorState._reset_state(True)
        engine, job = job_of(lora, *words, *more)
        seen = {}
        for name, module in (("net", job.step.net.conv_in), ("vae", job.step.vae.encoder.conv_in)):
            module.register_forward_hook(lambda _, __, found, name=name, seen=seen: seen.update({name: found.dtype}))
        loss = engine.accelerator.prepare(job.step)(job.collate([job.data[0]]))["loss"]
        assert seen == {"net": torch.bfloat16, "vae": expected} and loss.dtype == torch.float32
        kept = {one.requires_grad: one.dtype for one in job.step.net.parameters()}
        assert kept == {True: torch.float32, False: torch.bfloat16}


def test_the_resolution_is_that_of_the_kind(xl):
    from ondevice.train.adapting import settle

    for model, resolution, expected in ((xl, None, 1024), ("demo", None, 512), (xl, 64, 64)):
        found = argparse.Namespace(resolution=resolution, pretrained_model_name_or_path=str(model), revision=None)
        settle(found)
        assert found.resolution == expected


def test_text_encoders_have_a_rate_of_their_own(pictures, xl, tmp_path):  # noqa: F811
    """At a rate of nothing they stay as they are, while the network learns."""
    more = ("resolution", SIDE, "train_text_encoder", "true", "text_encoder_lr", 0, "max_train_steps", 1)
    assert train("lora", *common(pictures, tmp_path, xl), *more) == 0
    seconds = {name: array.any() for name, array in arrays(tmp_path / FILE).items() if "lora_B" in name}
    assert {name.startswith("unet.") for name in seconds} == {True, False}
    assert all(learned == name.startswith("unet.") for name, learned in seconds.items())


def test_what_is_computed_again(pictures, xl, tmp_path):  # noqa: F811
    """With gradient checkpointing layers run twice for the same loss and gradients, those of text encoders, too."""
    from accelerate.state import AcceleratorState

    found = {}
    for again in ("false", "true"):
        AcceleratorState._reset_state(True)
        words = (*common(pictures, tmp_path, xl), "resolution", SIDE, "train_text_encoder", "true")
        _, job = job_of(lora, *words, "gradient_checkpointing", again)
        step, runs = job.step.train(), {"net": 0, "text": 0}
        generator = torch.Generator().manual_seed(0)
        for name, one in step.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(one, std=0.02, generator=generator)
        layers = {"net": step.net.down_blocks[1].resnets[0]}
        inside = step.encoders["text_encoder_2"].named_modules()
        layers["text"] = next(module for name, module in inside if name.endswith("layers.0.self_attn"))
        for name, layer in layers.items():
            layer.register_forward_pre_hook(lambda *_, name=name, runs=runs: runs.update({name: runs[name] + 1}))
        loss = step(job.collate([job.data[0]]))["loss"]
        loss.backward()
        found[again] = loss, {name: one.grad for name, one in step.named_parameters() if one.requires_grad}
        assert runs == dict.fromkeys(runs, 2 if again == "true" else 1)
    (loss, gradients), (other, others) = found["false"], found["true"]
    assert loss == other and gradients.keys() == others.keys()
    for name, one in gradients.items():
        torch.testing.assert_close(one, others[name], rtol=1e-4, atol=1e-7, msg=name)
