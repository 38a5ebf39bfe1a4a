"""The folder of pictures: read back, and nothing else of the disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ondevice.diffusion.picture_file import encoded
from ondevice.errors import UsageError
from ondevice.serving import gallery as module
from ondevice.serving.gallery import Gallery

ABOUT = {"prompt": "a cat", "seed": 7, "width": 4, "height": 2, "sampler": "ddim", "steps": 3}
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def file(**about):
    """A picture's."""
    return encoded(Path("a.png"), PIXELS, ABOUT | about)


def names(gallery, **page):
    return [entry.name for entry in gallery.page(**{"count": 99, **page})]


def test_what_was_drawn_is_there_after_a_new_start(tmp_path):
    first = Gallery(tmp_path / "new" / "folder")
    entries = [first.add(file(seed=seed)) for seed in range(3)]
    assert [entry.name for entry in entries] == ["000001.png", "000002.png", "000003.png"]
    second = Gallery(tmp_path / "new" / "folder")
    assert second.page(9) == entries[::-1] == first.page(9)
    assert entries[1].parameters == ABOUT | {"seed": 1} and "Seed: 1" in entries[1].text
    assert np.array_equal(Image.open(second.find("000002.png")), PIXELS)
    assert second.add(file()).name == "000004.png"
    assert names(second, count=2) == ["000004.png", "000003.png"]
    assert names(second, before="000003.png") == ["000002.png", "000001.png"]
    assert names(second, count=1, before="none") == ["000004.png"]


def test_pictures_of_others_are_shown_and_what_is_none_is_not(tmp_path, caplog):
    about = PngImagePlugin.PngInfo()
    about.add_text("parameters", "a dog\nSteps: 20, Sampler: Euler a, Seed: 3")
    Image.new("RGB", (5, 6)).save(tmp_path / "dog.png", pnginfo=about)
    Image.new("RGB", (5, 6)).save(tmp_path / "plain.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "plain.png").read_bytes()[:30])
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "link.png").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "there.png").symlink_to(tmp_path / "dog.png")
    wild = PngImagePlugin.PngInfo()
    wild.add_text("ondevice", "[" * 100_000)
    Image.new("RGB", (5, 6)).save(tmp_path / "wild.png", pnginfo=wild)
    gallery = Gallery(tmp_path)
    assert set(names(gallery)) == {"dog.png", "plain.png"}
    dog = gallery.entry("dog.png")
    assert (
        dog.text.startswith("a dog") and dog.parameters.items() >= {"prompt": "a dog", "steps": 20, "seed": 3}.items()
    )
    assert dog.parameters["sampler"] == "euler_a" and gallery.entry("plain.png").parameters == {}
    assert len(caplog.messages) == 3 and all("not shown in the gallery" in line for line in caplog.messages)
    for name in ("secret.txt", "link.png", "../dog.png", "./dog.png", str(tmp_path / "dog.png"), "", ".", "dog.png\0"):
        assert gallery.find(name) is None
    os.remove(gallery.find("dog.png"))
    assert gallery.find("dog.png") is None


def test_numbers_go_on_behind_whatever_is_there(tmp_path):
    for name in ("7.png", "000011-2.png", "0.5.png", "99999999999.png", "x12.png"):
        Image.new("RGB", (1, 1)).save(tmp_path / name)
    assert Gallery(tmp_path).add(file()).name == "000012.png"


def test_only_the_newest_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    gallery = Gallery(tmp_path)
    for _ in range(5):
        gallery.add(file())
    assert names(gallery) == ["000005.png", "000004.png", "000003.png"] and len(os.listdir(tmp_path)) == 5
    assert names(Gallery(tmp_path)) == names(gallery)


def test_a_folder_that_cannot_be_had(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        Gallery(tmp_path / "file")
    assert str(caught.value) == (
        f"--gallery: {tmp_path / 'file'}: no folder for pictures (File exists). "
        "Fix: name another folder with --gallery."
    )


def test_an_entry_is_json(tmp_path):
    entry = Gallery(tmp_path).add(file())
    assert json.loads(json.dumps(entry.to_json())) == entry.to_json()
