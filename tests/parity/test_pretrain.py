"""Pretraining on part files: what is read, a run that goes on, what comes out, and a step against its formula."""

import base64
import gzip
import json
import shutil

import numpy as np
import pytest
from checkpoint_files import message
from parity.test_train import CAPTION, SIDE, alone, arrays, drawn, few_threads, job_of, losses, same  # noqa: F401
from PIL import Image

from ondevice import cli
from ondevice.errors import CheckpointError, UsageError
from ondevice.train import pretrain

pytestmark = [pytest.mark.parity, pytest.mark.device]
torch = pytest.importorskip("torch")
PARTS = 4


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """Four parts of five pictures; the first has a line that is none, a picture that is none, and an end too early."""
    folder = tmp_path_factory.mktemp("parts")
    for number in range(PARTS):
        lines = []
        for place in range(5):
            pixels = np.full((72, 80, 3), 40 * place + 10 * number, np.uint8)
            pixels[20:40, 10 * place : 10 * place + 20] = (250, 120, 180)
            Image.fromarray(pixels).save(folder / "a.png")
            picture = base64.b64encode((folder / "a.png").read_bytes())
            lines.append(b"a pink square %d on grey %d\t_\t%b\n" % (place, number, picture))
        if number == 0:
            lines[1:1] = [b"a line\n", b"no picture\t\tQUJD\n"]
        (folder / f"part-{number}.gz").write_bytes(gzip.compress(b"".join(lines))[: -20 if number == 0 else None])
    (folder / "x.filelist").write_text("".join(f"part-{number}.gz\n" for number in range(PARTS)))
    (folder / "x.filelist.list").write_text("x.filelist\n")
    return folder / "x.filelist.list"


def given(listed, out, **more):
    words = {"pretrained_model_name_or_path": "demo", "file_list": listed, "output_dir": out, "buffer_count": 3}
    words |= {"dataloader_num_workers": 0, "per_device_train_batch_size": 2, "save_steps": 3} | more
    return [word for pair in words.items() for word in pair]


def train(*words):
    words = [word for name, value in zip(words[::2], words[1::2], strict=True) for word in (f"--{name}", str(value))]
    return cli.main(["train", "pretrain", "--resolution", str(SIDE), "--seed", "7", *words])


def test_a_run_that_goes_on_ends_where_an_unbroken_one_does(listed, tmp_path, capsys, caplog):
    """With two workers, who go on where each of them was; the folder converts and draws."""
    words = {"use_ema": "true", "train_text_encoder": "true", "text_encoder_learning_rate": 1e-5, "recompute": "true"}
    words |= {"dataloader_num_workers": 2, "resume_from_checkpoint": "latest", "save_steps": 1}
    for name, steps in (("whole", (2,)), ("broken", (1, 2))):
        for count in steps:
            more = words | {"max_steps": count}
            assert train(*given(listed, tmp_path / name, **more)) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        same(*(tmp_path / name / "model" / part / f"{file}.safetensors" for name in ("whole", "broken")))
    kept = tmp_path / "whole" / "checkpoint-1"
    assert {path.name for path in kept.iterdir() if path.is_dir()} == {"unet", "text_encoder"}
    said = capsys.readouterr().err
    assert " trained parameters, 2 steps, seed 7" in said and "torchvision" not in said
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    words = ["convert", "sd15", "--checkpoint", tmp_path / "whole" / "model", "--size", f"{SIDE}x{SIDE}"]
    assert cli.main([*map(str, words), "--out", str(bundle)]) == 0
    assert cli.main(["generate", str(bundle), CAPTION, "--steps", "2", "--out", str(out)]) == 0
    assert Image.open(out).size == (SIDE, SIDE)


def test_what_learns_and_how_fast(listed, tmp_path):
    """The text encoder stays as it is, or learns at a rate of its own; all of the model may be kept, too."""
    _, job = job_of(pretrain, *given(listed, tmp_path, unet_learning_rate=2e-4))
    assert [group["lr"] for group in job.groups] == [2e-4]
    assert not any(one.requires_grad for one in job.step.encoders.parameters())
    words = {"train_text_encoder": "true", "text_encoder_learning_rate": 1e-5, "only_save_updated_model": "false"}
    _, job = job_of(pretrain, *given(listed, tmp_path, **words))
    assert [group["lr"] for group in job.groups] == [1e-4, 1e-5]
    assert all(one.requires_grad for one in job.step.encoders.parameters())
    job.beside(tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"unet", "vae", "text_encoder", "model_index.json"}


def test_what_is_broken_is_named_and_left_out(listed, tmp_path, caplog):
    _, job = job_of(pretrain, *given(listed, tmp_path))
    found = iter(job.data)
    captions = [next(found)[0]["caption"] for _ in range(60)]
    assert not {"a line", "no picture"} & {*captions} and len({*captions}) >= 19
    said = " ".join(caplog.messages)
    part = listed.parent / "part-0.gz"
    assert f"{part}, line 2: the line has 1 of 3 columns; left out" in said
    assert f"{part}, line 3: it cannot be read as a picture" in said
    assert f"{part}: it cannot be read from line " in said and "Compressed file ended" in said


def test_readers_share_the_parts(listed, tmp_path):
    """What two processes of two workers take in a pass is all there is, each once."""
    from ondevice.train.lines import Lines
    from ondevice.train.order import Share
    from ondevice.train.pictures import Cut

    for number in range(PARTS):  # of four samples each
        lines = gzip.decompress((listed.parent / "part-1.gz").read_bytes()).splitlines(keepends=True)[:4]
        (tmp_path / f"part-{number}").write_bytes(b"".join(lines).replace(b"on grey 1", b"on grey %d" % number))
    taken = []
    for rank in range(2):
        data = Lines(sorted(tmp_path.glob("part-*")), Cut(SIDE), Share(2, 1, rank, 2), 7, 1, 2)
        loader = iter(torch.utils.data.DataLoader(data, 2, num_workers=2, collate_fn=list))
        batches = [[item["caption"] for (item,) in next(loader)] for _ in range(4)]
        data.first = 3
        later = iter(torch.utils.data.DataLoader(data, 2, num_workers=2, collate_fn=list))
        assert [item["caption"] for (item,) in next(later)] == batches[3]
        taken += [caption for batch in batches for caption in batch]
    assert len(taken) == len({*taken}) == 16


def test_fewer_parts_than_readers_are_refused(listed, tmp_path):
    said = message(lambda: job_of(pretrain, *given(listed, tmp_path, dataloader_num_workers=5)), UsageError)
    assert said.startswith("--file_list: there are fewer part files than readers (got 4, expected 5 or more).")


def test_a_unet_begins_at_random_with_its_config(listed, tmp_path):
    config = tmp_path / "unet_config.json"
    small = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 64, "norm_num_groups": 4}
    small |= {"block_out_channels": [8, 16], "attention_head_dim": 4, "layers_per_block": 1}
    small |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    small |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    config.write_text(json.dumps(small))
    assert train(*given(listed, tmp_path / "out", unet_name_or_path=config, max_steps=2, learning_rate=1e-3)) == 0
    weight = arrays(tmp_path / "out" / "model" / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    assert weight.shape == (8, 4, 3, 3)
    config.write_text(json.dumps(small | {"cross_attention_dim": 32}))
    words = given(listed, tmp_path / "out", unet_name_or_path=config)
    said = message(lambda: job_of(pretrain, *words), CheckpointError)
    assert said.startswith("unet: its cross_attention_dim is not the text encoder's hidden_size (got 32, expected 64).")
    config.write_text("{")
    said = message(lambda: job_of(pretrain, *words), CheckpointError)
    assert said.startswith("--unet_name_or_path ") and "or its config's .json" in said


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_step_is_the_formula(prediction, listed, tmp_path):
    """Loss and gradients, of equations written out: what is learned is the noise without the perturbation."""
    words = {"input_perturbation": 0.1, "prediction_type": prediction, "train_text_encoder": "true"}
    _, job = job_of(pretrain, *given(listed, tmp_path, **words))
    step, samples = job.step, iter(job.data)
    batch = job.collate([next(samples) for _ in range(3)])
    loss = step(batch)["loss"]
    loss.backward()
    weights = (step.net.conv_in.weight, next(iter(step.encoders.values())).get_input_embeddings().weight)
    found = [one.grad.clone() for one in weights]
    step.zero_grad()

    def then(generator):
        return torch.randint(1000, (), generator=generator), torch.randn((4, 8, 8), generator=generator)

    first, e, t, more = drawn(batch["seeds"], (4, 8, 8), then)
    with torch.no_grad():
        posterior = step.vae.encode(batch["pixels"]).latent_dist
        x = (posterior.mean + posterior.std * first) * 0.18215
    a = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t].reshape(-1, 1, 1, 1)
    told = step._texts.of(batch["captions"])[0]
    guess = step.net(a.sqrt() * x + (1 - a).sqrt() * (e + 0.1 * more), t, told).sample
    wanted = e if prediction == "epsilon" else a.sqrt() * e - (1 - a).sqrt() * x
    expected = ((guess - wanted) ** 2).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, gradient in zip(weights, found, strict=True):
        assert gradient.abs().max() > 0 and (gradient - one.grad).abs().max() <= 1e-4 * gradient.abs().max()


def test_halves_what_is_computed_again_and_pictures_on_the_way(listed, tmp_path):
    """bf16 gives nearly the loss of single precision, recompute its very own; pictures are drawn as often as asked."""
    words = {"max_steps": 1, "noise_offset": 0.1, "snr_gamma": 5}
    assert train(*given(listed, tmp_path / "whole", **words)) == 0
    alone()
    assert train(*given(listed, tmp_path / "again", recompute="true", **words)) == 0
    alone()
    more = {"validation_prompt": CAPTION, "num_validation_images": 1, "num_inference_steps": 1}
    drawn = words | more | {"max_steps": 3, "image_logging_steps": 2}
    assert train(*given(listed, tmp_path / "half", bf16="true", **drawn)) == 0
    alone()
    found, again, half = (losses(tmp_path / name)[1] for name in ("whole", "again", "half"))
    assert again == found and half != found and half == pytest.approx(found, rel=0.05)
    pictures = sorted((tmp_path / "half" / "validation").iterdir())
    assert [path.name for path in pictures] == ["step-000002-1.png", "step-000003-1.png"]
    assert all(Image.open(path).size == (SIDE, SIDE) for path in pictures)
    _, job = job_of(pretrain, *given(listed, tmp_path / "never", image_logging_steps=-1, **more))
    assert job.draw is None


def test_two_precisions_are_refused(listed, tmp_path):
    said = message(lambda: job_of(pretrain, *given(listed, tmp_path, bf16="true", mixed_precision="fp16")), UsageError)
    assert said == "--mixed_precision: there are several precisions (got bf16 and fp16). Fix: give one of them."


def test_a_rate_for_the_samples_of_a_step(listed, tmp_path):
    """Of each that is given."""
    words = {"scale_lr": "true", "gradient_accumulation_steps": 3, "learning_rate": 1e-4, "unet_learning_rate": 2e-4}
    _, job = job_of(pretrain, *given(listed, tmp_path, train_text_encoder="true", **words))
    assert [group["lr"] for group in job.groups] == pytest.approx([12e-4, 6e-4])
    assert job.data.cut.resampling == "lanczos"


def test_a_list_that_is_not_there(tmp_path):
    said = message(lambda: job_of(pretrain, *given(tmp_path / "gone.filelist", tmp_path)), UsageError)
    assert "gone.filelist: it cannot be read (No such file or directory). Fix: give a list of part files." in said
    shutil.rmtree(tmp_path)
