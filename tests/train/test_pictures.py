"""Pictures to train on: folders, captions, cuts, and what is refused."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from ondevice.errors import UsageError
from ondevice.train.order import mixed
from ondevice.train.pictures import Cut, captioned, files_of


def save(path, width=12, height=8, mode="RGB", **more):
    rng = np.random.default_rng(width * height)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **more)
    return pixels


def lines(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_captions_of_a_folder(tmp_path, caplog):
    for name in ("a.png", "b.jpg", "c.webp"):
        save(tmp_path / name)
    lines(tmp_path, {"file_name": "b.jpg", "text": "zwei ö"}, {"file_name": "a.png", "text": ""},
          {"file_name": "gone.png", "text": "x"}, {"file_name": "n" * 9999, "text": "x"})  # fmt: skip
    with caplog.at_level(logging.WARNING):
        found = captioned(tmp_path, "data_dir")
    assert [(one.path.name, one.caption) for one in found] == [("b.jpg", "zwei ö"), ("a.png", "")]
    assert f"2 pictures are not there and are left out (gone.png, {'n' * 200}...)" in caplog.text
    assert "1 pictures have no line and are left out (c.webp)" in caplog.text
    assert [path.name for path in files_of(tmp_path, "data_dir")] == ["a.png", "b.jpg", "c.webp"]


def test_pictures_with_several_captions(tmp_path):
    """Each is taken, and a seed says which."""
    save(tmp_path / "a.png")
    lines(tmp_path, {"file_name": "a.png", "text": ["one", "two", "three"]})
    (sample,) = captioned(tmp_path, "data_dir")
    told = [sample.told(mixed(7, position)) for position in range(60)]
    assert all(told.count(one) > 10 for one in ("one", "two", "three"))
    assert told == [sample.told(mixed(7, position)) for position in range(60)]


def test_how_pictures_are_made_smaller(tmp_path):
    pixels = save(tmp_path / "a.png", 32, 32)
    for name in ("bilinear", "lanczos"):
        piece = Cut(8, True, resampling=name).of(tmp_path / "a.png", np.random.default_rng(0))
        small = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling[name.upper()]), np.float32)
        np.testing.assert_allclose(piece.pixels, small.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the line is no JSON ("),
        ('{"file_name": "a.png", "text": []}', "the line has no file_name and text, two texts."),
        ('{"file_name": "a.png", "text": ["x", 1]}', "the line has no file_name and text, two texts."),
        ('{"file_name": "a.png"}', "the line has no file_name and text, two texts."),
        ("[]", "the line has no file_name and text, two texts."),
        ('{"file_name": "../a.png", "text": "x"}', "file_name leads out of the folder."),
        ('{"file_name": "/etc/a.png", "text": "x"}', "file_name leads out of the folder."),
        ('{"file_name": "a.png", "text": "' + "x" * 70_000 + '"}', "the line is longer than 65536 bytes."),
    ],
)
def test_lines_that_are_refused(text, message, tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text("\n" + text + "\n")
    with pytest.raises(UsageError) as caught:
        captioned(tmp_path, "data_dir")
    assert str(caught.value).startswith(f"{tmp_path}/metadata.jsonl, line 2: {message}")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"data_dir .*: there is no metadata\.jsonl with a caption for each picture\."):
        captioned(tmp_path, "data_dir")
    with pytest.raises(UsageError, match=r"there is no such folder\. Fix: give a folder of pictures"):
        files_of(tmp_path / "no", "data_dir")
    with pytest.raises(UsageError, match="the folder has no pictures"):
        files_of(tmp_path, "data_dir")
    lines(tmp_path, {"file_name": "a.png", "text": "x"})
    with pytest.raises(UsageError, match=r"it names no picture that is there\. Fix: correct its file names"):
        captioned(tmp_path, "data_dir")


def test_a_cut_is_a_square_of_the_picture(tmp_path):
    pixels = save(tmp_path / "a.png", 12, 8)
    found = Cut(8, center=True).of(tmp_path / "a.png", np.random.default_rng(0)).pixels
    assert found.shape == (3, 8, 8) and found.dtype == np.float32
    np.testing.assert_allclose(found.transpose(1, 2, 0), pixels[:, 2:10] / 127.5 - 1, atol=1e-6)
    columns = set()
    for seed in range(40):
        seen = Cut(8).of(tmp_path / "a.png", np.random.default_rng(seed)).pixels.transpose(1, 2, 0)
        columns |= {x for x in range(5) if np.abs(pixels[:, x : x + 8] / 127.5 - 1 - seen).max() < 1e-6}
    assert columns == {0, 1, 2, 3, 4}
    cut = Cut(8, center=True, flip=True)
    flipped = [cut.of(tmp_path / "a.png", np.random.default_rng(seed)).pixels for seed in range(9)]
    assert {(one == found).all() or (one == found[:, :, ::-1]).all() for one in flipped} == {True}
    assert len({one.tobytes() for one in flipped}) == 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_any_kind_of_picture(mode, tmp_path):
    save(tmp_path / "a.png", 5, 31, mode)
    assert Cut(16).of(tmp_path / "a.png", np.random.default_rng(0)).pixels.shape == (3, 16, 16)


def test_pictures_that_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255  # light on the left: it is shown on the top
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = Cut(8, center=True).of(tmp_path / "a.png", np.random.default_rng(0)).pixels
    assert (found[:, :4] == 1).all() and (found[:, 4:] == -1).all()


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.png: it cannot be read as a picture \(.*\)\. Fix: remove it"):
        Cut(8).of(tmp_path / "a.png", np.random.default_rng(0))


def test_a_picture_that_takes_gigabytes_on_its_way_is_refused(tmp_path):
    Image.new("L", (1, 60000)).save(tmp_path / "a.png")  # a file of a few bytes
    with pytest.raises(UsageError, match=r"a\.png: the picture is too narrow or too low \(got 1x60000\)\. Fix: cut it"):
        Cut(512).of(tmp_path / "a.png", np.random.default_rng(0))


def test_where_a_piece_is(tmp_path):
    """Also of a picture that is mirrored: where the piece is in the mirrored picture."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = np.arange(24) * 10, np.arange(16)[:, None] * 10
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = set()
    for seed in range(12):
        piece = Cut(16, flip=True).of(tmp_path / "a.png", np.random.default_rng(seed))
        columns = np.round((piece.pixels[0, 0] + 1) * 127.5).astype(int) // 10
        mirrored = columns[0] > columns[-1]
        left = piece.corner[1] if not mirrored else 23 - piece.corner[1]
        assert piece.whole == (16, 24) and piece.corner[0] == 0 and columns[0] == left
        seen.add((mirrored, left))
    assert len({one for one, _ in seen}) == 2 and len(seen) > 4
    with (tmp_path / "a.png").open("rb") as file:  # that was made smaller
        assert Cut(16).read(file, "a", np.random.default_rng(0), (480, 720)).whole == (480, 720)
    fixed = Cut(16, fixed=True).of(tmp_path / "a.png", np.random.default_rng(1))
    assert (fixed.whole, fixed.corner) == ((16, 16), (0, 0)), "as if it were all there is"


def test_names_that_no_file_has(tmp_path, caplog):
    """Too long, and half of a pair: they are said, so that any terminal can show them, and left out."""
    save(tmp_path / "a.png")
    names = ["x" * 6000, "\udc80.png", "a.png"]
    lines(tmp_path, *({"file_name": name, "text": "x"} for name in names))
    with caplog.at_level(logging.WARNING):
        assert [one.path.name for one in captioned(tmp_path, "data_dir")] == ["a.png"]
    assert "\\udc80.png" in caplog.text and caplog.text.isascii()
