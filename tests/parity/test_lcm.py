"""Latent consistency distillation: a step against its formula, a run that goes on, and results that draw."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from checkpoint_files import message
from parity.test_train import CAPTION, SIDE, arrays, few_threads, job_of, losses, same  # noqa: F401
from PIL import Image

from ondevice import cli
from ondevice.errors import UsageError
from ondevice.train import lcm, lcm_lora

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards of four pictures, by the pattern that names them."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(2):
        with tarfile.open(folder / f"{number:03}.tar", "w") as tar:
            for place in range(4):
                pixels = np.full((70, 64 + place, 3), 30 * place, np.uint8)
                pixels[10:40, 5 * place : 5 * place + 30] = (250, 120, 40 * number)
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "png")
                for ending, content in ((".png", data.getvalue()), (".txt", f"square {place} of {number}".encode())):
                    info = tarfile.TarInfo(f"{place:05}{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"{folder}/{{000..001}}.tar"


def given(shards, out, **more):
    words = {"pretrained_teacher_model": "demo", "train_shards_path_or_url": shards, "output_dir": out}
    words |= {"buffer_count": 2, "train_batch_size": 2, "checkpointing_steps": 1} | more
    return [word for pair in words.items() for word in pair]


def train(recipe, *words):
    words = [word for name, value in zip(words[::2], words[1::2], strict=True) for word in (f"--{name}", str(value))]
    return cli.main(["train", recipe, "--resolution", str(SIDE), "--seed", "7", *words])


def test_a_student_that_goes_on_and_draws(shards, tmp_path):
    more = {"max_train_steps": 2, "learning_rate": 1e-4, "loss_type": "huber", "resume_from_checkpoint": "latest"}
    for name, steps in (("whole", (2,)), ("broken", (1, 2))):
        for count in steps:
            assert train("lcm", *given(shards, tmp_path / name, **more | {"max_train_steps": count})) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    file = "model/unet/diffusion_pytorch_model.safetensors"
    same(tmp_path / "whole" / file, tmp_path / "broken" / file)
    assert "time_embedding.cond_proj.weight" in arrays(tmp_path / "whole" / file)
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    words = ["convert", "lcm", "--checkpoint", tmp_path / "whole" / "model", "--size", f"{SIDE}x{SIDE}"]
    assert cli.main([*map(str, words), "--out", str(bundle)]) == 0
    assert cli.main(["generate", str(bundle), CAPTION, "--steps", "4", "--out", str(out)]) == 0
    assert Image.open(out).size == (SIDE, SIDE)


def test_a_lora_and_its_validation_pictures(shards, tmp_path):
    more = {"max_train_steps": 1, "rank": 4, "validation_prompt": CAPTION, "num_validation_images": 1}
    assert train("lcm_lora", *given(shards, tmp_path, num_inference_steps=2, **more)) == 0
    names = arrays(tmp_path / "pytorch_lora_weights.safetensors")
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in names} >= {"to_q", "conv1", "time_emb_proj"}
    same(tmp_path / "checkpoint-1" / "pytorch_lora_weights.safetensors", tmp_path / "pytorch_lora_weights.safetensors")
    assert Image.open(tmp_path / "validation" / "step-000001-1.png").size == (SIDE, SIDE)
    bundle, file = tmp_path / "m.ondevice", tmp_path / "pytorch_lora_weights.safetensors"
    words = ["convert", "demo", "--lora", file, "--strict", "--size", f"{SIDE}x{SIDE}", "--out", bundle]
    assert cli.main([*map(str, words)]) == 0


def test_a_student_begins_as_its_teacher(shards, tmp_path):
    """Whatever it is told of guidance."""
    _, job = job_of(lcm, *given(shards, tmp_path))
    x, states = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 64)
    with torch.no_grad():
        told = {"timestep_cond": torch.randn(2, 256)}
        found, expected = (
            net(x, 500, states, **more).sample for net, more in ((job.step.net, told), (job.step.teacher, {}))
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("recipe, loss", [(lcm, "l2"), (lcm, "huber"), (lcm_lora, "huber")])
def test_a_step_is_the_formula(recipe, loss, shards, tmp_path):
    """Loss and gradient, of the paper's algorithm written out, with a target whose weights are others."""
    from ondevice.train.average import Average

    own = recipe is lcm
    words = {"loss_type": loss, "huber_c": 0.01, "num_ddim_timesteps": 40, "w_min": 2, "w_max": 6}
    _, job = job_of(recipe, *given(shards, tmp_path, **words, **({} if own else {"rank": 4})))
    step, samples = job.step, iter(job.data)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # a student that differs from its teacher, and a target from the student
        for name, one in step.named_parameters():
            if one.requires_grad and (own or "lora_B" in name):
                one += 0.02 * one.std().nan_to_num(1.0).clamp(min=0.1) * torch.randn(one.shape, generator=generator)
    trained = {name: one for name, one in step.named_parameters() if one.requires_grad}
    average = Average(trained, 0.9) if own else None
    if average is not None:
        for one in average.values.values():
            one *= 1.01
    job.followed(average)
    batch = job.collate([next(samples) for _ in range(3)])
    found = step(batch)["loss"]
    found.backward()
    name = "net.conv_in.weight" if own else next(name for name in trained if "lora_A" in name)
    gradient, trained[name].grad = trained[name].grad.clone(), None

    # the numbers that are drawn, sample by sample
    shape, rows = (4, SIDE // 8, SIDE // 8), []
    for seed in batch["seeds"]:
        draw = torch.Generator().manual_seed(seed)
        rows.append((torch.randn(shape, generator=draw), torch.randn(shape, generator=draw),
                     torch.randint(40, (), generator=draw), torch.rand((), generator=draw)))  # fmt: skip
    first, e, place, u = (torch.stack(row) for row in zip(*rows, strict=True))
    with torch.no_grad():
        posterior = step.vae.encode(batch["pixels"]).latent_dist
        z = (posterior.mean + posterior.std * first) * 0.18215
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    n, w = 25 * (place + 1) - 1, 2 + 4 * u
    before = (n - 25).clamp(min=0)
    four = (-1, 1, 1, 1)
    sa, sn = a[n].sqrt().reshape(four), (1 - a[n]).sqrt().reshape(four)
    x = sa * z + sn * e
    texts = step._texts.of(batch["captions"])[0]
    empty = step._texts.of([""] * 3)[0]
    angles = 1000 * w[:, None] * torch.exp(-np.log(10000) * torch.arange(128) / 127)
    told = {"timestep_cond": torch.cat([angles.sin(), angles.cos()], 1)} if own else {}

    def f(x, t, net):
        signal, spread = a[t].sqrt().reshape(four), (1 - a[t]).sqrt().reshape(four)
        x0 = (x - spread * net(x, t, texts, **told).sample) / signal
        scaled = 10.0 * t.reshape(four)
        return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25).sqrt() * x0

    with torch.no_grad():
        teacher = step.teacher if own else step.net
        if not own:
            step.net.disable_adapters()
        cond, uncond = (teacher(x, n, told_).sample for told_ in (texts, empty))
        if not own:
            step.net.enable_adapters()
        wide = w.reshape(four)
        x0 = (x - sn * (cond + wide * (cond - uncond))) / sa
        eps = cond + wide * (cond - uncond)
        further = a[before].sqrt().reshape(four) * x0 + (1 - a[before]).sqrt().reshape(four) * eps
        if average is not None:
            kept = {name: one.clone() for name, one in trained.items()}
            for key, one in trained.items():
                one.copy_(average.values[key])
        target = f(further, before, step.net)
        if average is not None:
            for key, one in trained.items():
                one.copy_(kept[key])
    off = f(x, n, step.net) - target
    expected = (off**2).mean() if loss == "l2" else ((off**2 + 0.01**2).sqrt() - 0.01).mean()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    worst = (gradient - trained[name].grad).abs().max()
    assert gradient.abs().max() > 0 and worst <= 1e-3 * gradient.abs().max()


def test_the_solver_is_that_of_diffusers_scheduler():
    """A path of DDIM without guidance, where the noise is known: it leads to the picture."""
    from ondevice.train.distilling import Solver

    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    solver = Solver(a, 50)
    assert solver.at(torch.tensor([0, 1, 49])).tolist() == [19, 39, 999]
    x0, noise = torch.ones(3, 1, 2, 2), torch.full((3, 1, 2, 2), 2.0)
    found = solver.step(x0, noise, torch.tensor([0, 1, 49]))
    for row, t in zip(found, (0, 19, 979), strict=True):
        torch.testing.assert_close(row, (a[t].sqrt() + 2 * (1 - a[t]).sqrt()).expand(1, 2, 2))


def test_what_cannot_be_distilled(shards, tmp_path):
    words = given(shards, tmp_path)
    said = message(lambda: job_of(lcm, *words, "file_list", "x"), UsageError)
    assert said.startswith("--train_shards_path_or_url: the data are shards or part files, one of both.")
    said = message(lambda: job_of(lcm, *words, "w_min", 20), UsageError)
    assert said.startswith("--w_min: the least guidance is over the most (got 20 and 15).")
    said = message(lambda: job_of(lcm, *words, "dataloader_num_workers", 3), UsageError)
    assert said.startswith("--train_shards_path_or_url: there are fewer part files than readers (got 2, expected 3")
    shutil.rmtree(tmp_path)
