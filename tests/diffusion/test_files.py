"""Outputs are looked at before the work: nothing that a picture is drawn from, and no other output,
may be lost under one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ondevice.diffusion.files import check_outputs, write_output
from ondevice.errors import UsageError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "begin.png").write_bytes(b"mine")
    (tmp_path / "b.ondevice" / "plans").mkdir(parents=True)
    (tmp_path / "b.ondevice" / "bundle.json").write_text("{}")
    return tmp_path


def refused(words: str, outputs: dict[str, Path | None], **more: object) -> str:
    with pytest.raises(UsageError) as caught:
        check_outputs(outputs, **more)
    assert words in str(caught.value) and "Fix: " in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_outputs_over_inputs_by_any_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = place / "begin.png"
    (place / "soft.png").symlink_to("begin.png")
    os.link(begin, place / "hard.png")
    (place / "folder").symlink_to(".", target_is_directory=True)
    for name in ("begin.png", "soft.png", "hard.png", "folder/begin.png", "b.ondevice/../begin.png"):
        for one, other in ((place / name, begin), (begin, place / name)):
            said = refused(
                "--init-image and --out name the same file",
                {"--out": one},
                inputs={"--latents": None, "--init-image": other},
            )
            assert said.endswith("which would be lost. Fix: name another file with --out.")
    refused(
        "--latents and --trace name the same", {"--out": place / "a.png", "--trace": begin}, inputs={"--latents": begin}
    )
    monkeypatch.chdir(place)
    refused("name the same file", {"--out": Path("begin.png")}, inputs={"--init-image": begin})
    check_outputs(
        {"--out": place / "a.png", "--trace": None},
        {"--init-image": begin, "--latents": place / "none.npy"},
        place / "b.ondevice",
    )


def test_the_files_of_a_bundle(place: Path) -> None:
    bundle = place / "b.ondevice"
    refused("it is a file of the bundle", {"--trace": bundle / "bundle.json"}, bundle=bundle)
    check_outputs({"--out": bundle / "a.png"}, bundle=bundle)


def test_places_that_take_no_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(place / "pipe.png")
    (place / "loop.png").symlink_to("loop.png")
    (place / "away.png").symlink_to("none/a.png")
    (place / "begin.png").chmod(0o755)  # as open to us as a folder
    for name in ("", "pipe.png", "loop.png", "away.png", "none/a.png", "begin.png/a.png"):
        refused("no file can be written there", {"--out": place / name})
    refused(
        "its name is too long (got 256 bytes, expected at most 255). Fix: shorten it",
        {"--out": place / ("ü" * 126 + ".png")},
    )
    check_outputs({"--out": place / ("ü" * 125 + "x.png")})
    assert "--out and --save-noise name the same file" in refused(
        "", {"--out": place / "a", "--save-noise": place / "plans" / ".." / "a"}
    )
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    refused("no file can be written there (No such file or directory)", {"--out": Path("a.png")})


def test_a_full_disk_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError) as caught:
        write_output(place / "a.npy", full)
    assert str(caught.value) == (
        f"{place}/a.npy: cannot be written (No space left on device). Fix: free space on this disk, "
        "or name a file on another."
    )
    assert sorted(p.name for p in place.iterdir()) == ["b.ondevice", "begin.png"]
    (place / "link.npy").symlink_to("b.ondevice/real.npy")
    write_output(place / "link.npy", lambda file: file.write(b"x"))
    assert (place / "link.npy").is_symlink() and (place / "b.ondevice" / "real.npy").read_bytes() == b"x"
