"""Every op as Core ML packages have it: evaluated from the saved files, against float64."""

import numpy as np
import onnx_ir as ir
import pytest

from ondevice.compiler.jobs import Job
from ondevice.errors import GraphError
from ondevice.export.coreml import writer
from ondevice.export.options import Options
from ondevice.export.runtimes import mil
from ondevice.export.runtimes.mil_file import read_package
from ondevice.graph.ops import DOMAIN, FUSED
from ondevice.graph.reference import run
from ondevice.graph.verify import verify_graph
from ondevice.rewrite.functions import add_functions

RNG = np.random.default_rng(0)
BOUND = {"fp32": 1e-5, "fp16": 5e-3}  # of the largest number
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
HIDDEN = np.triu(np.full((7, 7), -np.inf, np.float32), 1)[None, None]


def some(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def whole(*numbers):
    return np.array(numbers, np.int64)


def one_node(op, inputs, shapes, **attributes):
    """A graph of one node, and what to feed it: tuples are shapes of inputs, arrays constants, integer arrays in lists
    inputs."""
    values, feeds, constants = [], {}, []
    for i, given in enumerate(inputs):
        if given is None:
            values.append(None)
            continue
        array = some(*given) if isinstance(given, tuple) else np.asarray(given[0] if type(given) is list else given)
        value = ir.Value(
            name=f"in.{i}", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        if isinstance(given, (tuple, list)):
            feeds[value.name] = array
        else:
            value.const_value = ir.tensor(array, name=value.name)
            constants.append(value)
        values.append(value)
    outputs = [
        ir.Value(name=f"out/{i}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for i, shape in enumerate(shapes)
    ]
    domain = DOMAIN if op in FUSED or op.startswith(("Linear", "GroupNorm")) else ""
    node = ir.node(op, values, attributes=attributes, outputs=outputs, name="the/node", domain=domain)
    graph = ir.Graph(
        [value for value in values if value is not None and value.name in feeds],
        outputs,
        nodes=[node],
        initializers=constants,
        opset_imports={"": 18},
        name="net",
    )
    model = ir.Model(graph, ir_version=10)
    add_functions(model)
    verify_graph(model)
    return model, feeds


def save(model, folder, dtype="fp32", ios=17):
    (folder / f"{dtype}{ios}").mkdir()
    options = Options(dtype=dtype, flags={"ios": ios})
    return folder / f"{dtype}{ios}", writer.write(model, Job("net", {"batch": 1}), folder / f"{dtype}{ios}", options)


PICTURE, TOKENS = (2, 6, 5, 3), (2, 7, 15)
CASES = {
    "Add": ("Add", [PICTURE, (6, 1, 1)], [PICTURE]),
    "Sub a constant": ("Sub", [PICTURE, some(5, 3)], [PICTURE]),
    "Mul by a number": ("Mul", [PICTURE, np.float32(0.3)], [PICTURE]),
    "Div": ("Div", [PICTURE, some(6, 1, 1) + np.float32(4)], [PICTURE]),
    **{op: (op, [TOKENS], [TOKENS]) for op in ("Sigmoid", "Erf", "Tanh", "Exp", "Neg", "Relu", "Identity")},
    "Sqrt": ("Sqrt", [some(3, 4) ** 2], [(3, 4)]),
    "Sin of a large angle": ("Sin", [np.float32([[981.3, 0.25]])], [(1, 2)]),
    "Cast": ("Cast", [[np.int32([[3, -4]])]], [(1, 2)], {"to": ir.DataType.FLOAT}),
    "MatMul": ("MatMul", [(2, 3, 7, 5), (2, 3, 5, 4)], [(2, 3, 7, 4)]),
    "MatMul with a weight": ("MatMul", [TOKENS, some(15, 11)], [(2, 7, 11)]),
    "MatMul of four dimensions": ("MatMul", [(2, 3, 7, 5), some(5, 4)], [(2, 3, 7, 4)]),
    "MatMul of a constant": ("MatMul", [some(4, 7), (2, 7, 15)], [(2, 4, 15)]),
    "Gemm": ("Gemm", [(3, 5), some(5, 11), some(11)], [(3, 11)]),
    "Gemm turned": ("Gemm", [(3, 5), some(11, 5)], [(3, 11)], {"transB": 1}),
    "Conv": ("Conv", [PICTURE, some(4, 6, 3, 3), some(4)], [(2, 4, 2, 1)], {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "Conv high": ("Conv", [PICTURE, some(4, 6, 1, 1)], [(2, 4, 8, 6)], {"pads": [2, 0, 1, 3]}),
    "Conv of groups": ("Conv", [PICTURE, some(4, 3, 3, 3)], [(2, 4, 1, 1)], {"group": 2, "dilations": [2, 1]}),
    "InstanceNormalization": ("InstanceNormalization", [(2, 6, 15), some(6), some(6)], [(2, 6, 15)]),
    "InstanceNormalization wide": (
        "InstanceNormalization",
        [(2, 3, 2, 5, 2), some(3), some(3)],
        [(2, 3, 2, 5, 2)],
        {"epsilon": 1e-6},
    ),
    "LayerNormalization": ("LayerNormalization", [TOKENS, some(15), some(15)], [TOKENS], {"epsilon": 1e-6}),
    "LayerNormalization of axes": ("LayerNormalization", [TOKENS, some(7, 15)], [TOKENS], {"axis": 1}),
    "Softmax": ("Softmax", [TOKENS], [TOKENS]),
    "Softmax of an axis": ("Softmax", [TOKENS], [TOKENS], {"axis": 1}),
    "Resize doubled": ("Resize", [PICTURE, None, np.float32([1, 1, 2, 3])], [(2, 6, 10, 9)], NEAREST),
    "Resize to sizes": ("Resize", [PICTURE, None, None, whole(2, 6, 9, 4)], [(2, 6, 9, 4)], NEAREST),
    "Resize smaller": ("Resize", [PICTURE, None, None, whole(2, 6, 3, 3)], [(2, 6, 3, 3)], NEAREST),
    "Gather": ("Gather", [some(9, 4), [np.int32([[0, 8, 3]])]], [(1, 3, 4)]),
    "Gather from the end": ("Gather", [PICTURE, whole(-1, 0)], [(2, 6, 2, 3)], {"axis": 2}),
    "Transpose": ("Transpose", [PICTURE], [(2, 5, 3, 6)], {"perm": [0, 2, 3, 1]}),
    "Transpose all": ("Transpose", [PICTURE], [(3, 5, 6, 2)]),
    "Concat": ("Concat", [PICTURE, some(2, 1, 5, 3), PICTURE], [(2, 13, 5, 3)], {"axis": -3}),
    "Concat of one": ("Concat", [PICTURE], [PICTURE], {"axis": 1}),
    "Split": ("Split", [TOKENS, whole(4, 11)], [(2, 7, 4), (2, 7, 11)], {"axis": -1}),
    "Slice": ("Slice", [PICTURE, whole(-5, 1), whole(2**63 - 1, -1), whole(1, 2)], [(2, 5, 3, 3)]),
    "Slice by steps": ("Slice", [PICTURE, whole(1), whole(99), whole(1), whole(2)], [(2, 3, 5, 3)]),
    "Expand": ("Expand", [(3, 1), whole(2, 3, 4)], [(2, 3, 4)]),
    "Reshape": ("Reshape", [PICTURE, whole(0, -1, 2)], [(2, 45, 2)]),
    "Unsqueeze": ("Unsqueeze", [TOKENS, whole(1)], [(2, 1, 7, 15)]),
    "Squeeze": ("Squeeze", [(2, 1, 7), whole(1)], [(2, 7)]),
    "Flatten": ("Flatten", [PICTURE], [(2, 90)]),
    **{op: (op, [TOKENS], [TOKENS]) for op in ("Silu", "Gelu", "GeluTanh", "QuickGelu")},
    "Geglu": ("Geglu", [(2, 7, 10)], [(2, 7, 5)]),
    "LinearBias": ("LinearBias", [TOKENS, some(15, 11), some(11)], [(2, 7, 11)]),
    "GroupNorm": (
        "GroupNorm",
        [PICTURE, some(6, 1, 1), some(6, 1, 1)],
        [PICTURE],
        {"groups": [3], "epsilon": 1e-6},
    ),
    "GroupNorm of rows": (
        "GroupNorm",
        [(2, 6, 5), some(6, 1), some(6, 1)],
        [(2, 6, 5)],
        {"groups": [6], "epsilon": 1e-5},
    ),
    "GroupNormSilu": (
        "GroupNormSilu",
        [PICTURE, some(6, 1, 1), some(6, 1, 1)],
        [PICTURE],
        {"groups": [2], "epsilon": 1e-5},
    ),
    "Attention": ("Attention", [TOKENS, (2, 4, 15), (2, 4, 15)], [TOKENS], {"heads": [3], "scale": 0.7}),
    "Attention as usual": ("Attention", [TOKENS, TOKENS, TOKENS], [TOKENS], {"heads": [1], "scale": 15**-0.5}),
    "MaskedAttention": (
        "MaskedAttention",
        [TOKENS, TOKENS, TOKENS, HIDDEN],
        [TOKENS],
        {"heads": [5], "scale": 3**-0.5},
    ),
    **{op: (op, [np.float32([[981], [3]]), np.float32([[1, 0.5, 0.125]])], [(2, 6)]) for op in ("SinCos", "CosSin")},
}


@pytest.mark.parametrize("case", CASES)
def test_an_op_means_what_it_does_in_our_graph(case, tmp_path):
    op, inputs, shapes, *attributes = CASES[case]
    model, feeds = one_node(op, inputs, shapes, **(attributes[0] if attributes else {}))
    wanted = run(model, feeds)
    for dtype, ios in (("fp32", 17), ("fp16", 17), ("fp32", 18), ("fp16", 18)):
        folder, entry = save(model, tmp_path, dtype, ios)
        given = {entry.inputs[name].name: array for name, array in feeds.items()}
        found = mil.load(folder, entry).run(given)
        for name, array in wanted.items():
            error = np.abs(found[entry.outputs[name].name] - array).max()
            assert error <= BOUND[dtype] * np.abs(array).max(), (dtype, ios, error)


def test_indices_count_from_the_start(tmp_path):
    """From iOS 17 on, MIL does not say what indices below 0 are."""
    op, inputs, shapes, attributes = CASES["Gather from the end"]
    folder, entry = save(one_node(op, inputs, shapes, **attributes)[0], tmp_path)
    program = read_package(folder / entry.files[0])
    constants = {each.outputs[0][0]: each.inputs["val"][0] for each in program.operations if each.kind == "const"}
    (gather,) = (each for each in program.operations if each.kind == "gather")
    assert constants[gather.inputs["indices"][0]].array().tolist() == [4, 0]


REFUSED = {
    "six dimensions": ("Reshape", [(64,), whole(*[2] * 6)], [(2,) * 6], {}, r"Core ML holds 5 dimensions \(got \[2, 2"),
    "another resize": ("Resize", [PICTURE, None, None, whole(2, 6, 9, 4)], [(2, 6, 9, 4)], {}, "'half_pixel'"),
    "automatic pads": (
        "Conv",
        [PICTURE, some(4, 6, 3, 3)],
        [(2, 4, 5, 3)],
        {"auto_pad": "SAME_UPPER"},
        "only 2-D convolutions with explicit pads",
    ),
    "a step back": ("Slice", [TOKENS, whole(6), whole(-9), whole(1), whole(-1)], [TOKENS], {}, "step -1 is not"),
    "a factor": ("Gemm", [(3, 5), some(5, 11)], [(3, 11)], {"alpha": 2.0}, "alpha=1 and beta=1"),
    "computed bounds": (
        "Slice",
        [TOKENS, [whole(0)], whole(7), whole(1)],
        [TOKENS],
        {},
        "its bounds must be constants",
    ),
    "a computed scale": ("LayerNormalization", [TOKENS, (15,)], [TOKENS], {}, r"input in\.1 must be a constant"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_core_ml_cannot_hold_is_refused_by_its_node(case, tmp_path):
    op, inputs, shapes, attributes, said = REFUSED[case]
    model, _ = one_node(op, inputs, shapes, **attributes)
    with pytest.raises(GraphError, match=rf"^net: node the/node \({op}\): .*{said}.* Fix: write another format\.$"):
        save(model, tmp_path)
