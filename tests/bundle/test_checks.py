"""Every check of the reader, one broken bundle each, with the place it names."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle.image_bundle import IMAGE_CHANGES, write_images
from bundle.refusals import MANIFEST_CHANGES, PLAN, PLAN_CHANGES
from bundle.tiny_bundle import edit_json, replace_file, write_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.bundle import open_bundle
from ondevice.bundle.format import MAX_JSON_BYTES, MAX_JSON_VALUES, Checker, load_json
from ondevice.bundle.plan_file import check_memory
from ondevice.errors import BundleError, PlanError
from ondevice.plan import arena
from ondevice.plan.plan import Dispatch, Operand


def refusal(path: Path, *, verify: bool = True) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path, verify=verify)
    return str(caught.value)


@pytest.mark.parametrize(("change", "expected"), PLAN_CHANGES)
def test_plan(tmp_path: Path, change: Callable[[Any], Any], expected: str) -> None:
    path = write_tiny(tmp_path / "t")
    edit_json(path, PLAN, change)
    open_bundle(path)  # plans are read when asked for
    if expected:
        assert refusal(path).startswith(f"{PLAN}: {expected}")
    else:
        open_bundle(path, verify=True)


@pytest.mark.parametrize(("file", "change", "expected"), IMAGE_CHANGES)
def test_images(tmp_path: Path, file: str, change: Callable[[Any], Any], expected: str) -> None:
    path = write_images(tmp_path / "t")
    open_bundle(path, verify=True)
    edit_json(path, file, change)
    assert refusal(path).startswith(f"{file}: {expected}")


@pytest.mark.parametrize(("change", "expected"), MANIFEST_CHANGES)
def test_manifest(tmp_path: Path, change: Callable[[Any], Any], expected: str) -> None:
    path = write_tiny(tmp_path / "t")
    edit_json(path, "bundle.json", change)
    if expected:
        where = "plans/tiny_width8.json" if expected.startswith("uses") else "bundle.json"
        assert refusal(path).startswith(f"{where}: {expected}")
    else:
        open_bundle(path, verify=True)


BAD_JSON: list[tuple[bytes, str]] = [
    (b"", "is not valid JSON (Expecting value"),
    (b"{", "is not valid JSON (Expecting property name"),
    (b'{"a": 1, "a": 2}', 'is not valid JSON (the key "a" is there twice)'),
    (b"[NaN]", "is not valid JSON (NaN is not a JSON number)"),
    (b"[-Infinity]", "is not valid JSON (-Infinity is not a JSON number)"),
    (b"[1e999]", "is not valid JSON (the number 1e999 is too large)"),
    (b"[" + b"9" * 5000 + b"]", "is not valid JSON ("),
    (b'\xef\xbb\xbf{"a": 1}', "is not valid JSON ("),
    (b'{"a": "\xff"}', "is not valid JSON ("),
    (b'{"a": "\\ud800"}', "is not valid JSON ("),
    (b'{"a": "\n"}', "is not valid JSON (Invalid control character"),
    (b"{} {}", "is not valid JSON (Extra data"),
    (b"{'a': 1}", "is not valid JSON ("),
    (b"[" * 33 + b"]" * 33, "is nested too deeply (expected at most 32 levels)"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested too deeply (expected at most 32 levels)"),
    (b"[" * 1_000_000, "is nested too deeply (expected at most 32 levels)"),
    (b"[" + b"0," * MAX_JSON_VALUES + b"0]", f"holds too many values (expected at most {MAX_JSON_VALUES})"),
    (b" " * ((64 << 20) + 1), "is too large (got 67108865 bytes, expected at most 67108864)"),
]


@pytest.mark.parametrize(("data", "expected"), BAD_JSON, ids=lambda x: repr(x[:20]))
def test_json(data: bytes, expected: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_json(data, "x.json")
    assert str(caught.value).startswith(f"x.json: {expected}")


def test_a_surrogate_pair_is_fine() -> None:
    assert load_json(b'["\\ud83d\\ude80"]', "x") == ["\N{ROCKET}"]


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def link_out(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("name", ["weights/tiny-000.bin", PLAN, "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove, "is missing from t. Fix"),
        (cut, "is cut or changed (got"),
        (grow, "is cut or changed (got"),
        (link_out, "is a link out of t or not a regular file. Fix"),
        (loop, "is missing from t. Fix"),
        (make_pipe, "is a link out of t or not a regular file. Fix"),
        (make_directory, "is a link out of t or not a regular file. Fix"),
    ],
)
def test_files(tmp_path: Path, name: str, damage: Callable[[Path], None], expected: str) -> None:
    path = write_tiny(tmp_path / "t")
    damage(path / name)
    assert refusal(path, verify=False).startswith(f"{name}: {expected}")


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")
@pytest.mark.parametrize("damage", [link_out, make_pipe, make_directory], ids=lambda damage: damage.__name__)
def test_the_manifest_itself(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path = write_tiny(folder / "t")
    damage(path / "bundle.json")
    assert refusal(path, verify=False).startswith("bundle.json: is a link out of t or not a regular file. Fix")


def test_a_manifest_of_any_size(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t")
    for size in (MAX_JSON_BYTES + 1, 1 << 40):  # more than can be read
        os.truncate(path / "bundle.json", size)
        assert refusal(path, verify=False).startswith(
            f"bundle.json: is too large (got {size} bytes, expected at most 67108864)"
        )


def test_what_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(write_tiny(tmp_path / "t"))

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ondevice.bundle.mapped.mmap.mmap", broken)
        with pytest.raises(BundleError, match=r"weights/tiny-000.bin: cannot be mapped \(.*Input/output error\)"):
            bundle.shard("weights/tiny-000.bin")
    monkeypatch.setattr(Path, "open", broken)
    for call in (bundle.verify, lambda: open_bundle(bundle.path)):
        with pytest.raises(BundleError, match=r"cannot be read \(Input/output error\)"):
            call()


def test_a_shard_of_nothing(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t")
    replace_file(path, "weights/empty.bin", b"")
    with pytest.raises(BundleError, match=r"weights/empty.bin: cannot be mapped"):
        open_bundle(path).shard("weights/empty.bin")


def test_a_link_inside_the_bundle_is_fine(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t")
    (path / PLAN).rename(path / "plans" / "real.json")
    (path / PLAN).symlink_to("real.json")
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    open_bundle(tmp_path / "link", verify=True)


@pytest.mark.parametrize(
    "name", ["weights/tiny-000.bin", "kernels/pick.cl", "kernels/prelude/opencl.h", PLAN, "tokenizers/tiny/merges.txt"]
)
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    path = write_tiny(tmp_path / "t")
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    bundle = open_bundle(path)
    assert refusal(path).startswith(f"{name}: was changed: its sha256 is not the one in bundle.json")
    if not name.startswith("weights/"):  # small files are checked whenever they are read
        with pytest.raises(BundleError, match="was changed"):
            bundle.read(name, 1 << 20)


def test_texts_must_be_utf8_and_small(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t")
    replace_file(path, "kernels/pick.cl", b"\xff")
    assert refusal(path).startswith("kernels/pick.cl: is not UTF-8 text")
    replace_file(path, "kernels/pick.cl", b" " * ((4 << 20) + 1))
    assert refusal(path).startswith("kernels/pick.cl: is too large (got 4194305 bytes, expected at most 4194304)")
    path = write_tiny(tmp_path / "u")
    replace_file(path, "samplers/tiny_2.json", b"[1]")
    assert refusal(path).startswith("samplers/tiny_2.json: is a list of 1 (expected an object")


def test_version_is_looked_at_first(tmp_path: Path) -> None:
    """A newer major version may have changed everything else; the user must hear of the version."""
    (tmp_path / "bundle.json").write_text(json.dumps({"format": "ondevice-bundle", "version": "3.1"}))
    assert "has format 3.1 (expected 2.x)" in refusal(tmp_path)


@pytest.mark.parametrize(("first", "second"), [(0, 2048), (0, 3584), (2048, 0), (3584, 0)])
def test_operands_that_share_some_of_their_bytes(tmp_path: Path, first: int, second: int) -> None:
    """4000 bytes each, both needed by the first dispatch:
    the second reaches into the first from below or from above."""
    path, name = write_tiny(tmp_path / "t"), "plans/tiny_width1000.json"

    def move(plan: Any) -> None:
        plan["operands"][0]["offset"], plan["operands"][2]["offset"] = first, second

    edit_json(path, name, move)
    assert refusal(path).startswith(f'{name}: operands[2] ("mid") overlaps operands[0] ("x") while both are needed')


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_memory_check_agrees_with_the_planners(data: st.DataObject) -> None:
    """A chain of dispatches over operands at random places: refused by both checks or by none."""
    count = data.draw(st.integers(2, 10))
    operands = tuple(
        Operand(f"t{i}", "f32", (128 * data.draw(st.integers(1, 3)),), 0, offset=512 * data.draw(st.integers(0, 12)))
        for i in range(count)
    )
    operands = tuple(Operand(x.name, x.dtype, x.shape, 4 * x.shape[0], offset=x.offset) for x in operands)
    dispatches, first, last = [], {0: -1}, {0: -1}
    for t in range(1, count):
        reads = data.draw(st.lists(st.integers(0, t - 1), min_size=1, max_size=2))
        dispatches.append(Dispatch(0, (*reads, t), 1, (), (1, 1, 1), (1, 1, 1), "n", "Op", 0, 0, 0))
        first[t] = last[t] = t - 1
        for index in reads:
            last[index] = t - 1
    last[count - 1] = count - 1
    lives = [arena.Life(x.name, x.nbytes, first[i], last[i]) for i, x in enumerate(operands)]

    def refused(error: type[Exception], call: Callable[[], None]) -> bool:
        try:
            call()
        except error:
            return True
        return False

    planner = refused(PlanError, lambda: arena.check(lives, {x.name: x.offset or 0 for x in operands}))
    reader = refused(BundleError, lambda: check_memory(Checker("p"), operands, (0,), (count - 1,), tuple(dispatches)))
    assert planner == reader
