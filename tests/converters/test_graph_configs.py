"""Any configuration that is let through: shapes that ONNX infers, exactly the weights that are expected,
nothing read while building."""

import time

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from checkpoint_files import expected_weights, normalize
from hypothesis import given, settings
from hypothesis import strategies as st
from unet_configs import MIDDLES, UP, layers_and_depths, some

from ondevice.converters import build
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES
from ondevice.graph.verify import verify_graph


def unread(name, shape):
    """A weight that must not be read."""

    def read():
        raise AssertionError(f"{name} was read while the graph was built")

    return ir.LazyTensor(read, dtype=ir.DataType.FLOAT16, shape=ir.Shape(shape), name=name)


def unread_checkpoint(raw):
    """The configs' checkpoint, whose weights are names and shapes only."""
    parts = {}
    for component, config in raw.items():
        full = normalize(component, config, "test")
        parts[component] = Component(
            full, {name: unread(name, shape) for name, shape in expected_weights(component, full).items()}
        )
    return Checkpoint(parts, {}, {}, "sd14", "test")


def used_weights(model):
    """Names of the weights that a graph reads."""
    lazy = (name for name, value in model.graph.initializers.items() if isinstance(value.const_value, ir.LazyTensor))
    return {name.split(":")[0].removesuffix(".T") for name in lazy}


def typed(values):
    return {v.name: (list(v.shape), v.dtype) for v in values}


def check_shapes(model):
    """Every value's shape and type is what ONNX's strict inference finds without our help."""
    verify_graph(model)
    proto = onnx.ModelProto()
    proto.ir_version = model.ir_version
    proto.opset_import.add(version=18)
    for value in model.graph.inputs:
        proto.graph.input.append(ir.to_proto(value))
    # constants by value: some are shapes; weights by their type alone
    for name, value in model.graph.initializers.items():
        if not isinstance(value.const_value, ir.LazyTensor):
            proto.graph.initializer.append(ir.to_proto(value.const_value))
        else:
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(value.shape))
            )
    for node in model.graph:
        proto.graph.node.append(ir.to_proto(node))
    for value in model.graph.outputs:  # no shape: it is to be found
        proto.graph.output.append(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None))
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True).graph
    found = {
        v.name: ([d.dim_value for d in v.type.tensor_type.shape.dim], ir.DataType(v.type.tensor_type.elem_type))
        for v in (*inferred.value_info, *inferred.output)
    }
    assert typed(v for node in model.graph for v in node.outputs) == found


@st.composite
def configs(draw):
    """Raw configs of all three components: odd widths, any mix of blocks, one to four levels."""
    groups, heads = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    unit, levels = groups * heads, draw(st.integers(1, 4))
    widths = [
        unit * draw(st.integers(4, 5)),
        *(unit * draw(st.integers(1, 4)) for _ in range(levels - 1)),
    ]  # the first holds the time frequencies
    down = [draw(st.sampled_from(sorted(UP))) for _ in range(levels)]
    text_heads = draw(st.integers(1, 3))
    text_width = text_heads * draw(st.integers(1, 5))
    vae_groups, vae_levels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return {
        "text_encoder": {
            "vocab_size": 20,
            "hidden_size": text_width,
            "intermediate_size": draw(st.integers(1, 9)),
            "num_hidden_layers": draw(st.integers(1, 3)),
            "num_attention_heads": text_heads,
            "max_position_embeddings": draw(st.integers(1, 9)),
            "hidden_act": draw(st.sampled_from(["gelu", "quick_gelu"])),
        },
        "unet": {
            "block_out_channels": widths,
            "down_block_types": down,
            "up_block_types": [UP[kind] for kind in reversed(down)],
            **layers_and_depths(draw, levels),
            "mid_block_type": draw(st.sampled_from(MIDDLES)),
            "only_cross_attention": draw(st.booleans() | some(levels, st.booleans())),
            "time_embedding_dim": draw(st.none() | st.integers(1, 9)),
            "cross_attention_dim": text_width,
            "attention_head_dim": draw(st.sampled_from([heads, [heads] * levels])),
            "norm_num_groups": groups,
            "use_linear_projection": draw(st.booleans()),
            "flip_sin_to_cos": draw(st.booleans()),
            "freq_shift": draw(st.sampled_from([0, 1])),
        },
        "vae": {
            "block_out_channels": [vae_groups * draw(st.integers(1, 4)) for _ in range(vae_levels)],
            "down_block_types": ["DownEncoderBlock2D"] * vae_levels,
            "up_block_types": ["UpDecoderBlock2D"] * vae_levels,
            "layers_per_block": draw(st.integers(1, 2)),
            "norm_num_groups": vae_groups,
        },
    }


@given(configs(), st.integers(1, 3), st.integers(1, 17), st.integers(1, 17))
@settings(max_examples=15, deadline=None)
def test_any_configuration_at_any_size(raw, batch, height, width):
    checkpoint = unread_checkpoint(raw)
    model = build(checkpoint)
    used = {"vae": set()}
    for component in model.roles:
        sizes = {"batch": batch} | ({"height": height, "width": width} if model.sized(component) else {})
        graph = model.graph(component, **sizes)
        check_shapes(graph)
        part = model.family.roles[component].part
        used[part] = used.get(part, set()) | used_weights(graph)
    for part, names in used.items():
        assert names == set(checkpoint.components[part].weights)


@pytest.mark.parametrize("height, width", [(64, 64), (65, 41), (1, 96)])
def test_full_size_is_quick_and_reads_nothing(height, width):
    family = FAMILIES["sd14"]
    model = build(unread_checkpoint({part: family.config(part) for part in ("text_encoder", "unet", "vae")}))
    started = time.process_time()
    graph = model.graph("unet", batch=2, height=height, width=width)
    assert time.process_time() - started < 2
    check_shapes(graph)
    assert list(graph.graph.outputs[0].shape) == [2, 4, height, width]
    for component, shape in (("vae_decoder", [1, 3, 8 * height, 8 * width]), ("vae_encoder", [1, 8, height, width])):
        other = model.graph(component, height=height, width=width)
        check_shapes(other)
        assert list(other.graph.outputs[0].shape) == shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_any_stored_type_become_float32(dtype):
    stored = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    b = GraphBuilder("g", {"w": ir.tensor(stored, name="w")})
    for value, expected in (
        (b.weight("w", 2, 3), stored),
        (b.weight("w", 2, 3, view=(6, 1)), stored.reshape(6, 1)),
        (b.transposed("w", 2, 3), stored.T),
    ):
        array = value.const_value.numpy()
        assert value.dtype == value.const_value.dtype == ir.DataType.FLOAT and array.dtype == np.float32
        assert value.name == value.const_value.name and list(value.shape) == list(array.shape)
        np.testing.assert_array_equal(array, expected.astype(np.float32))
    assert (b.weight("w", 2, 3), b.transposed("w", 2, 3)) == (b.weight("w", 2, 3), b.transposed("w", 2, 3))
