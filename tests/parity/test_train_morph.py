"""A morph by one command: two LoRAs, a bundle, frames."""

import numpy as np
import pytest
from parity.test_train import CAPTION, arrays, few_threads, losses  # noqa: F401
from PIL import Image

from ondevice import cli

pytestmark = [pytest.mark.parity, pytest.mark.device]


def test_a_morph_of_two_pictures(tmp_path, capsys):
    """By one command: a LoRA for each picture, and frames, the first with the first LoRA alone. It goes on."""
    for name, colour in (("a", (220, 30, 30)), ("b", (30, 60, 220))):
        pixels = np.full((40, 72, 3), 240, np.uint8)
        pixels[8:32, 24:48] = colour
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    words = {"pretrained_model_name_or_path": "demo", "img1_path": tmp_path / "a.png", "image_b": tmp_path / "b.png"}
    words |= {"prompt": "a red square on a white background", "prompt_b": "a blue square on a white background"}
    words |= {"resolution": 64, "output_dir": tmp_path / "out", "max_train_steps": 4, "seed": 3, "n_frames": 2}
    words |= {"num_inference_steps": 3, "rank": 2, "learning_rate": 1e-2, "resume_from_checkpoint": "latest"}
    command = ["train", "morph", *(f"--{name}={value}" for name, value in words.items())]
    assert cli.main(command) == 0
    frames = tmp_path / "out" / "frames"
    assert capsys.readouterr().out.splitlines()[-1] == str(frames)
    assert {path.name for path in frames.iterdir()} == {
        "frame-01.png", "frame-02.png", "frame-03.png", "morph.webp", "morph.gif",
    }  # fmt: skip
    one, other = (arrays(tmp_path / "out" / end / f"{end}.safetensors") for end in "ab")
    assert one.keys() == other.keys() and any((one[name] != other[name]).any() for name in one)
    bundle, out = tmp_path / "out" / "model.ondevice", tmp_path / "by_hand"
    files = [tmp_path / "out" / end / f"{end}.safetensors" for end in "ab"]
    by_hand = ["morph", bundle, tmp_path / "a.png", tmp_path / "b.png", "--prompt", words["prompt"], "--frames", 3]
    by_hand += ["--prompt-b", words["prompt_b"], "--lora-a", files[0], "--lora-b", files[1], "--steps", 3]
    assert cli.main([*map(str, [*by_hand, "--fit", "crop", "--out", out])]) == 0
    for path in sorted(frames.glob("*.png")):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(out / path.name)))
    times = [path.stat().st_mtime_ns for path in sorted(frames.glob("*.png"))]
    assert cli.main(command) == 0  # nothing is left to train or to draw
    assert [path.stat().st_mtime_ns for path in sorted(frames.glob("*.png"))] == times
    assert len(losses(tmp_path / "out" / "a")) == 4
    capsys.readouterr()


def test_a_morph_of_a_picture_that_is_not_there(tmp_path, capsys):
    words = ["--pretrained_model_name_or_path", "demo", "--image_a", str(tmp_path / "a"), "--image_b", "b"]
    assert cli.main(["train", "morph", *words, "--prompt", CAPTION, "--output_dir", str(tmp_path / "out")]) == 2
    assert f"--image_a {tmp_path / 'a'}: there is no such file. Fix: give a picture." in capsys.readouterr().err
