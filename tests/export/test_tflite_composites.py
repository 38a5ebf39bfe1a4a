"""Group norms and attention as composites: what delegates read of them, and the same numbers where nobody does."""

from collections import Counter

import litert_runs
import numpy as np
import pytest
from export.tflite_files import CODES, by_litert, codes, error, read_tflite
from flatbuffers import flexbuffers
from rewrite.graphs import feed
from tiny_model import TINY

from ondevice.compiler.jobs import largest_jobs
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.export.options import Options
from ondevice.export.tflite import writer
from ondevice.export.tflite.words import LAST
from ondevice.graph.epilogue import read

NORM, ATTENTION = "odml.group_norm", "odml.scaled_dot_product_attention"
KINDS = {
    "GroupNormNhwc": NORM,
    "ConcatGroupNormNhwc": NORM,
    "Attention": ATTENTION,
    "MaskedAttention": ATTENTION,
}


@pytest.fixture(scope="module")
def graphs():
    model = build(random_checkpoint_from_configs(**TINY, seed=1), published=True)
    return {fused.job.component: fused for fused in fused_graphs(model, Recipe(), largest_jobs(model, (10, 6)))}


def written(fused, folder, **flags):
    folder.mkdir()
    entry = writer.write(fused.graph, fused.job, folder, Options("fp32", flags=flags))
    return folder / entry.files[0]


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_the_same_numbers(tmp_path, graphs, component):
    fused = graphs[component]
    plain, whole = written(fused, tmp_path / "plain"), written(fused, tmp_path / "whole", composites=True)
    inputs = feed(fused.graph)
    # XNNPACK has an attention of its own, which it takes where it knows the composite
    for kernels, bound in (("builtin", 0), ("xnnpack", 2e-6)):
        expected, got = by_litert(plain, inputs, kernels), by_litert(whole, inputs, kernels)
        for name, array in expected.items():
            assert error(got[name], array) <= bound, (name, kernels)
    content, ops = read_tflite(whole), [node.op_type for node in fused.graph.graph if node.domain]
    bases = [stepped.base if (stepped := read(op)) else op for op in ops]
    kinds = Counter(KINDS[base] for base in bases if base in KINDS)
    assert Counter(composite.name.decode() for composite, _ in composites(content)) == kinds
    before, after = codes(read_tflite(plain)).count("SOFTMAX"), codes(content).count("SOFTMAX")
    assert before - after == kinds[ATTENTION] and whole.stat().st_size < 1.2 * plain.stat().st_size


def composites(content):
    """(options, op) of each composite of the main graph."""
    ops = content.subgraphs[0].operators
    return [
        (op.builtinOptions2, op)
        for op in ops
        if CODES[content.operatorCodes[op.opcodeIndex].builtinCode] == "STABLEHLO_COMPOSITE"
    ]


def test_delegates_find_operands_and_attributes(tmp_path, graphs):
    content = read_tflite(written(graphs["unet"], tmp_path / "whole", composites=True))
    main, *parts = content.subgraphs
    assert len(parts) < len(composites(content)), "those of one shape share a subgraph"
    for composite, op in composites(content):
        given = [main.tensors[number] for number in op.inputs]
        (result,) = (main.tensors[number] for number in op.outputs)
        part = content.subgraphs[composite.decompositionSubgraphIndex]
        assert part.name == composite.name + b".impl" and composite.version == 1
        for numbers, outside in ((part.inputs, given), (part.outputs, [result])):
            assert [list(part.tensors[number].shape) for number in numbers] == [list(one.shape) for one in outside]
        attributes = flexbuffers.Loads(bytes(composite.compositeAttributes))
        if composite.name == ATTENTION.encode():
            heads, width = given[0].shape[2:]
            assert attributes == {"scale": pytest.approx(width**-0.5, rel=1e-6)}
            assert np.float32(attributes["scale"]) == attributes["scale"], "in 4 bytes, as XNNPACK reads it"
            assert [tensor.shape[2:].tolist() for tensor in (*given, result)] == [[heads, width]] * 4
        else:
            axes = {"TENSOR_DATA": [3], "TENSOR_SHAPE": [1], "TENSOR_TYPE": 4}
            assert attributes.pop("epsilon") in (np.float32(1e-5), np.float32(1e-6))
            assert attributes == {"num_groups": 3, "channel_axis": 3, "_TENSOR_V1_reduction_axes": axes}
            assert len(given[0].shape) == 4 and all(content.buffers[one.buffer].size for one in given[1:])


def test_the_compiled_model_runs_them(tmp_path, graphs):
    fused = graphs["vae_decoder"]
    path, inputs = written(fused, tmp_path / "whole", composites=True), feed(fused.graph)
    (expected,) = by_litert(path, inputs).values()
    turned = {name: np.ascontiguousarray(array.transpose(LAST)) for name, array in inputs.items()}
    n, c, h, w = expected.shape
    got = litert_runs.compiled(path, (n, h, w, c), **turned)
    assert np.abs(got.transpose(0, 3, 1, 2) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_only_builtin_ops_are_in_the_subgraphs(tmp_path, graphs):
    content = read_tflite(written(graphs["unet"], tmp_path / "whole", composites=True))
    inside = {
        CODES[content.operatorCodes[op.opcodeIndex].builtinCode]
        for part in content.subgraphs[1:]
        for op in part.operators
    }
    assert inside and not inside & {"STABLEHLO_COMPOSITE", "CUSTOM", "BROADCAST_TO"}
