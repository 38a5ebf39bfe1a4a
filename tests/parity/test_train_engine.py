"""The loop that every recipe runs in, of a network of one layer: what is drawn at random in a step, and which steps are
kept, do not depend on where a run went on."""

from __future__ import annotations

import argparse
import io
import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from parity.test_train import few_threads, losses, settings  # noqa: F401
from PIL import Image

from ondevice.errors import OutputError
from ondevice.train import lora

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


class Positions(torch.utils.data.Dataset):
    def __getitem__(self, position):
        return position


class Drops(torch.nn.Module):
    """Learns to be what a layer leaves of ones that drops half of them; keeps what each batch was and what was left."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(64)), []

    def forward(self, batch):
        left = torch.nn.functional.dropout(torch.ones(64), 0.5, self.training)
        self.seen.append((batch["positions"], left))
        return {"loss": (self.weight - left).square().mean()}


def trained(out, steps):
    """(what each batch was and what was left, the weights) of a run to so many steps, or on to them."""
    from ondevice.train.engine import Engine, Job

    words = {"pretrained_model_name_or_path": "demo", "data_dir": out, "output_dir": out, "train_batch_size": 2}
    words |= {"seed": 7, "max_train_steps": steps, "checkpointing_steps": 1, "checkpoints_total_limit": 2}
    words |= {"gradient_accumulation_steps": 2, "resume_from_checkpoint": "latest", "dataloader_num_workers": 0}
    found = settings(lora, *(word for pair in words.items() for word in pair))
    step = Drops()
    job = Job(
        step,
        [{"params": [step.weight], "lr": 0.1}],
        Positions(),
        8,
        lambda samples: {"positions": samples},
        lambda folder: folder,
    )
    Engine("lora", found).train(job)
    return step.seen, step.weight.detach()


def test_a_run_that_goes_on_drops_what_an_unbroken_one_drops(tmp_path):
    """No two batches alike; after ten steps the last checkpoints are still the last ones."""
    whole, weights = trained(tmp_path / "whole", 11)
    assert [positions for positions, _ in whole] == [[2 * batch, 2 * batch + 1] for batch in range(22)]
    assert len({tuple(left.tolist()) for _, left in whole}) == 22
    seen = []
    for steps in (3, 10, 11):
        more, found = trained(tmp_path / "broken", steps)
        seen += more
    assert torch.equal(weights, found) and losses(tmp_path / "whole") == losses(tmp_path / "broken")
    for (positions, left), (others, expected) in zip(seen, whole, strict=True):
        assert positions == others and torch.equal(left, expected)
    for name in ("whole", "broken"):
        kept = {path.name for path in (tmp_path / name).glob("checkpoint-*")}
        assert kept == {"checkpoint-10", "checkpoint-11"}


def test_each_process_drops_what_no_other_drops(tmp_path, monkeypatch):
    """Else two processes would learn less from a step than one with both batches."""
    pytest.importorskip("accelerate")
    seen, _ = trained(tmp_path / "first", 2)
    monkeypatch.setattr("accelerate.Accelerator.process_index", 1)
    more, _ = trained(tmp_path / "second", 2)
    assert len({tuple(left.tolist()) for _, left in seen + more}) == len(seen) + len(more) == 8


def test_readers_draw_numbers_of_their_own_and_say_how_large_a_picture_was():
    """As its shard has it, so that Stable Diffusion XL is told that; no two samples have one seed, of any reader."""
    from ondevice.train.lines import Lines
    from ondevice.train.order import Share
    from ondevice.train.part_files import Sample
    from ondevice.train.pictures import Cut

    file = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file, "png")
    samples = [Sample(text, file.getvalue(), text, whole) for text, whole in (("a", (480, 640)), ("b", None))]
    taken = []
    for rank in range(2):
        lines = Lines(["one", "other"], Cut(16), Share(1, 1, rank, 2), 7, 1, 0, lambda *_: iter(samples), "flag")
        taken += [item for (item,) in itertools.islice(lines, 4)]
    sizes = {item["caption"]: item["sizes"].tolist()[:2] for item in taken}
    assert sizes == {"a": [480, 640], "b": [20, 30]}
    assert len({item["seed"] for item in taken}) == 8


def test_captions_are_read_again_where_more_come_than_are_kept(monkeypatch):
    from ondevice.train import parts

    monkeypatch.setattr(parts, "_KEPT", 3)
    texts, read = parts.Texts(None), []

    def encoded(captions):
        read.append([*captions])
        return torch.tensor([[float(caption)] for caption in captions]), torch.tensor([-float(one) for one in captions])

    monkeypatch.setattr(texts, "_encoded", encoded)
    for captions in (["1", "2", "1"], ["2", "3"], ["1", "4", "2"], ["4"]):
        states, pooled = texts.of(captions)
        assert states.flatten().tolist() == [float(one) for one in captions] == (-pooled).tolist()
    assert read == [["1", "2"], ["3"], ["1", "4", "2"]]


def test_a_checkpoint_that_is_half_removed_is_none(tmp_path, monkeypatch):
    from ondevice.train import checkpoints

    def half(path):
        (path / "optimiser.safetensors").unlink()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints, "shutil", SimpleNamespace(rmtree=half))
    with pytest.raises(OutputError, match=r"checkpoint-1: cannot be written \(Input/output error\)"):
        trained(tmp_path, 4)
    assert [path.name for path in checkpoints.Checkpoints(tmp_path).all()] == ["checkpoint-2", "checkpoint-3"]


def test_checkpoints_of_an_older_run_go_before_this_one_s(tmp_path):
    """Which are of later steps: a run that begins again in the same folder keeps its own."""
    from ondevice.train import checkpoints

    older = tmp_path / "checkpoint-9"
    older.mkdir()
    (older / checkpoints.STATE).write_text("{}")
    kept, weight = checkpoints.Checkpoints(tmp_path, limit=1), torch.nn.Parameter(torch.zeros(2))
    path = kept.keep({"recipe": "lora", "step": 2, "seed": 7}, {"a": weight}, None, torch.optim.AdamW([weight]), None)
    assert kept.all() == [path] and kept.asked(checkpoints.LATEST) == path and not older.exists()


def test_pictures_of_a_class_take_the_place_of_none(tmp_path, monkeypatch):
    """One was taken out, and two are missing: the names of those that are there stay theirs."""
    from ondevice.train import subject

    for number in (0, 2):
        Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / f"class-{number:05}.png")
    drawn = SimpleNamespace(pixels=np.zeros((8, 8, 3), np.uint8), parameters={"prompt": "a disc"})
    monkeypatch.setattr(subject, "drawing", lambda *_: nullcontext(lambda prompt, **_: drawn))
    words = {"class_data_dir": str(tmp_path), "num_class_images": 4, "class_prompt": "a disc", "seed": 7}
    words |= {"resolution": 8, "num_inference_steps": 1, "validation_guidance": None, "revision": None}
    subject.draw_class(argparse.Namespace(**words, pretrained_model_name_or_path="demo"))
    colours = {path.name: Image.open(path).getpixel((0, 0))[0] for path in tmp_path.iterdir()}
    assert colours == {f"class-{number:05}.png": 200 if number in (0, 2) else 0 for number in (0, 2, 3, 4)}


def test_every_picture_of_a_class_is_taken_beside_fewer_of_a_subject(tmp_path):
    """In an epoch; each with numbers of its own, those of the class last."""
    from ondevice.train.pictures import Cut, Sample
    from ondevice.train.samples import Pictures, collated

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    own, prior = (
        [Sample(tmp_path / "a.png", f"{name}{number}") for number in range(count)]
        for name, count in (("s", 2), ("c", 3))
    )
    data = Pictures(own, Cut(8), 7, prior)
    batch = collated([data[position] for position in range(len(data))])
    assert {*batch["captions"][:3]} == {"s0", "s1"} and {*batch["captions"][3:]} == {"c0", "c1", "c2"}
    assert len(batch["captions"]) == len({*batch["seeds"]}) == 6


class Pairs(torch.nn.Module):
    """An autoencoder whose latents are a picture's mean, four times, and whose pictures are three of them."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(scaling_factor=2.0, shift_factor=0.25)

    def encode(self, pixels):
        mean = pixels.mean(1, keepdim=True).repeat(1, 4, 1, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)), latents=0 * mean)

    def decode(self, latents):
        return SimpleNamespace(sample=latents[:, :3])


def test_a_tiny_autoencoder_has_latents_as_samplers_have_them():
    """Shifted and scaled, as Stable Diffusion 3's; its teacher gets them as it made them."""
    from ondevice.train.tiny_autoencoding import TinyAutoencoding

    settings = argparse.Namespace(latent_noise=0.0, on_the_way=0.0, edge_weight=0.0)
    pixels = torch.linspace(-0.8, 0.9, 2 * 3 * 16).reshape(2, 3, 4, 4)
    found = TinyAutoencoding(Pairs(), Pairs(), settings)({"pixels": pixels, "seeds": [1, 2]})
    mean = pixels.mean(1)
    latents = 2 * (mean - 0.25)
    off = latents - mean  # the tiny one's picture is the latents themselves
    assert found["encoder"].item() == pytest.approx(latents.square().mean().item(), rel=1e-5)
    assert found["decoder"].item() == pytest.approx((off.abs().mean() + 2 * off.square().mean()).item(), rel=1e-5)
