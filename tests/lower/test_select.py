"""One place chooses kernels: by op, sizes and target; losers say why."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, on_device
from rewrite.graphs import graph as from_text
from rewrite.test_pictures import ANYWHERE, ATTENTION, Net, chain

from ondevice.errors import NoKernelError
from ondevice.graph.ops import DOMAIN
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.lower.rules import ATTENTIONS, CONVOLUTIONS
from ondevice.lower.select import PAYS, select, ways
from ondevice.rewrite import rewrite
from ondevice.target import METHODS, load_target

KERNELS = load_all()
OPS = sorted({op for kernel in KERNELS.values() for op in kernel.ops})
HOST, GPU = load_target("host"), load_target("gpu")
CONV = {
    "n": 1,
    "ic": 4,
    "h": 8,
    "w": 8,
    "oc": 4,
    "oh": 8,
    "ow": 8,
    "kh": 3,
    "kw": 3,
    "stride": 1,
    "pad_top": 1,
    "pad_left": 1,
}


@pytest.mark.parametrize("op", OPS)
def test_the_last_way_takes_any_shape_on_any_target(op: str) -> None:
    last = ways(op, KERNELS)[-1]
    assert last.plain and not last.needs and not any(kernel.caps for kernel in last.kernels)


def test_every_kernel_is_part_of_a_way() -> None:
    assert {kernel.name for op in OPS for way in ways(op, KERNELS) for kernel in way.kernels} == KERNELS.keys()
    names = {op: [[kernel.name for kernel in way.kernels] for way in ways(op, KERNELS)] for op in OPS}
    assert names["Attention"] == [
        ["flash_near_bf16"],
        ["flash_panels", "flash_matrix"],
        ["flash_registers"],
        ["flash_local"],
        ["flash_near"],
        ["flash_rows"],
        ["flash_attention"],
        ["attention_scores_tiles", "softmax_online", "attention_mix_tiles"],
        ["attention_scores", "softmax_stats", "attention_mix"],
    ]
    assert names["ConvNhwc"] == [
        ["winograd_bf16"],
        ["winograd_patches", "winograd_pixels"],
        ["winograd_strips"],
        ["winograd_input", "winograd_output"],
        ["conv2d_waves"],
        ["conv2d_bands"],
        ["conv2d_bf16"],
        ["conv2d_tiles"],
        ["conv2d_nhwc"],
    ]
    assert names["GroupNormNhwc"] == [
        ["group_norm_chunks", "group_norm_finish"],
        ["group_norm_sums", "group_norm_apply"],
        ["group_norm_local"],
        ["group_norm_nhwc"],
        ["group_norm_nhwc_any"],
    ]


def test_every_way_is_lowered_and_every_method_bounded() -> None:
    assert {way.first.name for way in ways("ConvNhwc", KERNELS)} == CONVOLUTIONS.keys()
    assert {way.first.name for op in ("Attention", "MaskedAttention") for way in ways(op, KERNELS)} == ATTENTIONS.keys()
    assert {kernel.method for kernel in KERNELS.values()} - {""} == PAYS.keys() == set(METHODS)


@pytest.mark.parametrize(
    "change, name",
    [
        ({"kh": 1, "kw": 1, "pad_top": 0, "pad_left": 0}, "conv2d_1x1"),
        ({"kh": 1, "kw": 1, "pad_top": 0, "pad_left": 0, "stride": 2, "oh": 4, "ow": 4}, "conv2d_tile"),
        ({"kh": 1, "kw": 1, "pad_top": 0, "pad_left": 0, "oh": 9}, "conv2d_tile"),
        ({}, "conv2d_tile"),
        ({"kh": 5}, "conv2d"),
        ({"stride": 3}, "conv2d"),
    ],
    ids=str,
)
def test_convolutions(change: dict[str, int], name: str) -> None:
    assert select("Conv", CONV | change, HOST, KERNELS).way.first.name == name


def test_says_why_each_way_lost() -> None:
    few = {name: KERNELS[name] for name in ("conv2d_1x1", "conv2d_tile")}
    with pytest.raises(NoKernelError) as caught:
        select("Conv", CONV | {"kh": 5}, HOST, few)
    assert "no kernel fits (conv2d_1x1: kh=5 is over 1; conv2d_tile: kh=5 is over 3)" in str(caught.value)
    choice = select("Conv", CONV | {"kh": 5}, HOST, KERNELS)
    assert (
        choice.fallback == "runs on the general kernel conv2d: conv2d_1x1: kh=5 is over 1; conv2d_tile: kh=5 is over 3"
    )
    assert select("Conv", CONV, HOST, KERNELS).fallback is None


def test_unknown_op() -> None:
    with pytest.raises(
        NoKernelError, match=r"Einsum \{'n': 1\}: no kernel fits \(no file for this op\)\. Fix: add a fallback kernel\."
    ):
        select("Einsum", {"n": 1}, HOST, KERNELS)


WIDE = CONV | {"ic": 256, "oc": 256, "tiles": 256, "up_h": 8, "up_w": 8, "cramped": 0}


def test_class_and_capabilities_come_before_sizes() -> None:
    """A kernel of another class, or one that needs what the device has not, is none of the target's."""
    on_cpu, on_gpu = (select("ConvNhwc", WIDE, target, KERNELS) for target in (HOST, GPU))
    assert (on_cpu.way.first.name, on_gpu.way.first.name) == ("winograd_strips", "winograd_input")
    assert on_gpu.losers == {
        "winograd_patches": "it is of class mobile (target gpu has portable)",
        "winograd_strips": "it is of class cpu (target gpu has portable)",
    }
    assert not on_gpu.methods
    asking = replace(
        KERNELS["winograd_strips"], header=KERNELS["winograd_strips"].header | {"caps": ["half", "subgroups"]}
    )
    kernels = KERNELS | {"winograd_strips": asking}
    without = select("ConvNhwc", WIDE, replace(HOST, caps=frozenset({"half"})), kernels)
    assert without.losers["winograd_strips"] == "it needs subgroups, which target host has not"
    assert select("ConvNhwc", WIDE, replace(HOST, caps=frozenset({"half", "subgroups"})), kernels).way.first is asking


@pytest.mark.parametrize("without", [["winograd"], ["all"]])
def test_a_method_that_is_left_out(without: list[str]) -> None:
    choice = select("ConvNhwc", WIDE, HOST, KERNELS, without)
    assert choice.way.first.name == "conv2d_bands" and not choice.methods and choice.fallback is None
    left_out = dict.fromkeys(("winograd_strips", "winograd_input"), "--without winograd")
    mobile = dict.fromkeys(("winograd_patches", "conv2d_waves"), "it is of class mobile (target host has cpu)")
    assert choice.losers == left_out | mobile


def test_pictures_of_few_channels_are_convolved_patch_by_patch() -> None:
    few = select("ConvNhwc", WIDE | {"ic": 4}, HOST, KERNELS)
    assert few.way.first.name == "conv2d_nhwc" and few.losers["conv2d_bands"] == "ic=4 is under V=16"


# Methods of whole graphs ----------------------------------------------------------------------------------------------


def used(model, target, method, **options):  # type: ignore[no-untyped-def]
    """(how many nodes a method computes, why it does not compute others)."""
    use = lower(model, "net", target=target, **options).methods[method]
    return use.applied, list(use.skipped)


@pytest.mark.parametrize(
    "bounds, reason",
    [
        ({}, None),
        ({"min_channels": 7}, "it has fewer than 7 channels"),
        ({"min_outputs": 10}, "it makes fewer than 10 channels"),
        ({"min_tiles": 5}, "it has fewer than 5 tiles of 4x4"),
        ({"min_channels": 6, "min_tiles": 4}, None),
    ],
    ids=str,
)
def test_winograd_within_its_bounds(bounds, reason) -> None:  # type: ignore[no-untyped-def]
    narrow = {"winograd_strips": {"V": 4}, "conv2d_nhwc": {"V": 4}}
    target = replace(ANYWHERE, winograd=bounds, tune=narrow)
    model = chain(lambda b, x, y: b.conv("c", x, 9))  # 2 pictures of 5x4: 4 tiles
    rewrite(model)
    assert fused_ops(model) == {"ConvNhwcBias": 1}
    assert used(model, target, "winograd") == ((1, []) if reason is None else (0, [reason]))
    assert used(model, target, "winograd", without=["winograd"]) == (0, [])


@pytest.mark.parametrize("kernel_class", ["cpu", "portable"])
def test_winograd_needs_a_vector_of_channels(kernel_class: str) -> None:
    model = chain(lambda b, x, y: b.conv("c", x, 9))
    rewrite(model)
    assert used(model, replace(ANYWHERE, kernel_class=kernel_class), "winograd") == (0, ["ic=6 is under V=16"])


@pytest.mark.parametrize("settings", [{"k": 1, "strides": (2, 2)}, {"strides": (2, 2)}, {"k": 5}], ids=str)
def test_winograd_is_for_3x3_of_stride_1(settings) -> None:  # type: ignore[no-untyped-def]
    model = chain(lambda b, x, y: b.conv("c", x, 9, **settings))
    rewrite(model)
    assert used(model, ANYWHERE, "winograd") == (0, []), "what it is not meant for is no match that was left alone"


@pytest.mark.device
@pytest.mark.parametrize(
    "bounds, reason",
    [
        ({}, None),
        ({"max_head": 4, "min_queries": 3, "min_keys": 5}, None),
        ({"max_head": 3}, "its heads have more than 3 columns"),
        ({"min_queries": 4}, "it has fewer than 4 queries"),
        ({"min_keys": 6}, "it has fewer than 6 keys"),
    ],
    ids=str,
)
def test_flash_attention_within_its_bounds(bounds, reason) -> None:  # type: ignore[no-untyped-def]
    model, target = from_text(ATTENTION), replace(ANYWHERE, flash=bounds)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert used(model, target, "flash") == ((1, []) if reason is None else (0, [reason]))
    np.testing.assert_allclose(on_device(model, inputs, target), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head, tuned, sets", [(160, 8, 8), (512, 8, 4), (1024, 8, 2), (512, 1, 1)])
def test_wide_heads_have_fewer_queries_at_a_time(head, tuned, sets) -> None:  # type: ignore[no-untyped-def]
    """What a work-item keeps of 64 queries and their sums takes 64 * 2 * head floats; a megabyte is near."""
    q, k, v, y = (
        ir.Value(name=n, shape=ir.Shape([1, 130, head]), type=ir.TensorType(ir.DataType.FLOAT)) for n in "qkvy"
    )
    attributes = ir.convenience.convert_attributes({"heads": [1], "scale": 1.0})
    node = ir.Node(DOMAIN, "Attention", [q, k, v], attributes, outputs=[y], name="attend")
    opsets = {"": 18, DOMAIN: 1}
    model = ir.Model(ir.Graph([q, k, v], [y], nodes=[node], opset_imports=opsets, name="net"), ir_version=10)
    target = replace(load_target("host"), flash={}, tune={"flash_attention": {"SETS": tuned}})
    (call,) = (call for call in lower(model, "net", target=target).calls if call.kernel == "flash_attention")
    assert dict(call.defines)["SETS"] == sets


def test_two_commands_are_taken_where_the_target_asks_for_them() -> None:
    model = chain(lambda b, x, y: b.norm("n", b.conv("c", x, 48)))  # groups of 16 channels, 20 pixels
    rewrite(model)
    for bound, wanted in (
        ({}, "the target does not ask for it"),
        ({"two_commands": 21}, "it has fewer than 21 pixels"),
    ):
        assert used(model, replace(ANYWHERE, group_norm=bound), "two_commands") == (0, [wanted])
    assert used(model, replace(ANYWHERE, group_norm={"two_commands": 20}), "two_commands") == (1, [])


@pytest.mark.device
@pytest.mark.parametrize(
    "name, product",
    [
        ("adreno_6xx", "matmul_tiles"),
        ("adreno_740", "matmul_waves"),
        ("mali_g715", "matmul_matrix"),
        ("apple_a16", "matmul_matrix"),
    ],
)
def test_winograds_products_are_those_of_the_target(name: str, product: str) -> None:
    """In bands, of which the last is shorter, by whatever kernel the target has for a product."""
    target = replace(load_target(name), winograd={}, scratch=1 << 17)
    b = Net()
    x = b.input("x", (2, 16, 30, 22))
    model = b.finish(out=b.conv("c", x, 36))
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    program = lower(model, "net", target=target)
    kernels = [call.kernel for call in program.calls]
    bands = kernels.count("winograd_patches")
    assert 1 < bands == kernels.count("winograd_pixels") == kernels.count(product)
    np.testing.assert_allclose(on_device(model, inputs, target), before, rtol=1e-4, atol=1e-4)
