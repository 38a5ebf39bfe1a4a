"""Every check of the reader, one broken bundle each, with the place it names."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bundle.tiny_bundle import edit_json, replace_file, write_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.bundle import open_bundle
from ondevice.bundle.format import MAX_JSON_VALUES, Checker, load_json
from ondevice.bundle.plan_file import check_memory
from ondevice.errors import BundleError, PlanError
from ondevice.plan import memory
from ondevice.plan.plan import Dispatch, Operand

PLAN = "plans/tiny_width8.json"


@dataclass(frozen=True)
class Setting:
    """A change of one field of a JSON value; `...` deletes it."""

    path: tuple[str | int, ...]
    to: Any

    def __call__(self, value: Any) -> None:
        for part in self.path[:-1]:
            value = value[part]
        if self.to is ...:
            del value[self.path[-1]]
        else:
            value[self.path[-1]] = self.to


def setting(*path: str | int, to: Any) -> Setting:
    return Setting(path, to)


def refusal(path: Path, *, verify: bool = True) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path, verify=verify)
    return str(caught.value)


PLAN_CHANGES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda plan: [], "is a list of 0 (expected an object)"),
    (setting("arena", to=...), "arena is missing"),
    (setting("arena", to=512), "operands[2].offset is 512 (expected a multiple of 512 with 32 bytes before 512)"),
    (setting("arena", to=1032), "operands[5].offset is 1024 (expected a multiple of 512 with 16 bytes before 1032)"),
    (setting("arena", to=2048), "arena is 2048 (expected 1536 as in bundle.json)"),
    (setting("component", to="unet"), "component is unet (expected tiny as in bundle.json)"),
    (setting("component", to="a b"), 'component is "a b" (expected an identifier)'),
    (setting("sizes", "width", to=0), 'sizes["width"] is 0 (expected 1..65536)'),
    (setting("dtype", to="f8"), 'dtype is "f8" (expected one of: f16, f32, i32, i8)'),
    (setting("inputs", to=[7]), "inputs[0] is 7 (expected 0..6)"),
    (setting("inputs", to=[True]), "inputs[0] is true (expected 0..6)"),
    (setting("inputs", to=[0, 0]), "inputs[1] is 0 (expected each operand once)"),
    (setting("inputs", to=[1]), 'inputs[0] is 1 (expected an operand of the arena, not the weight "tiny/bias")'),
    (setting("outputs", to=[]), "outputs is a list of 0 (expected a list of 1..64)"),
    (setting("inputs", to=[]), 'dispatches[0].operands[0] reads "x" before anything writes it'),
    (setting("inputs", to=[0, 2]), ""),  # harmless: `mid` is given and overwritten
    (setting("inputs", to=[0, 3]), 'operands[3] ("end") overlaps operands[0] ("x") while both are needed'),
    (setting("outputs", to=[5, 3]), ""),  # harmless: `end` lives to the end
    (setting("outputs", to=[5, 0]), 'operands[3] ("end") overlaps operands[0] ("x") while both are needed'),
    (setting("kernels", 0, "name", to="evil"), 'kernels[0].name is "evil" (expected one of: pick, scale_add)'),
    (setting("kernels", 0, "defines", to={"1A": 1}), 'kernels[0].defines is "1A" (expected an identifier)'),
    (setting("kernels", 0, "defines", to={"A\n": 1}), 'kernels[0].defines is "A\\n" (expected an identifier)'),
    (setting("kernels", 0, "defines", "F16", to=1.0), 'kernels[0].defines["F16"] is 1.0 (expected -2147483648..2147483647)'),
    (setting("kernels", 0, "defines", "F16", to=1 << 31), 'kernels[0].defines["F16"] is 2147483648 (expected'),
    (setting("kernels", 0, "outputs", to=0), "kernels[0].outputs is 0 (expected 1..64)"),
    (setting("kernels", 0, "inputs", to=3), "dispatches[0].operands is a list of 3 (expected a list of 4)"),
    (setting("kernels", 0, "scalars", to="ix"), 'kernels[0].scalars is "ix" (expected one letter a scalar, i or f)'),
    (setting("kernels", 0, "scalars", to="ii"), "dispatches[0].scalars[1] is 2.0 (expected -2147483648..2147483647)"),
    (setting("kernels", 0, "scalars", to="ff"), ""),  # 8 is a float32 too; only the kernel knows
    (setting("operands", 0, "dtype", to="f64"), 'operands[0].dtype is "f64" (expected one of: f16, f32, i32, i8)'),
    (setting("operands", 0, "dtype", to="f16"), "operands[0].bytes is 32 (expected 16 for f16[8])"),
    (setting("operands", 0, "shape", to=[9]), "operands[0].bytes is 32 (expected 36 for f32[9])"),
    (setting("operands", 0, "shape", to=[0]), "operands[0].shape[0] is 0 (expected 1..2147483647)"),
    (setting("operands", 0, "shape", to=[2] * 9), "operands[0].shape is a list of 9 (expected a list of 0..8)"),
    (setting("operands", 0, "shape", to=[1 << 30, 1 << 30]), "operands[0].shape is [1073741824, 1073741824] (expected at most"),
    (setting("operands", 0, "offset", to=-512), "operands[0].offset is -512 (expected 0..1099511627776)"),
    (setting("operands", 0, "offset", to=256), "operands[0].offset is 256 (expected a multiple of 512 with 32 bytes before 1536)"),
    (setting("operands", 0, "offset", to=1536), "operands[0].offset is 1536 (expected a multiple of 512"),
    (setting("operands", 0, "offset", to=...), "operands[0] has both or none of offset and weight (expected one)"),
    (setting("operands", 0, "weight", to="picked"), "operands[0] has both or none of offset and weight (expected one)"),
    (setting("operands", 0, "name", to=""), 'operands[0].name is "" (expected 1..512 printable characters)'),
    (setting("operands", 0, "name", to="a\nb"), 'operands[0].name is "a\\nb" (expected 1..512 printable characters)'),
    (setting("operands", 2, "name", to="x"), 'operands[2].name is "x", as in operands[0] (expected another)'),
    (setting("operands", 1, "weight", to="none"), 'operands[1].weight is "none" (expected a key of the weights of bundle.json)'),
    (setting("operands", 1, "weight", to="picked"), 'operands[1].weight is "picked", stored as i32[4] (expected f16[4])'),
    (setting("operands", 2, "offset", to=0), 'operands[2] ("mid") overlaps operands[0] ("x") while both are needed'),
    (setting("operands", 5, "offset", to=0), 'operands[5] ("y") overlaps operands[3] ("end") while both are needed'),
    (setting("operands", 5, "offset", to=512), ""),  # harmless: `mid` is no longer needed
    (setting("dispatches", 0, "kernel", to=2), "dispatches[0].kernel is 2 (expected 0..1)"),
    (setting("dispatches", 0, "operands", 2, to=99), "dispatches[0].operands[2] is 99 (expected 0..6)"),
    (setting("dispatches", 0, "operands", 2, to=-1), "dispatches[0].operands[2] is -1 (expected 0..6)"),
    (
        setting("dispatches", 0, "operands", 2, to=1),
        'dispatches[0].operands[2] writes the weight "tiny/bias" (expected an operand of the arena)',
    ),
    (setting("dispatches", 0, "operands", 2, to=0), 'dispatches[0].operands[2] writes "x", which it also uses'),
    (setting("dispatches", 0, "operands", 0, to=2), 'dispatches[0].operands[0] reads "mid" before anything writes it'),
    (setting("dispatches", 2, "operands", 3, to=2), 'outputs[0] is "y", which nothing writes'),
    (setting("dispatches", 0, "scalars", 1, to=None), "dispatches[0].scalars[1] is null (expected a finite float32)"),
    (setting("dispatches", 0, "scalars", 1, to=1e39), "dispatches[0].scalars[1] is 1e+39 (expected a finite float32)"),
    (setting("dispatches", 0, "scalars", 1, to=10**400), "dispatches[0].scalars[1] is 1000"),
    (setting("dispatches", 0, "scalars", 0, to=1 << 31), "dispatches[0].scalars[0] is 2147483648 (expected"),
    (setting("dispatches", 0, "scalars", to=[8]), "dispatches[0].scalars is a list of 1 (expected a list of 2)"),
    (setting("dispatches", 0, "grid", to=[9, 1, 1]), "dispatches[0].grid is [9, 1, 1] (expected multiples of the group [4, 1, 1])"),
    (setting("dispatches", 0, "grid", to=[0, 1, 1]), "dispatches[0].grid[0] is 0 (expected 1..2147483647)"),
    (setting("dispatches", 0, "grid", to=[8, 3, 1]), ""),  # less than a group an element
    (setting("dispatches", 0, "grid", to=[8, 1, 11]), "dispatches[0].grid has 88 work-items (expected at most 80)"),
    (setting("dispatches", 0, "grid", to=[4, 2**30, 2**30]), "dispatches[0].grid has 4611686018427387904 work-items (expected at most 80)"),
    (setting("dispatches", 0, "grid", to=[8, 1]), "dispatches[0].grid is a list of 2 (expected a list of 3)"),
    (setting("dispatches", 0, "group", to=[1025, 1, 1]), "dispatches[0].group[0] is 1025 (expected 1..1024)"),
    (setting("dispatches", 0, "group", to=[64, 32, 1]), "dispatches[0].group has 2048 work-items (expected at most 1024)"),
    (setting("dispatches", 0, "flops", to=-1), "dispatches[0].flops is -1 (expected 0..9007199254740992)"),
    (setting("dispatches", 0, "node", to=7), "dispatches[0].node is 7 (expected 1..512 printable characters)"),
    (setting("dispatches", 0, "op", to=...), "dispatches[0].op is missing"),
    (setting("dispatches", 0, to="go"), 'dispatches[0] is "go" (expected an object)'),
    (setting("later_field", to={"x": 1}), ""),  # a later minor version may add fields
]


@pytest.mark.parametrize(("change", "expected"), PLAN_CHANGES)
def test_plan(tmp_path: Path, change: Callable[[Any], Any], expected: str) -> None:
    path = write_tiny(tmp_path / "t")
    edit_json(path, PLAN, change)
    open_bundle(path)  # plans are read when asked for
    if expected:
        assert refusal(path).startswith(f"{PLAN}: {expected}")
    else:
        open_bundle(path, verify=True)


WEIGHT = partial(setting, "weights", "tiny/bias")
RULE = partial(setting, "components", "tiny", "rewrite", "rules", 0)
MANIFEST_CHANGES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda manifest: [], 'is not the manifest of a bundle (got format a list of 0, expected "ondevice-bundle")'),
    (setting("format", to="zip"), 'is not the manifest of a bundle (got format "zip", expected "ondevice-bundle")'),
    (setting("version", to="2.0"), "has format 2.0 (expected 1.x). Fix: install a newer ondevice"),
    (setting("version", to="0.9"), "has format 0.9 (expected 1.x). Fix: write the bundle again"),
    (setting("version", to="1.7"), ""),  # a later minor version is read
    (setting("version", to="1.0"), ""),  # an earlier one, too
    (setting("components", "tiny", "rewrite", to=...), ""),  # as 1.0 had it
    (setting("components", "tiny", "rewrite", to=[]), 'components["tiny"].rewrite is a list of 0 (expected an object)'),
    (setting("components", "tiny", "rewrite", "nodes", to=[5]), 'components["tiny"].rewrite.nodes is a list of 1 (expected a list of 2)'),
    (
        setting("components", "tiny", "rewrite", "nodes", 1, to=-1),
        'components["tiny"].rewrite.nodes[1] is -1 (expected 0..9007199254740992)',
    ),
    (RULE("rule", to="a b"), 'components["tiny"].rewrite.rules[0].rule is "a b" (expected an identifier)'),
    (RULE("family", to=7), 'components["tiny"].rewrite.rules[0].family is 7 (expected a file name of letters'),
    (RULE("applied", to=True), 'components["tiny"].rewrite.rules[0].applied is true (expected 0..9007199254740992)'),
    (RULE("skipped", to={"": 1}), 'components["tiny"].rewrite.rules[0].skipped is "" (expected 1..512 printable characters)'),
    (RULE("skipped", to={"why": 0}), 'components["tiny"].rewrite.rules[0].skipped["why"] is 0 (expected 1..9007199254740992)'),
    (RULE("skipped", to={str(i): 1 for i in range(65)}), 'components["tiny"].rewrite.rules[0].skipped is an object of 65 (expected'),
    (setting("components", "tiny", "rewrite", "rules", to=[0] * 257), 'components["tiny"].rewrite.rules is a list of 257 (expected'),
    (RULE("off", to=0), 'components["tiny"].rewrite.rules[0].off is 0 (expected true or false)'),
    (RULE("off", to=...), 'components["tiny"].rewrite.rules[0].off is missing'),
    (setting("version", to=1.0), "version is 1.0 (expected MAJOR.MINOR)"),
    (setting("version", to="1.0\n"), 'version is "1.0\\n" (expected MAJOR.MINOR)'),
    (setting("producer", to=None), "producer is null (expected 1..512 printable characters)"),
    (setting("model", "family", to=...), "model.family is missing"),
    (setting("model", "vae_scale", to=0), "model.vae_scale is 0 (expected a whole number 1..64)"),
    (setting("model", "vae_scale", to=8.0), "model.vae_scale is 8.0 (expected a whole number 1..64)"),
    (setting("model", "guidance_scale", to=...), "model.guidance_scale is missing"),
    (setting("model", "latent_channels", to=...), "model.latent_channels is missing"),
    (setting("model", "guidance_scale", to="x"), 'model.guidance_scale is "x" (expected a number 0..1e+06)'),
    (setting("model", "scaling_factor", to=True), "model.scaling_factor is true (expected a number 1e-09..1e+09)"),
    (setting("model", "scaling_factor", to=10**400), "model.scaling_factor is 1000"),
    (setting("model", "prediction_type", to="noise"), 'model.prediction_type is "noise" (expected one of: epsilon, sample, v_prediction)'),
    (setting("components", "tiny", "dtype", to="f64"), 'components["tiny"].dtype is "f64" (expected one of'),
    (setting("components", to={}), 'plans[0].component is "tiny" (expected nothing here)'),
    (setting("plans", to=[]), "plans is a list of 0 (expected a list of 1..1024)"),
    (setting("plans", 1, "sizes", to={"width": 8}), "plans[1] is a second plan of tiny at {'width': 8}"),
    (setting("plans", 0, "file", to="bundle.json"), 'plans[0].file is "bundle.json" (expected a file of plans/ in files)'),
    (
        setting("plans", 0, "file", to="plans/../bundle.json"),
        'plans[0].file is "plans/../bundle.json" (expected a file of plans/ in files)',
    ),
    (setting("plans", 0, "arena", to=-1), "plans[0].arena is -1 (expected 0..1099511627776)"),
    (setting("plans", 0, "weight_bytes", to=1), "uses 28 bytes of weights (expected 1 as in bundle.json)"),
    (setting("kernels", to=["pick", "pick"]), 'kernels names "pick" twice'),
    (setting("kernels", to=["pick", "PICK"]), 'kernels names "PICK" twice'),
    (setting("kernels", 1, to="other"), 'kernels[1] is "other", but kernels/other.cl is not in files'),
    (setting("kernels", 0, to="../bundle.json"), 'kernels[0] is "../bundle.json" (expected a file name of letters'),
    (setting("preludes", 0, to="cuda"), 'preludes[0] is "cuda", but kernels/prelude/cuda.h is not in files'),
    (setting("tokenizer", 0, to=".hidden"), 'tokenizer[0] is ".hidden" (expected a file name of letters'),
    (setting("samplers", 0, to=5), "samplers[0] is 5 (expected a file name of letters"),
    (setting("default_sampler", to="euler"), 'default_sampler is "euler" (expected one of: tiny_2)'),
    (setting("files", "scheduler/scheduler_config.json", to=...), "files has no scheduler/scheduler_config.json"),
    (WEIGHT("dtype", to="q4"), 'weights["tiny/bias"].dtype is "q4" (expected one of: f16, f32, i32, i8)'),
    (WEIGHT("bytes", to=16), 'weights["tiny/bias"].bytes is 16 (expected 8 for f16[4])'),
    (WEIGHT("offset", to=2), 'weights["tiny/bias"].offset is 2 (expected a multiple of 512 with 8 bytes before 1536)'),
    (WEIGHT("offset", to=1536), 'weights["tiny/bias"].offset is 1536 (expected a multiple of 512 with 8 bytes before 1536)'),
    (WEIGHT("file", to="weights/none.bin"), 'weights["tiny/bias"].file is "weights/none.bin" (expected a file of weights/ in files)'),
    (WEIGHT("file", to=[]), 'weights["tiny/bias"].file is a list of 0 (expected a file of weights/ in files)'),
    (
        setting("files", "weights/tiny-000.bin", "bytes", to=520),
        'weights["picked"].offset is 512 (expected a multiple of 512 with 16 bytes before 520)',
    ),
    (setting("files", "../../etc/passwd", to={}), 'files names "../../etc/passwd" (expected a path of at most three plain names'),
    (setting("files", "/etc/passwd", to={}), 'files names "/etc/passwd" (expected a path of at most three'),
    (setting("files", "a//b", to={}), 'files names "a//b" (expected a path of at most three'),
    (setting("files", "a\\b", to={}), 'files names "a\\\\b" (expected a path of at most three'),
    (setting("files", "C:b", to={}), 'files names "C:b" (expected a path of at most three'),
    (setting("files", "a\0", to={}), 'files names "a\\u0000" (expected a path of at most three'),
    (setting("files", "Bundle.json", to={}), 'files names "Bundle.json" (expected a path of at most three'),
    (setting("files", "kernels/pick.cl", "sha256", to="0"), 'files["kernels/pick.cl"].sha256 is "0" (expected 64 hexadecimal digits)'),
    (setting("files", "kernels/pick.cl", "bytes", to=1.5), 'files["kernels/pick.cl"].bytes is 1.5 (expected 0..1099511627776)'),
    (setting("files", "Kernels/pick.cl", to={"bytes": 1, "sha256": "0" * 64}), 'files names "Kernels/pick.cl" twice'),
]


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


def test_a_link_inside_the_bundle_is_fine(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t")
    (path / PLAN).rename(path / "plans" / "real.json")
    (path / PLAN).symlink_to("real.json")
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    open_bundle(tmp_path / "link", verify=True)


@pytest.mark.parametrize("name", ["weights/tiny-000.bin", "kernels/pick.cl", "kernels/prelude/opencl.h", PLAN, "tokenizer/merges.txt"])
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
    assert "has format 3.1 (expected 1.x)" in refusal(tmp_path)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_memory_check_agrees_with_the_planners(data: st.DataObject) -> None:
    """A chain of dispatches over operands at random places: refused by both checks or by none."""
    count = data.draw(st.integers(2, 10))
    operands = tuple(
        Operand(f"t{i}", "f32", (128 * data.draw(st.integers(1, 3)),), 0, offset=512 * data.draw(st.integers(0, 12))) for i in range(count)
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
    lives = [memory.Life(x.name, x.nbytes, first[i], last[i]) for i, x in enumerate(operands)]

    def refused(error: type[Exception], call: Callable[[], None]) -> bool:
        try:
            call()
        except error:
            return True
        return False

    planner = refused(PlanError, lambda: memory.check(lives, {x.name: x.offset or 0 for x in operands}))
    reader = refused(BundleError, lambda: check_memory(Checker("p"), operands, (0,), (count - 1,), tuple(dispatches)))
    assert planner == reader
