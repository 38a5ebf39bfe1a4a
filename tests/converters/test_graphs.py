"""Graphs: op counts as exporters write them, shapes that ONNX's own inference confirms,
values that float64 confirms."""

import collections

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from checkpoint_files import ROLES
from tiny_model import TINY, tiny_graph

from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.errors import GraphError, UsageError
from ondevice.graph import reference
from ondevice.graph.verify import verify_graph


@pytest.fixture(scope="module")
def tiny():
    return build(random_checkpoint_from_configs(**TINY, seed=1), whole=True)


def listing(model):
    """A graph as text: a node per line, names and shapes, without weights."""
    lines = [f"input {v.name} {v.dtype.name}{list(v.shape)}" for v in model.graph.inputs]
    for node in model.graph:
        settings = " ".join(f"{a.name}={a.value}" for a in node.attributes.values())
        outputs = ", ".join(f"{v.name}{list(v.shape)}" for v in node.outputs)
        read = ", ".join(v.name if v is not None else "-" for v in node.inputs)
        lines.append(f"{outputs} = {node.op_type}({read}) {settings}".rstrip())
    return "\n".join([*lines, *(f"output {v.name}" for v in model.graph.outputs)]) + "\n"


@pytest.mark.parametrize("component", ROLES)
def test_tiny_graph_as_text(tiny, component, golden):
    golden(f"graphs/tiny_{component}.txt", listing(tiny_graph(tiny, component)))


@pytest.mark.parametrize("component", ROLES)
def test_op_counts_at_full_size(component, golden):
    sizes = {} if component == "text_encoder" else {"batch": 2, "height": 64, "width": 64}
    model = build(random_checkpoint("sd14", 0), whole=True).graph(component, **sizes)
    verify_graph(model)
    counts = collections.Counter(node.op_type for node in model.graph)
    golden(f"graphs/sd14_{component}_ops.txt", "".join(f"{op} {count}\n" for op, count in sorted(counts.items())))


def test_the_unet_has_the_layers_of_the_paper():
    counts = collections.Counter(
        n.op_type for n in build(random_checkpoint("sd14", 0)).graph("unet", height=64, width=64).graph
    )
    assert (counts["InstanceNormalization"], counts["Softmax"], counts["Erf"], counts["Conv"]) == (61, 32, 16, 98)


@pytest.mark.parametrize("component", ROLES)
def test_shapes_are_those_that_onnx_infers(tiny, component):
    model = tiny_graph(tiny, component)
    ours = {v.name: list(v.shape) for node in model.graph for v in node.outputs}
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    assert ours == {v.name: list(v.shape) for node in inferred.graph for v in node.outputs}


@pytest.mark.parametrize("component", ROLES)
def test_onnxruntime_agrees_with_float64(tiny, component):
    model = tiny_graph(tiny, component)
    rng = np.random.default_rng(0)
    inputs = {v.name: rng.standard_normal([int(d) for d in v.shape], dtype=np.float32) for v in model.graph.inputs}
    if component == "text_encoder":
        inputs["input_ids"] = rng.integers(0, 50, (2, 7)).astype(np.int32)
    got = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, inputs
    )[0]
    (expected,) = reference.run(model, inputs).values()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("shift, frequencies", [(0, [1, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]), (1, [1, 1e-2, 1e-4])])
def test_frequencies_of_the_time_embedding(shift, frequencies):
    """Three of them: `freq_shift` 1 puts the last at 1/10000, 0 one step before it."""
    model = build(random_checkpoint_from_configs(**TINY | {"unet": TINY["unet"] | {"freq_shift": shift}}, seed=1))
    (value,) = [
        v
        for name, v in tiny_graph(model, "unet").graph.initializers.items()
        if name.startswith("time_proj.frequencies")
    ]
    np.testing.assert_allclose(value.const_value.numpy(), [frequencies], rtol=1e-6)


def test_weights_stay_lazy_and_keep_their_names(tiny):
    model = tiny_graph(tiny, "unet")
    lazy = {
        name: v.const_value for name, v in model.graph.initializers.items() if isinstance(v.const_value, ir.LazyTensor)
    }
    stored = tiny.checkpoint.components["unet"].weights
    assert {name.split(":")[0].removesuffix(".T") for name in lazy} == set(stored)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    np.testing.assert_array_equal(lazy[f"{name}.T"].numpy(), stored[name].numpy().T)


def test_a_constant_of_one_name_has_one_content():
    model = build(random_checkpoint_from_configs(**TINY, seed=1))
    seen = {}
    for height, width in ((5, 3), (8, 8), (9, 4)):
        for name, value in model.graph("unet", height=height, width=width).graph.initializers.items():
            if not isinstance(value.const_value, ir.LazyTensor):
                array = value.const_value.numpy()
                assert np.array_equal(seen.setdefault(name, array), array), name


def test_refusals(tiny):
    with pytest.raises(UsageError, match="component 'clip' is unknown"):
        tiny.graph("clip")
    with pytest.raises(UsageError, match="unet: batch 1, height 0, width 4 must be positive"):
        tiny.graph("unet", height=0, width=4)
    parts = dict(tiny.checkpoint.components)
    weights = {n: t for n, t in parts["unet"].weights.items() if n != "conv_in.bias"}
    parts["unet"] = type(parts["unet"])(parts["unet"].config, weights)
    broken = build(type(tiny.checkpoint)(parts, {}, {}, "sd14", "test"))
    with pytest.raises(GraphError, match=r"unet: conv_in\.bias: the checkpoint has no such weight"):
        broken.graph("unet", height=4, width=4)


def test_what_configs_say_reaches_the_nodes():
    """Values that no other test has: epsilons, the activation, and heads level by level."""
    text = TINY["text_encoder"] | {"layer_norm_eps": 1e-3, "hidden_act": "gelu"}
    unet = TINY["unet"] | {"attention_head_dim": [2, 3], "norm_eps": 1e-2}
    model = build(random_checkpoint_from_configs(**TINY | {"text_encoder": text, "unet": unet}, seed=1))
    nodes = list(tiny_graph(model, "text_encoder").graph)
    assert [node.attributes["epsilon"].value for node in nodes if node.op_type == "LayerNormalization"] == [
        pytest.approx(1e-3)
    ] * 3
    assert [node.op_type for node in nodes].count("Erf") == 1
    (mask,) = [
        v.const_value.numpy()
        for name, v in tiny_graph(model, "text_encoder").graph.initializers.items()
        if "causal_mask" in name
    ]
    np.testing.assert_array_equal(mask[0, 0] == 0, np.tri(7, dtype=bool), "a token sees itself and what is before it")
    assert np.isneginf(mask[mask != 0]).all()
    nodes = list(tiny_graph(model, "unet").graph)
    heads = {node.name.split(".attentions")[0]: node.outputs[0].shape[1] for node in nodes if node.op_type == "Softmax"}
    assert heads == {"down_blocks.0": 2, "mid_block": 3, "up_blocks.1": 2}
    norms = {node.name: node.attributes["epsilon"].value for node in nodes if node.op_type == "InstanceNormalization"}
    assert len(norms) > 9 and all(
        value == pytest.approx(1e-6 if ".attentions." in name else 1e-2) for name, value in norms.items()
    )


def test_an_odd_width_of_the_time_embedding_is_filled_with_a_zero():
    unet = TINY["unet"] | {"block_out_channels": [9, 12], "attention_head_dim": 3}
    graph = tiny_graph(build(random_checkpoint_from_configs(**TINY | {"unet": unet}, seed=1)), "unet").graph
    (joined,) = [node for node in graph if node.op_type == "Concat" and node.name.startswith("time_proj")]
    assert list(joined.outputs[0].shape) == [1, 9] and not joined.inputs[-1].const_value.numpy().any()
    assert [value.producer().op_type for value in joined.inputs[:-1]] == ["Cos", "Sin"]
