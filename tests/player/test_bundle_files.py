"""Files of bundles as the C++ player reads them: damaged, missing, elsewhere, or packed as one."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from bundle.packed_bundle import changed
from bundle.refusals import PLAN
from bundle.test_checks import BAD_JSON, cut, grow, link_out, loop, make_directory, make_pipe, remove
from bundle.tiny_bundle import replace_file, write_tiny

from ondevice.bundle.format import MAX_JSON_BYTES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle"


@pytest.fixture
def tiny(tmp_path):
    """`tiny()`: a new copy of the tiny bundle, called "t"."""
    source, numbers = write_tiny(tmp_path / "tiny"), itertools.count()
    return lambda: shutil.copytree(source, tmp_path / f"copy{next(numbers)}" / "t")


def test_what_is_no_json_is_refused(ask, tmp_path):
    paths = []
    bad = [row for row in BAD_JSON if b"99999" not in row[0]]  # how many digits Python reads is its own business
    for data, _ in bad:
        paths.append(tmp_path / str(len(paths)))
        paths[-1].mkdir()
        (paths[-1] / "bundle.json").write_bytes(data)
    for line, (_, message) in zip(ask("open", paths), bad, strict=True):
        assert line.startswith(f"9 bundle.json: {message.split(' (')[0]}"), line


def test_packed_bundles_are_read_in_place(tool, ask, tmp_path):
    shown = [
        json.loads(tool("check_bundle", "show", GOLDEN / name).stdout) for name in ("tiny.odpack", "tiny.ondevice")
    ]
    assert shown[0] == shown[1]
    (tmp_path / "no.odpack").write_bytes(b"\x89PNG\r\n")
    out = ask("verify", [GOLDEN / "tiny.odpack", GOLDEN / "tiny_zip64.odpack", tmp_path / "no.odpack"])
    assert out[:2] == ["ok", "ok"]
    assert out[2] == (
        f"9 {tmp_path}/no.odpack: is not a bundle (its first bytes are others). "
        "Fix: give a folder that `ondevice convert` wrote, or a file that `ondevice pack` wrote."
    )


def test_every_golden_refusal_of_packed_bundles_is_refused_in_pythons_words(ask, tmp_path):
    wanted, paths = json.loads((GOLDEN / "refused_packed.json").read_text()), []
    for number, row in enumerate(wanted):
        paths.append(tmp_path / str(number) / row["file"])
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(changed((GOLDEN / row["file"]).read_bytes(), row))
    for row, line in zip(wanted, ask("verify", paths), strict=True):
        message = row["message"].replace("\\u00e9", "\\ufffd")  # a byte that is no UTF-8
        assert line.startswith(f"9 {message}"), line


FILES = ("weights/tiny-000.bin", PLAN, "scheduler/scheduler_config.json")
DAMAGE = {
    remove: "is missing from t. Fix",
    cut: "is cut or changed (got",
    grow: "is cut or changed (got",
    link_out: "is a link out of t or not a regular file. Fix",
    loop: "is missing from t. Fix",
    make_pipe: "is a link out of t or not a regular file. Fix",
    make_directory: "is a link out of t or not a regular file. Fix",
}


def test_damaged_files_are_refused(ask, tmp_path, tiny):
    paths, wanted = [], []
    for damage, message in DAMAGE.items():
        for name in FILES:
            paths.append(tiny())
            damage(paths[-1] / name)
            wanted.append(f"9 {name}: {message}")
    for damage in (link_out, make_pipe, make_directory):
        paths.append(tiny())
        damage(paths[-1] / "bundle.json")
        wanted.append("9 bundle.json: is a link out of t or not a regular file. Fix")
    paths.append(tiny())
    os.truncate(paths[-1] / "bundle.json", 1 << 40)
    wanted.append(f"9 bundle.json: is too large (got {1 << 40} bytes, expected at most {MAX_JSON_BYTES}).")
    empty = tmp_path / "empty"
    empty.mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("empty", "no bundle.json in it"),
        ("pipe", "no bundle.json in it"),
        ("nowhere", "there is no such file or folder"),
    ):
        paths.append(tmp_path / name)
        wanted.append(f"9 {paths[-1]}: is not a bundle ({why}). Fix: give the folder that")
    for line, message in zip(ask("open", paths), wanted, strict=True):
        assert line.startswith(message), line


def test_links_inside_are_followed(ask, tmp_path):
    path = write_tiny(tmp_path / "t")
    (path / PLAN).rename(path / "plans" / "real.json")
    (path / PLAN).symlink_to("real.json")
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    beside = shutil.copytree(path, tmp_path / "tt", symlinks=True)  # a name that begins as the bundle's does
    assert ask("verify", [tmp_path / "link", f"{path}/"]) == ["ok"] * 2
    (path / "kernels" / "pick.cl").unlink()
    (path / "kernels" / "pick.cl").symlink_to(beside / "kernels" / "pick.cl")
    (out,) = ask("verify", [path])
    assert out.startswith("9 kernels/pick.cl: is a link out of t or not a regular file")


def test_a_flipped_bit_and_what_is_no_text_are_found(tool, ask, tiny):
    paths, wanted = [], []
    for name in (
        "weights/tiny-000.bin",
        "kernels/pick.cl",
        "kernels/prelude/opencl.h",
        PLAN,
        "tokenizers/tiny/merges.txt",
    ):
        paths.append(tiny())
        data = bytearray((paths[-1] / name).read_bytes())
        data[len(data) // 2] ^= 1
        (paths[-1] / name).write_bytes(data)
        wanted.append(f"9 {name}: was changed: its sha256 is not the one in bundle.json. Fix")
        if name.startswith(("plans/", "kernels/")):  # small files are checked whenever they are read
            assert tool("check_bundle", "show", paths[-1]).stdout.endswith("".join(ask("verify", paths[-1:])) + "\n")
    for name, data, message in (
        ("kernels/pick.cl", b"\xff", "is not UTF-8 text. Fix"),
        ("kernels/pick.cl", b" " * ((4 << 20) + 1), "is too large (got 4194305 bytes, expected at most 4194304)"),
        ("samplers/tiny_2.json", b"[1]", "is a list of 1 (expected an object"),
        ("scheduler/scheduler_config.json", b"{", "is not valid JSON"),
    ):
        paths.append(tiny())
        replace_file(paths[-1], name, data)
        wanted.append(f"9 {name}: {message}")
    assert ask("open", paths) == ["ok"] * len(paths)
    for line, message in zip(ask("verify", paths), wanted, strict=True):
        assert line.startswith(message), line
