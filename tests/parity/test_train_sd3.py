"""Stable Diffusion 3, trained: steps against the formulas of rectified flow written out, and results that convert."""

import numpy as np
import pytest
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
    pictures,
    subject,
    train,
)

from ondevice import cli
from ondevice.train import dreambooth

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """A tiny Stable Diffusion 3 as diffusers saves it."""
    from parity.test_stable_diffusion_3 import tiny

    return tiny(tmp_path_factory.mktemp("sd3"))[1]


def test_a_step_of_stable_diffusion_3_is_the_formula(bare, classes, sd3, tmp_path):  # noqa: F811
    """Loss and gradient of rectified flow, with each of the paper's weights and samplings of noise."""
    words = {
        "weighting_scheme": "mode",
        "logit_mean": 0.3,
        "logit_std": 0.8,
        "prior_loss_weight": 0.7,
        "resolution": 32,
    }
    _, job = job_of(dreambooth, *subject(bare, classes, tmp_path / "out", sd3, **words))
    step = job.step
    batch = job.collate([job.data[position] for position in (0, 7)])
    assert batch["captions"] == ["a pink disc"] * 2 + ["a circle"] * 2
    assert step._noising.scheme == "mode"
    for scheme in ("sigma_sqrt", "logit_normal", "mode", "cosmap"):
        object.__setattr__(step._noising, "scheme", scheme)
        _check_flow(scheme, step, batch)
        step.zero_grad()


def _check_flow(scheme, step, batch):
    loss = step(batch)["loss"]
    loss.backward()
    weight = step.net.transformer_blocks[1].attn.to_k.weight
    found, weight.grad = weight.grad.clone(), None

    def then(generator):
        return [
            torch.randn((), generator=generator) if scheme == "logit_normal" else torch.rand((), generator=generator)
        ]

    first, e, u = drawn(batch["seeds"], (16, 16, 16), then)
    with torch.no_grad():
        posterior = step.vae.encode(batch["pixels"]).latent_dist
        x = (posterior.mean + posterior.std * first - 0.0609) * 1.5305
    if scheme == "logit_normal":
        u = 1 / (1 + torch.exp(-(0.3 + 0.8 * u)))
    elif scheme == "mode":
        u = 1 - u - 1.29 * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)
    t = 1000 - torch.floor(1000 * u)
    s = (3 * t / 1000 / (1 + 2 * t / 1000)).reshape(-1, 1, 1, 1)  # the shift of Stable Diffusion 3's noise is 3
    told = step._texts.of(batch["captions"])
    flow = step.net((1 - s) * x + s * e, told[0], told[1], 1000 * s.flatten()).sample
    # the guess of x is off by s times what the flow is off from e - x
    weights = {"sigma_sqrt": s**-2, "cosmap": 2 / torch.pi / (1 - 2 * s + 2 * s**2)}.get(scheme, torch.ones_like(s))
    each = (weights * (s * (flow - (e - x))) ** 2).mean((1, 2, 3))
    expected = each[:2].mean() + 0.7 * each[2:].mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.abs().max() > 0 and (found - weight.grad).abs().max() <= 1e-3 * found.abs().max()


def test_dreambooth_of_stable_diffusion_3(bare, classes, sd3, tmp_path):  # noqa: F811
    """By a LoRA, and the whole network: together they convert and draw."""
    words = {"max_train_steps": 1, "weighting_scheme": "logit_normal", "resolution": 32}
    for recipe in ("dreambooth_lora", "dreambooth"):
        assert train(recipe, *subject(bare, classes, tmp_path / recipe, sd3, **words)) == 0
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    given = ["--checkpoint", tmp_path / "dreambooth" / "model", "--lora", tmp_path / "dreambooth_lora" / FILE]
    words_of = ["convert", "sd35-medium", *given, "--size", "32x32", "--out", bundle]
    assert cli.main([*map(str, words_of)]) == 0
    assert cli.main(["generate", str(bundle), CAPTION, "--steps", "1", "--out", str(out)]) == 0


def test_a_lora_of_stable_diffusion_3(pictures, sd3, tmp_path):  # noqa: F811
    words = ("max_train_steps", 1, "resolution", 32, "mixed_precision", "bf16", "gradient_checkpointing", "true")
    assert train("lora", *common(pictures, tmp_path, sd3), *words, "target_modules", "to_k") == 0
    found = arrays(tmp_path / FILE)
    assert len(found) == 8 and all(name.startswith("transformer.transformer_blocks.") for name in found)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
