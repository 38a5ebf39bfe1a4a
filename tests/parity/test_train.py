"""Training: steps against formulas written out, runs that go on against unbroken ones, and results that convert."""

import argparse
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ondevice import cli
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.train import lora
from ondevice.train.settings import add_flags, settings_of

pytestmark = [pytest.mark.parity, pytest.mark.device]
SIDE = 64
CAPTION = "a red circle on a blue background"
torch = pytest.importorskip("torch")
for package in ("diffusers", "transformers", "peft", "accelerate", "tensorboardX"):
    pytest.importorskip(package)


def alone():
    """A run that nothing before it reaches: of two threads sums are others in their last bits, and accelerate keeps
    what a run before asked for (bf16), as one run a process is usual."""
    torch.set_num_threads(1)
    pytest.importorskip("accelerate.state").AcceleratorState._reset_state(True)


@pytest.fixture(autouse=True)
def few_threads():
    alone()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures of a pink disc on grey, with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:72, :80]
    rows = []
    for number in range(5):
        inside = np.hypot(y - 36, x - 30 - 5 * number) < 16 + number
        Image.fromarray(np.where(inside[..., None], [250, 120, 180], [128] * 3).astype(np.uint8)).save(
            folder / f"{number}.png"
        )
        rows.append({"file_name": f"{number}.png", "text": f"a pink disc {number} on a grey background"})
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def train(recipe, *words):
    words = [word for name, value in zip(words[::2], words[1::2], strict=True) for word in (f"--{name}", str(value))]
    common = ["--resolution", SIDE, "--seed", 7, "--train_batch_size", 2, "--learning_rate", 1e-3]
    return cli.main(["train", recipe, *map(str, common), *words])


def common(pictures, out, model="demo"):
    return "pretrained_model_name_or_path", model, "data_dir", pictures, "output_dir", out, "dataloader_num_workers", 0


def rows(out):
    return [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]


def losses(out):
    return {row["step"]: row["loss"] for row in rows(out) if "step" in row}


def arrays(path):
    return pytest.importorskip("safetensors.numpy").load_file(path)


def same(one, other):
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def unbroken(pictures, tmp_path_factory):
    """A LoRA of five steps, with all that a run keeps."""
    alone()  # `few_threads` comes later
    out = tmp_path_factory.mktemp("unbroken")
    assert train("lora", *common(pictures, out), *OPTIONS, "max_train_steps", 5) == 0
    return out


OPTIONS = (
    "use_ema", "true", "snr_gamma", 5, "gradient_accumulation_steps", 2, "random_flip", "true",
    "lr_scheduler", "cosine", "lr_warmup_steps", 3, "checkpointing_steps", 2, "checkpoints_total_limit", 2,
)  # fmt: skip


def test_a_run_that_goes_on_ends_where_an_unbroken_one_does(pictures, unbroken, tmp_path, capsys):
    assert sorted(path.name for path in unbroken.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-5"]
    for name in ("checkpoint-4", "training_log.jsonl"):  # as one that was killed in its fifth step leaves it
        copy = shutil.copytree if (unbroken / name).is_dir() else shutil.copy
        copy(unbroken / name, tmp_path / name)
    words = (*common(pictures, tmp_path), *OPTIONS, "max_train_steps", 5, "resume_from_checkpoint", "latest")
    assert train("lora", *words) == 0
    same(tmp_path / FILE, unbroken / FILE)
    for name in ("trained", "optimiser", "average"):
        same(tmp_path / "checkpoint-5" / f"{name}.safetensors", unbroken / "checkpoint-5" / f"{name}.safetensors")
    assert losses(tmp_path) == losses(unbroken) and list(losses(tmp_path)) == list(range(1, 6))
    assert capsys.readouterr().out.strip() == str(tmp_path / FILE)


def test_what_a_run_leaves(unbroken):
    first, *steps = rows(unbroken)
    assert first["recipe"] == "lora" and first["settings"]["rank"] == 4 and first["steps"] == 5
    assert steps[0].keys() == {"step", "epoch", "loss", "seconds", "lr"}
    rates = [row["lr"] for row in steps]
    assert rates == [0, *(pytest.approx(1e-3 * part / 3) for part in (1, 2)), 1e-3, pytest.approx(5e-4)]
    (board,) = (unbroken / "logs").glob("events.out.tfevents.*")
    assert board.read_bytes().count(b"train/loss") == 5
    average, last = (arrays(unbroken / "checkpoint-5" / f"{name}.safetensors") for name in ("average", "trained"))
    written = arrays(unbroken / FILE)
    assert len(written) == len(average) and all(name.startswith("unet.") and "lora_" in name for name in written)
    for name, array in average.items():
        short = name.removeprefix("net.").replace(".default.", ".")
        np.testing.assert_array_equal(written[f"unet.{short}"], array)
    assert any((average[name] != last[name]).any() for name in average)


def test_the_result_converts_and_draws(unbroken, tmp_path, capsys):
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    words = ["convert", "demo", "--lora", unbroken / FILE, "--size", f"{SIDE}x{SIDE}", "--strict", "--out", bundle]
    assert cli.main([*map(str, words)]) == 0
    count = len(arrays(unbroken / FILE)) // 2
    assert f"{FILE} at 1: {count} of {count} applied" in "".join(capsys.readouterr())
    assert cli.main([*map(str, ["generate", bundle, CAPTION, "--steps", 2, "--out", out])]) == 0
    assert Image.open(out).size == (SIDE, SIDE)


def settings(recipe, *words):
    """As the command line reads them."""
    parser = argparse.ArgumentParser()
    add_flags(parser, recipe.SETTINGS)
    given = [word for name, value in zip(words[::2], words[1::2], strict=True) for word in (f"--{name}", str(value))]
    return settings_of(parser.parse_args(given), recipe.SETTINGS)


def job_of(recipe, *words):
    """(the engine, what it would train)."""
    from ondevice.train.engine import Engine

    found = recipe.checked(settings(recipe, "seed", 7, "resolution", SIDE, *words))
    engine = Engine(recipe.__name__.rpartition(".")[2], found)
    return engine, recipe.job(found, engine)


def drawn(seeds, shape, then):
    """What is drawn for each sample: the encoder's noise, the latents' noise, and what `then` draws."""
    found = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        found.append([*(torch.randn(shape, generator=generator) for _ in range(2)), *then(generator)])
    return [torch.stack(rows) for rows in zip(*found, strict=True)]


def test_a_step_of_a_lora_is_the_formula(pictures, tmp_path):
    """Loss and gradient, of DDPM's and min-SNR's equations written out, where noise is predicted and where v is."""
    _, job = job_of(lora, *common(pictures, tmp_path), "noise_offset", 0.2, "snr_gamma", 3)
    step = job.step
    for name, one in step.named_parameters():  # at first the second factor is zero, and no gradient reaches the first
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    batch = job.collate([job.data[position] for position in (3, 4, 11)])
    name, weight = next((n, p) for n, p in step.named_parameters() if p.requires_grad and "lora_A" in n)

    def then(generator):
        return torch.randn((4, 1, 1), generator=generator), torch.randint(1000, (), generator=generator)

    first, noise, offset, t = drawn(batch["seeds"], (4, SIDE // 8, SIDE // 8), then)
    with torch.no_grad():
        posterior = step.vae.encode(batch["pixels"]).latent_dist
        x = (posterior.mean + posterior.std * first) * 0.18215
    e = noise + 0.2 * offset
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t].reshape(-1, 1, 1, 1)
    told = step._texts.of(batch["captions"])[0]
    snr = (a / (1 - a)).flatten()
    least = torch.minimum(snr, torch.tensor(3.0))
    for prediction, wanted, weights in (
        ("epsilon", e, least / snr),
        ("v_prediction", a.sqrt() * e - (1 - a).sqrt() * x, least / (snr + 1)),
    ):
        object.__setattr__(step._noising, "prediction", prediction)
        loss = step(batch)["loss"]
        loss.backward()
        found, weight.grad = weight.grad.clone(), None
        guess = step.net(a.sqrt() * x + (1 - a).sqrt() * e, t, told).sample
        expected = (weights * ((guess - wanted) ** 2).mean((1, 2, 3))).mean()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert found.abs().max() > 0 and (found - weight.grad).abs().max() <= 1e-4 * found.abs().max(), name
        weight.grad = None


def test_a_model_learns(pictures, tmp_path):
    """Of the same noise a LoRA's loss is lower after twenty steps."""
    words = (*common(pictures, tmp_path), "max_train_steps", 20, "rank", 8, "noise_offset", 0)
    assert train("lora", *words) == 0

    _, job = job_of(lora, *common(pictures, tmp_path / "other"), "noise_offset", 0, "rank", 8)
    batch = job.collate([job.data[position] for position in range(100, 110)])
    with torch.no_grad():
        before = job.step(batch)["loss"].item()
        values = arrays(tmp_path / FILE)
        for name, one in job.step.named_parameters():
            if "lora_" in name:
                one.copy_(torch.from_numpy(values["unet." + name.removeprefix("net.").replace(".default.", ".")]))
        after = job.step(batch)["loss"].item()
    assert after < 0.7 * before, (before, after)


# DreamBooth -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Two pictures of the class."""
    folder = tmp_path_factory.mktemp("classes")
    for number in range(2):
        Image.new("RGB", (SIDE, SIDE), (40 + 90 * number, 160, 60)).save(folder / f"{number}.png")
    return folder


def subject(folder, classes, out, model="demo", **more):
    words = {"pretrained_model_name_or_path": model, "instance_data_dir": folder, "instance_prompt": "a pink disc"}
    words |= {"with_prior_preservation": "true", "class_data_dir": classes, "class_prompt": "a circle"}
    words |= {"num_class_images": 2, "output_dir": out} | more
    return [word for pair in words.items() for word in pair]


@pytest.fixture
def bare(pictures, tmp_path):
    """The pictures without captions."""
    folder = tmp_path / "bare"
    shutil.copytree(pictures, folder)
    (folder / "metadata.jsonl").unlink()
    return folder


def test_dreambooth_of_the_whole_network(bare, classes, tmp_path):
    """With its text encoder; unbroken as after a kill; the folder is one that is converted."""
    words = {"train_text_encoder": "true", "checkpointing_steps": 1, "checkpoints_total_limit": 2, "noise_offset": 0.1}
    for name in ("whole", "broken"):
        steps = {"whole": (2,), "broken": (1, 2)}[name]
        for count in steps:
            given = words | {"max_train_steps": count, "resume_from_checkpoint": "latest"}
            assert train("dreambooth", *subject(bare, classes, tmp_path / name, **given)) == 0
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        same(*(tmp_path / name / "model" / part / f"{file}.safetensors" for name in ("whole", "broken")))
    last = rows(tmp_path / "whole")[-1]
    assert last["loss"] == pytest.approx(last["instance_loss"] + last["prior_loss"])
    assert open_checkpoint(tmp_path / "whole" / "model", family="sd15").components.keys() >= {"unet", "text_encoder"}


def test_pictures_of_a_class_and_for_validation_are_drawn_here(bare, tmp_path):
    words = {"num_class_images": 3, "num_inference_steps": 2, "max_train_steps": 2, "prior_loss_weight": 0.5}
    words |= {"validation_prompt": "a pink disc", "num_validation_images": 2}
    folder = tmp_path / "class"
    folder.mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(folder / "mine.png")
    assert train("dreambooth_lora", *subject(bare, folder, tmp_path / "out", **words)) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["class-00001.png", "class-00002.png", "mine.png"]
    found = sorted((tmp_path / "out" / "validation").iterdir())
    assert [path.name for path in found] == ["step-000002-1.png", "step-000002-2.png"]
    (board,) = (tmp_path / "out" / "logs").glob("events.out.tfevents.*")
    assert board.read_bytes().count(b"validation") == board.read_bytes().count(b"\x89PNG") == 1  # side by side
    pixels = [np.asarray(Image.open(path)) for path in (*found, *sorted(folder.glob("class-*")))]
    assert all(one.shape == (SIDE, SIDE, 3) and one.std() > 5 for one in pixels)
    assert json.loads(Image.open(found[1]).info["ondevice"])["step"] == 2
    last = rows(tmp_path / "out")[-1]
    assert last["loss"] == pytest.approx(last["instance_loss"] + 0.5 * last["prior_loss"])


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pretrained_model_name_or_path": "./no"},
            "ath ./no: there is no such folder. Fix: give a diffusers folder or",
        ),
        ({"mixed_precision": "fp16"}, "--mixed_precision: this machine cannot compute in it ("),
        ({"target_modules": "to_z"}, "--target_modules: the model has no such layers (got to_z). Fix: use to_k to_q"),
        ({"resume_from_checkpoint": "checkpoint-9"}, "point-9: there is no such checkpoint in"),
        ({"resume_from_checkpoint": "latest", "rank": 5}, "_A.default.weight is of another shape (got [4, "),
        (
            {"resume_from_checkpoint": "latest", "seed": 8},
            "--seed: the checkpoint was trained with another (got 8, exp",
        ),
        (
            {"resume_from_checkpoint": "latest", "target_modules": "to_k"},
            "it is of a run that trained other parameters",
        ),
        (
            {"learning_rate": 1e30, "max_grad_norm": 0},
            "is no number (got nan). Fix: lower --learning_rate, or train wi",
        ),
    ],
)
def test_what_is_refused(changes, message, pictures, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken / "checkpoint-5", tmp_path / "checkpoint-5")
    words = dict(zip(*[iter(common(pictures, tmp_path))] * 2, strict=True)) | {"max_train_steps": 10} | changes
    assert train("lora", *[word for pair in words.items() for word in pair]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, kept", [("state.json", 40), ("trained.safetensors", 0), ("optimiser.safetensors", 4000)]
)
def test_a_damaged_checkpoint(name, kept, pictures, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken / "checkpoint-5", tmp_path / "checkpoint-5")
    path = tmp_path / "checkpoint-5" / name
    path.write_bytes(path.read_bytes()[:kept])
    words = (*common(pictures, tmp_path), "max_train_steps", 9, "resume_from_checkpoint", "latest")
    assert train("lora", *words) == 3
    assert f"{name}: it cannot be read (" in capsys.readouterr().err


def test_of_another_recipe(bare, classes, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken / "checkpoint-5", tmp_path / "out" / "checkpoint-5")
    assert train("dreambooth_lora", *subject(bare, classes, tmp_path / "out", resume_from_checkpoint="latest")) == 3
    assert "it is of another recipe (got lora, expected dreambooth_lora)." in capsys.readouterr().err
