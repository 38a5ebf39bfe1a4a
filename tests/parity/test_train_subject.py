"""DreamBooth's pictures of a class, with captions of their own."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

pytestmark = pytest.mark.parity
for package in ("torch", "diffusers", "peft", "accelerate", "tensorboardX"):
    pytest.importorskip(package)


def test_pictures_of_a_class_have_their_captions_where_there_are_such(tmp_path):
    """An empty one among them, for guidance; nothing is drawn, although there are fewer than were asked for."""
    from ondevice.train.subject import pictures_of

    for name in ("own", "class"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / name / f"{number}.png")
    texts = ["a red square", "", "a blue circle"]
    rows = [json.dumps({"file_name": f"{number}.png", "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "class" / "metadata.jsonl").write_text("\n".join(rows))
    settings = SimpleNamespace(
        instance_data_dir=str(tmp_path / "own"), instance_prompt="a d circle", repeats=2, class_prompt="a circle",
        with_prior_preservation=True, class_data_dir=str(tmp_path / "class"), num_class_images=100, resolution=64,
    )  # fmt: skip
    own, prior = pictures_of(settings, engine=None)
    assert [one.caption for one in own] == ["a d circle"] * 6
    assert [(one.path.name, one.caption) for one in prior] == [(f"{n}.png", text) for n, text in enumerate(texts)]
    settings.num_class_images = 2
    assert [one.caption for one in pictures_of(settings, engine=None)[1]] == texts[:2]
