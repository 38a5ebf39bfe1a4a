"""Every emitter: a graph of one node as a TFLite file, run by LiteRT, against the reference in float64."""

import numpy as np
import onnx_ir as ir
import pytest
from export.tflite_files import KERNELS, by_litert, codes, error, read_tflite, write_tflite

from ondevice.errors import GraphError
from ondevice.export.tflite import attention
from ondevice.export.tflite.emit import EMITTERS
from ondevice.graph.epilogue import read
from ondevice.graph.ops import DOMAIN, FUSED, OPS
from ondevice.graph.reference import run
from ondevice.rewrite.functions import add_functions

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def ints(*values):
    return np.array(values, np.int64)


class Given(tuple):
    """The shape of an input."""


class Positive(Given):
    """The same; its numbers are above 0.1."""


def one_node(op, operands, results=1, **attributes):
    """A graph of one node, numbers for its inputs, and its results; operands are `Given` or constants."""
    values, feeds, rng = [], {}, np.random.default_rng(1)
    for place, operand in enumerate(operands):
        if operand is None:
            values.append(None)
            continue
        given = isinstance(operand, Given)
        array = rng.standard_normal(operand, dtype=np.float32) if given else operand
        if isinstance(operand, Positive):
            array = np.abs(array) + np.float32(0.1)
        dtype = ir.DataType.from_numpy(array.dtype)
        value = ir.Value(name=f"in{place}", shape=ir.Shape(array.shape), type=ir.TensorType(dtype))
        if given or array.dtype == np.int32:
            feeds[value.name] = array
        else:
            value.const_value = ir.tensor(array, name=value.name)
        values.append(value)
    outputs = [ir.Value(name=f"out{place}", type=ir.TensorType(ir.DataType.FLOAT)) for place in range(results)]
    domain = "" if op in OPS else DOMAIN
    node = ir.node(op, values, attributes=attributes, outputs=outputs, domain=domain, name="it")
    graph = ir.Graph(
        [value for value in values if value is not None and value.name in feeds],
        outputs,
        nodes=[node],
        initializers=[value for value in values if value is not None and value.const_value is not None],
        opset_imports={"": 18},
        name="g",
    )
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    want = run(model, feeds)
    for value in outputs:
        value.shape = ir.Shape(want[value.name].shape)
    return model, feeds, want


X4 = Given((2, 5, 7, 6))
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
AFFINE = (normal(6), normal(6))


def conv(size, stride, pads):
    """A convolution's case at a size, to five channels."""
    return (
        "ConvNhwcBias",
        [Given((2, *size, 4)), normal(3, 3, 4, 5), normal(5)],
        {"strides": [stride] * 2, "pads": pads},
    )


def up(before, after):
    return (
        "UpConvNhwc",
        [Given((1, *before, 3)), normal(3, 3, 3, 2)],
        {"strides": [1, 1], "pads": [1] * 4, "sizes": [1, 3, *after]},
    )


CASES = [
    *((op, [Given((3, 5)), Positive((5,))], {}) for op in ("Add", "Sub", "Mul", "Div")),
    ("Sqrt", [Positive((3, 7))], {}),
    ("Add", [Given((2, 3, 5, 4)), normal(1, 4)], {}),
    ("Mul", [Given((2, 7)), np.float32(3)], {}),
    *((op, [Given((3, 7))], {}) for op in ("Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Exp", "Neg", "Relu")),
    *((op, [Given((3, 7, 4))], {}) for op in ("Silu", "Gelu", "GeluTanh", "QuickGelu", "Geglu")),
    ("MatMul", [Given((2, 5, 7)), normal(7, 3)], {}),
    ("MatMul", [Given((2, 5, 7)), Given((2, 7, 3))], {}),
    ("MatMul", [Given((2, 3, 5, 7)), normal(7, 4)], {}),
    ("MatMul", [normal(2, 3, 5), Given((5, 7))], {}),
    ("Gemm", [Given((3, 5)), normal(7, 5), normal(7)], {"transB": 1}),
    ("Gemm", [Given((5, 3)), normal(5, 7), normal(7)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [Given((3, 5)), Given((7, 5))], {"transB": 1}),
    ("Conv", [Given((2, 4, 7, 6)), normal(5, 4, 3, 3), normal(5)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [Given((1, 4, 9, 8)), normal(5, 4, 3, 2)], {"dilations": [2, 1], "pads": [2, 0, 2, 1]}),
    ("InstanceNormalization", [Given((2, 4, 5, 3)), normal(4), normal(4)], {"epsilon": 1e-5}),
    ("LayerNormalization", [Given((2, 5, 7)), normal(7), normal(7)], {"epsilon": 1e-5}),
    ("LayerNormalization", [Given((2, 5, 7)), normal(5, 7)], {"axis": 1}),
    ("Softmax", [Given((2, 5, 7))], {}),
    ("Softmax", [Given((2, 5, 7))], {"axis": 1}),
    ("Resize", [Given((1, 5, 3, 4)), None, None, ints(1, 10, 6, 4)], NEAREST),
    ("Resize", [Given((1, 4, 5, 3)), None, None, ints(1, 4, 7, 6)], NEAREST),
    ("Gather", [normal(9, 5), np.array([[0, 8, 3]], np.int32)], {}),
    ("Gather", [Given((2, 9, 5)), ints(8, 1)], {"axis": 1}),
    ("Transpose", [Given((2, 3, 5))], {"perm": [2, 0, 1]}),
    ("Concat", [Given((2, 3, 5)), normal(2, 1, 5), Given((2, 4, 5))], {"axis": -2}),
    ("Split", [Given((2, 6, 5))], {"axis": 1, "num_outputs": 3}),
    ("Split", [Given((2, 6, 5)), ints(1, 5)], {"axis": 1}),
    ("Slice", [Given((2, 6, 5)), ints(1, -3), ints(5, 1 << 40), ints(1, 2), ints(2, 1)], {}),
    ("Slice", [Given((2, 6)), ints(1), ints(2)], {}),
    ("Expand", [Given((3, 1, 5)), ints(2, 3, 4, 5)], {}),
    ("Expand", [Given((3, 5)), ints(1, 5)], {}),
    ("Reshape", [Given((2, 6, 5)), ints(3, -1)], {}),
    ("Unsqueeze", [Given((2, 6)), ints(1)], {}),
    ("Squeeze", [Given((2, 1, 6)), ints(1)], {}),
    ("Flatten", [Given((2, 3, 6))], {"axis": 2}),
    ("Identity", [Given((2, 3))], {}),
    ("Cast", [np.array([[1, 5]], np.int32)], {"to": ir.DataType.FLOAT}),
    ("CosSin", [Given((2, 1)), normal(5)], {}),
    ("SinCos", [Given((2, 1)), normal(1, 5)], {}),
    ("Attention", [Given((2, 5, 6)), Given((2, 7, 6)), Given((2, 7, 6))], {"heads": [3], "scale": 0.7}),
    ("Attention", [Given((1, 11, 6)), Given((1, 11, 6)), Given((1, 11, 6))], {"heads": [1], "scale": 1.0}),
    (
        "MaskedAttention",
        [*[Given((2, 6, 6))] * 3, np.triu(np.full((6, 6), -np.inf, np.float32), 1)[None, None]],
        {"heads": [2], "scale": 0.5},
    ),
    ("Linear", [Given((2, 5, 7)), normal(7, 3)], {}),
    ("LinearBiasGeglu", [Given((2, 5, 7)), normal(7, 6), normal(6)], {}),
    ("LinearBiasQuickGeluAdd", [Given((2, 5, 7)), normal(7, 3), normal(3), Given((2, 5, 3))], {}),
    ("ConcatLinearBias", [Given((1, 3, 5, 4)), Given((1, 3, 5, 3)), normal(7, 6), normal(6)], {}),
    *(conv((6, 7), 2, pads) for pads in ([1] * 4, [0, 0, 1, 1], [0] * 4)),
    conv((5, 6), 1, [1] * 4),
    conv((5, 6), 1, [2, 0, 0, 1]),
    (
        "ConvNhwcBiasShiftSiluAdd",
        [Given((2, 5, 3, 4)), normal(3, 3, 4, 5), normal(5), Given((2, 1, 1, 5)), Given((2, 5, 3, 5))],
        {"strides": [1, 1], "pads": [1] * 4},
    ),
    (
        "ConvNhwcBiasAddThenRelu",
        [Given((2, 5, 3, 4)), normal(3, 3, 4, 5), normal(5), Given((2, 5, 3, 5))],
        {"strides": [1, 1], "pads": [1] * 4},
    ),
    *(up(before, after) for before, after in (((3, 5), (6, 10)), ((4, 3), (7, 5)), ((3, 28), (6, 46)))),
    ("GroupNorm", [X4, normal(5, 1, 1), normal(5, 1, 1)], {"groups": [5], "epsilon": 1e-5}),
    ("GroupNormSilu", [Given((2, 6, 5)), normal(6, 1), normal(6, 1)], {"groups": [3], "epsilon": 1e-5}),
    ("GroupNormNhwc", [X4, *AFFINE], {"groups": [3], "epsilon": 1e-6}),
    ("GroupNormNhwc", [Given((2, 15, 6)), *AFFINE], {"groups": [6], "epsilon": 1e-5}),
    (
        "ConcatGroupNormNhwcSilu",
        [Given((1, 5, 3, 2)), Given((1, 5, 3, 4)), *AFFINE],
        {"groups": [2], "epsilon": 1e-5},
    ),
]


@pytest.mark.parametrize("op, operands, attributes", CASES, ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)])
def test_one_node(op, operands, attributes, tmp_path):
    results = attributes.get("num_outputs", len(operands[1]) if op == "Split" and len(operands) > 1 else 1)
    model, feeds, want = one_node(op, operands, results, **attributes)
    path = write_tflite(model, tmp_path / "it.tflite")
    for kernels in KERNELS:
        found = by_litert(path, feeds, kernels)
        assert found.keys() == want.keys()
        assert max(error(found[name], want[name]) for name in want) < 2e-6, kernels
    content = read_tflite(path)
    assert b"out0" in {tensor.name for tensor in content.subgraphs[0].tensors}
    assert not {"CUSTOM", "BROADCAST_TO", "STABLEHLO_COMPOSITE"} & {*codes(content)}
    assert all(len(tensor.shape) <= 4 for tensor in content.subgraphs[0].tensors)


@pytest.mark.parametrize(
    "size, stride, pads, named",
    [
        ((6, 8), 2, [0, 0, 1, 1], True),  # SAME: the odd row is below
        ((6, 8), 2, [1, 1, 0, 0], False),
        ((7, 9), 2, [1] * 4, True),
        ((6, 8), 2, [1] * 4, False),
        ((6, 8), 1, [1] * 4, True),
        ((6, 8), 2, [0] * 4, True),
    ],
)
def test_paddings_that_have_a_name_are_no_op(size, stride, pads, named, tmp_path):
    op, operands, attributes = conv(size, stride, pads)
    model, feeds, want = one_node(op, operands, **attributes)
    path = write_tflite(model, tmp_path / "it.tflite")
    assert ("PAD" not in codes(read_tflite(path))) == named
    assert error(by_litert(path, feeds)["out0"], want["out0"]) < 2e-6


def test_every_op_has_an_emitter_and_a_case():
    of_sd3 = {"AdaLayerNorm", "GatedAdd", "ReduceMean", "RmsNorm"}  # Stable Diffusion 3 is not exported
    assert {*EMITTERS} == {*OPS, *FUSED} - {"Constant", "NormalizeNhwc"} - of_sd3 - {
        "SumRanks"
    }  # nor are shares of networks
    assert {stepped.base if (stepped := read(op)) else op for op, *_ in CASES} == {*EMITTERS}


def test_large_scores_are_made_in_pieces(tmp_path, monkeypatch):
    shapes = [Given((2, 6, 4)), Given((2, 5, 4)), Given((2, 5, 4))]
    plain = one_node("Attention", shapes, heads=[2], scale=0.7)
    masked = one_node("MaskedAttention", [*shapes, normal(1, 1, 6, 5)], heads=[2], scale=0.7)
    for most, pieces in ((120, 1), (119, 2), (50, 3), (10, 6)):
        monkeypatch.setattr(attention, "MOST_SCORES", most)
        for model, feeds, want in (plain, masked):
            path = write_tflite(model, tmp_path / "it.tflite")
            assert codes(read_tflite(path)).count("SOFTMAX") == pieces
            assert error(by_litert(path, feeds)["out0"], want["out0"]) < 2e-6


@pytest.mark.parametrize("mean", [0, 30])
def test_a_norm_of_a_large_picture_keeps_its_digits(mean, tmp_path):
    """One sum over all pixels would be off by their number."""
    model, feeds, _ = one_node(
        "GroupNormNhwc", [Given((1, 160, 96, 4)), *(np.ones(4, np.float32),) * 2], groups=[2], epsilon=1e-5
    )
    feeds["in0"] += np.float32(mean)
    want = run(model, feeds)["out0"]
    path = write_tflite(model, tmp_path / "it.tflite")
    assert max(error(by_litert(path, feeds, kernels)["out0"], want) for kernels in KERNELS) < 3e-6


@pytest.mark.parametrize(
    "op, operands, attributes, message",
    [
        (
            "Transpose",
            [Given((1, 2, 3, 4, 5))],
            {"perm": [4, 0, 1, 2, 3]},
            r"its shape is \[5, 1, 2, 3, 4\] \(expected at most 4 axes\)",
        ),
        ("Conv", [Given((1, 4, 3, 3)), normal(4, 2, 3, 3)], {"group": 2}, "it is grouped, or padded by rule"),
        (
            "Resize",
            [Given((1, 2, 3, 3)), None, None, ints(1, 2, 6, 6)],
            {"mode": "linear"},
            "does not repeat the nearest",
        ),
        (
            "Resize",
            [Given((1, 2, 3, 3)), None, None, ints(2, 2, 3, 3)],
            NEAREST,
            r"resizes \[1, 2, 3, 3\] to \[2, 2, 3, 3\]",
        ),
        ("Slice", [Given((4,)), ints(3), ints(0), ints(0), ints(-1)], {}, r"it goes backwards, by \[-1\]"),
    ],
)
def test_what_a_file_cannot_hold_is_said(op, operands, attributes, message, tmp_path):
    model, *_ = one_node(op, operands, **attributes)
    where = rf"net: node it \({op}\): a TFLite file cannot hold it: .*{message}.*\. Fix: write a bundle, or ONNX files"
    with pytest.raises(GraphError, match=where):
        write_tflite(model, tmp_path / "it.tflite")
