"""What was written is what is read."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from bundle.tiny_bundle import BIAS, KERNELS, MODEL, PICKED, edit_json, tiny_plan, tiny_weights, write_tiny

from ondevice.bundle import Bundle, Contents, WeightSource, open_bundle, write_bundle
from ondevice.bundle.format import dump_json, load_json
from ondevice.bundle.manifest import TokenizerEntry
from ondevice.bundle.plan_file import dump_plan, parse_plan, plan_stem
from ondevice.errors import BundleError
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return open_bundle(write_tiny(tmp_path / "tiny.ondevice"), verify=True)


def test_plans_come_back_equal(tiny: Bundle) -> None:
    assert tiny.plan("tiny", width=8) == tiny_plan(8)
    assert tiny.plan("tiny", width=1000) == tiny_plan(1000)
    assert tiny.plan("tiny", width=8) is tiny.plan("tiny", width=8)  # read once
    assert [(p.component, p.sizes, p.dtype, p.arena, p.weight_bytes) for p in tiny.plans] == [
        ("tiny", {"width": 8}, "f16", 1536, 28),
        ("tiny", {"width": 1000}, "f16", 8704, 28),
    ]
    assert tiny.components == {"tiny": "f16"}
    assert tiny.component_bytes() == {"tiny": 28}


def test_scalar_types_come_back(tiny: Bundle) -> None:
    first = tiny.plan("tiny", width=8).dispatches[0]
    assert [type(scalar) for scalar in first.scalars] == [int, float]


def test_a_float_scalar_may_be_written_without_a_fraction(tiny: Bundle) -> None:
    """The kernel's `scalars` say the type: other writers print 2.0 as 2."""
    name = "plans/tiny_width8.json"
    edit_json(tiny.path, name, lambda plan: plan["dispatches"][0].update(scalars=[8, 2]))
    scalars = open_bundle(tiny.path).plan("tiny", width=8).dispatches[0].scalars
    assert scalars == (8, 2.0)
    assert [type(scalar) for scalar in scalars] == [int, float]


def test_weights_come_back(tiny: Bundle) -> None:
    np.testing.assert_array_equal(tiny.array("tiny/bias"), BIAS.astype(np.float16))
    np.testing.assert_array_equal(tiny.array("picked"), PICKED)
    assert tiny.array("parts").dtype == np.int8 and tiny.array("parts").tolist() == [-128, 127, -1, 64]
    shard, offset, size = tiny.weight("picked")
    data = tiny.shard(shard)
    assert data.dtype == np.uint8 and not data.flags.writeable and data.size % 512 == 0
    np.testing.assert_array_equal(np.frombuffer(data[offset : offset + size].tobytes(), "<i4"), PICKED)


def test_texts_come_back(tiny: Bundle) -> None:
    assert tiny.tokenizer_files("tiny") == {"vocab.json": b'{"a</w>":0}', "merges.txt": "#version: 0.2\né e\n".encode()}
    assert tiny.scheduler["beta_start"] == 0.00085
    assert tiny.sampler("tiny_2") == {"timesteps": [501, 1], "rows": [[0.5, -1.5e-07], [1, 0]]}
    assert tiny.manifest.tokenizers["tiny"] == TokenizerEntry("bpe", 77, ("merges.txt", "vocab.json"))
    assert tiny.model == MODEL
    assert tiny.kernel_source("pick") == KERNELS["pick.cl"]
    assert tiny.prelude("metal") == KERNELS["prelude/metal.h"]


def test_a_kernels_text_is_read_once(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny.source("pick", "opencl", {"A": 1})
    monkeypatch.setattr(tiny, "read", lambda *_: pytest.fail("read again"))
    assert tiny.source("pick", "opencl", {"A": 2}) == first.replace("A 1", "A 2")


def test_source_is_defines_then_prelude_then_kernel_with_its_own_lines(tiny: Bundle) -> None:
    kernel = tiny.plan("tiny", width=8).kernels[0]
    source = tiny.source(kernel.file, "opencl", kernel.defines)
    assert source.startswith("#define F16 1\n#define WEIGHTS 4\n" + KERNELS["prelude/opencl.h"])
    assert source.endswith('\n#line 1 "scale_add.cl"\n' + KERNELS["scale_add.cl"])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = write_tiny(tmp_path / "a"), write_tiny(tmp_path / "b")
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in files)


def test_a_weight_of_two_plans_is_written_once(tmp_path: Path) -> None:
    reads = []

    def values() -> np.ndarray:
        reads.append(1)
        return BIAS

    plans = [tiny_plan(8), tiny_plan(16), tiny_plan(8, "other")]
    weights = tiny_weights() | tiny_weights("other") | {"tiny/bias": WeightSource(values, "f16", (4,))}
    bundle = open_bundle(write_tiny(tmp_path / "t", plans=plans, weights=weights))
    assert len(reads) == 1
    assert sorted(bundle.manifest.weights) == ["other/bias", "parts", "picked", "tiny/bias"]
    assert bundle.weight("picked")[0] == "weights/tiny-000.bin"  # the component that reads it first
    assert bundle.component_bytes() == {"tiny": 28, "other": 28}


def test_a_weight_no_plan_reads_is_not_written(tmp_path: Path) -> None:
    unused = WeightSource(lambda: pytest.fail("was read"), "f32", (1 << 20,))
    bundle = open_bundle(write_tiny(tmp_path / "t", weights=tiny_weights() | {"unused": unused}))
    assert "unused" not in bundle.manifest.weights


def test_shards_stay_under_the_limit_unless_one_tensor_is_larger(tmp_path: Path) -> None:
    shapes = {"a": (100,), "b": (200,), "c": (50,), "large": (2000,), "d": (10,)}
    operands = [Operand(key, "f32", shape, 4 * shape[0], weight=key) for key, shape in shapes.items()]
    out = Operand("y", "f32", (1,), 4, offset=0)
    call = Dispatch(0, (0, 1, 2, 3, 4, 5), 1, (), (1, 1, 1), (1, 1, 1), "n", "Op", 0, 0, 4)
    plan = Plan("c", {}, "f32", 512, (*operands, out), (), (5,), (Kernel("pick", ()),), (call,))
    rng = np.random.default_rng(0)
    values = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    weights = {key: WeightSource(ir.tensor(value), "f32", value.shape) for key, value in values.items()}
    path = write_tiny(tmp_path / "t", plans=[plan], weights=weights, shard_bytes=1536)
    bundle = open_bundle(path, verify=True)
    assert {key: bundle.weight(key)[:2] for key in shapes} == {
        "a": ("weights/c-000.bin", 0),
        "b": ("weights/c-000.bin", 512),
        "c": ("weights/c-001.bin", 0),
        "large": ("weights/c-002.bin", 0),
        "d": ("weights/c-003.bin", 0),
    }
    for key, value in values.items():
        np.testing.assert_array_equal(bundle.array(key), value)


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = write_tiny(tmp_path / "t", progress=lambda done, total: seen.append((done, total)))
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and p.name != "bundle.json")
    assert seen[-1] == (size, size)
    assert all(a[0] <= b[0] for a, b in pairwise(seen))


def test_kernels_default_to_those_of_the_package(tmp_path: Path) -> None:
    call = Dispatch(0, (0, 1), 1, (4,), (1, 1, 1), (1, 1, 1), "n", "Sqrt", 4, 16, 16)
    unary = Kernel("unary", (("OP_Sqrt", 1), ("STEPS", 1), ("V", 4), ("X", 1)))
    operands = (Operand("x", "f32", (4,), 16, offset=0), Operand("y", "f32", (4,), 16, offset=512))
    plan = Plan("c", {}, "f32", 1024, operands, (0,), (1,), (unary,), (call,))
    bundle = open_bundle(write_bundle(tmp_path / "t", Contents(plans=[plan], weights={}, scheduler={}, model=MODEL)))
    assert bundle.manifest.kernels == ("unary",)
    assert "opencl" in bundle.manifest.preludes
    assert bundle.manifest.pipeline is None
    with pytest.raises(BundleError, match="it holds plans, and no pipeline that draws with them"):
        _ = bundle.pipeline


def test_plan_names() -> None:
    assert plan_stem("unet", {"batch": 2, "height": 64, "width": 96}) == "unet_b2_64x96"
    assert plan_stem("text_encoder", {"batch": 1}) == "text_encoder_b1"
    assert plan_stem("c", {"width": 3, "frames": 2}) == "c_frames2_width3"
    assert plan_stem("c", {}) == "c"


def test_a_plan_as_large_as_stable_diffusions_is_small_and_read_fast() -> None:
    """2,600 dispatches over 3,300 operands: under 1.5 MB, and read in well under a second."""
    n = 2600
    name = "/down_blocks.{}/attentions.1/transformer_blocks.0/attn1/to_q/MatMul_output_0"
    weights = {
        f"down_blocks.{i}.attentions.1.transformer_blocks.0.attn1.to_q.weight": WeightSource(
            lambda: BIAS, "f16", (320, 320)
        )
        for i in range(700)
    }
    stored = [Operand(key, "f16", (320, 320), 204800, weight=key) for key in weights]
    rows = [Operand(name.format(i), "f16", (2, 4096, 320), 5242880, offset=5242880 * (i % 2)) for i in range(n + 1)]
    calls = [
        Dispatch(
            i % 40,
            (700 + i, i % 700, 701 + i),
            1,
            (8192, 320, 320, 2621440, 0),
            (320, 2048, 1),
            (64, 1, 1),
            name.format(i),
            "MatMul",
            1 << 30,
            10690560,
            5242880,
        )
        for i in range(n)
    ]
    kernels = tuple(Kernel("pick", (("F16", 1), ("TILE_M", i), ("TILE_N", 8))) for i in range(40))
    plan = Plan("unet", {"batch": 2}, "f16", 10485760, (*stored, *rows), (700,), (700 + n,), kernels, tuple(calls))
    data = dump_plan(plan, "p")
    assert len(data) < 1_500_000
    start = time.process_time()
    assert parse_plan(load_json(data, "p"), "p", weights, ("pick",)) == plan
    assert time.process_time() - start < 2  # 0.1 s on an idle desktop core


@pytest.mark.parametrize(
    "value", [{}, {"a": []}, {"a": [1, 2.5, "x"], "b": {"c": {"d": None}}}, {"é": '\u2028 \\ "'}, {"a": [[1], {}]}]
)
def test_json_survives(value: object) -> None:
    assert load_json(dump_json(value, "x"), "x") == value


def test_one_kernel_has_one_signature() -> None:
    plan = tiny_plan(8)
    calls = (
        plan.dispatches[0],
        Dispatch(0, (2, 1, 3), 1, (8, 2), (8, 1, 1), (4, 1, 1), "/second", "Add", 0, 0, 0),
        plan.dispatches[2],
    )
    mixed = Plan(
        plan.component,
        plan.sizes,
        plan.dtype,
        plan.arena,
        plan.operands,
        plan.inputs,
        plan.outputs,
        plan.kernels,
        calls,
    )
    with pytest.raises(BundleError, match=r"dispatches\[1\] \(/second\)"):
        dump_plan(mixed, "p")


def test_the_golden_text_of_a_plan_is_one_item_a_line() -> None:
    lines = dump_plan(tiny_plan(8), "p").decode().splitlines()
    assert sum(line.startswith('{"kernel":') for line in lines) == 3
    assert json.loads("\n".join(lines))["arena"] == 1536
