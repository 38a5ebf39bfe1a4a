"""Kernels are programs: whose they are can be asked for, and those of this package are launched only
as they are meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bundle.picture_bundle import write_picture
from bundle.setting import setting
from bundle.test_replay import mlp
from bundle.tiny_bundle import KERNELS, MODEL, edit_json, replace_file, write_tiny

from ondevice import cli
from ondevice.bundle import Contents, WeightSource, open_bundle, write_bundle
from ondevice.errors import BundleError
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.lower.prelude import DIALECTS, prelude
from ondevice.plan import plan, weight_key

PLAN = "plans/mlp_b3.json"
FIX = "Fix: convert the checkpoint yourself, or leave `--kernels ours` out if you trust whoever wrote the bundle."


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A bundle of a small graph, with this package's kernels."""
    program = lower(mlp(3), "mlp", storage="f32")
    program.sizes["batch"] = 3
    sources = {
        weight_key("mlp", name): WeightSource(tensor, program.tensors[name].dtype, program.tensors[name].shape)
        for name, tensor in program.weights.items()
    }
    return write_bundle(
        tmp_path / "mlp", Contents(plans=[plan(program, storage="f32")], weights=sources, scheduler={}, model=MODEL)
    )


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path, verify=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("at", "to", "expected"),
    [
        (
            (0, "scalars", 3),
            2**31 - 1,
            "dispatches[0] does not fit matmul.cl: operand 1 (a2) has 24 elements, and the kernel uses 6442450917",
        ),
        (
            (0, "scalars", 1),
            4,
            "dispatches[0] does not fit matmul.cl: operand 0 (a) has 24 elements, "
            "and the kernel uses 32 (expected at most 24)",
        ),
        (
            (0, "grid"),
            [1, 12, 1],
            "dispatches[0] does not fit matmul.cl: grid is [1, 12, 1] of [1, 1, 1] (expected [1, 1, 1] of [1, 1, 1])",
        ),
    ],
)
def test_a_launch_that_leaves_its_operands(written: Path, at: tuple[str | int, ...], to: object, expected: str) -> None:
    edit_json(written, PLAN, setting("dispatches", *at, to=to))
    assert refusal(written).startswith(f"{PLAN}: {expected}")


def test_a_define_that_rewrites_a_kernel(written: Path) -> None:
    edit_json(written, PLAN, setting("kernels", 0, "defines", "first", to=7))
    assert refusal(written).startswith(
        f"{PLAN}: dispatches[0] does not fit matmul.cl: define first is none of the kernel's."
    )


def test_of_a_kernel_that_was_changed_nothing_is_known(written: Path) -> None:
    """Its header is a stranger's, too."""
    replace_file(written, "kernels/matmul.cl", (written / "kernels/matmul.cl").read_bytes() + b"\n")
    edit_json(written, PLAN, setting("dispatches", 0, "scalars", 1, to=4))
    open_bundle(written, verify=True)


def test_a_writer_is_told_of_its_own_mistake(tmp_path: Path) -> None:
    program = lower(mlp(3), "mlp", storage="f32")
    right = plan(program, storage="f32")
    first, *others = right.dispatches
    wrong = replace(right, dispatches=(replace(first, grid=(1, 2, 1)), *others))
    sources = {
        f"mlp/{name}": WeightSource(tensor, "f32", program.tensors[name].shape)
        for name, tensor in program.weights.items()
    }
    with pytest.raises(
        BundleError, match=r"plans/mlp.json: dispatches\[0\] does not fit matmul.cl: grid is .* Fix: report this"
    ):
        write_bundle(tmp_path / "mlp", Contents(plans=[wrong], weights=sources, scheduler={}, model=MODEL))


def test_own_kernels_can_be_asked_for(written: Path, tmp_path: Path) -> None:
    bundle = open_bundle(written)
    bundle.require_own_kernels()
    texts = {f"kernels/{name}.cl": kernel.text for name, kernel in load_all().items()}
    texts |= {f"kernels/prelude/{dialect}.h": prelude(dialect) for dialect in DIALECTS}
    for name in bundle.manifest.files:
        if name.startswith("kernels/"):
            assert (written / name).read_text() == texts[name]
            replace_file(written, name, texts[name].encode() + b"\n")
            with pytest.raises(BundleError) as caught:
                open_bundle(written).require_own_kernels()
            assert str(caught.value).startswith(f"{name}: is another than this ondevice's (sha256 ") and str(
                caught.value
            ).endswith(FIX)
            replace_file(written, name, texts[name].encode())
    open_bundle(written).require_own_kernels()
    with pytest.raises(BundleError) as caught:
        open_bundle(write_tiny(tmp_path / "t", kernels=KERNELS)).require_own_kernels()
    assert str(caught.value) == f"kernels/pick.cl: is no file of this ondevice. {FIX}"


@pytest.mark.parametrize("words", [["generate", "BUNDLE", "a cat"], ["bench", "BUNDLE"]], ids=lambda words: words[0])
def test_verbs_that_run_kernels_ask_for_them(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_picture(tmp_path / "t"))
    assert (
        cli.main([path if word == "BUNDLE" else word for word in words] + ["--kernels", "ours"])
        == BundleError.exit_code
    )
    assert capsys.readouterr().err == f"error: kernels/fill.cl: is no file of this ondevice. {FIX}\n"
