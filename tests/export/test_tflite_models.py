"""Whole components as TFLite files, run by LiteRT, against the reference in float64."""

import family_files
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from export.tflite_files import by_litert, codes, error, read_tflite
from rewrite.graphs import feed
from tiny_model import TINY

from ondevice.compiler.jobs import largest_jobs
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.export.manifest import read_manifest
from ondevice.export.options import FORMATS, Options
from ondevice.export.tflite import writer
from ondevice.export.writing import export
from ondevice.graph.reference import run

FORMAT, SIZE = FORMATS["tflite"], (10, 6)
FAMILIES = ("sdxl", "lcm", "sdxl-instruct-pix2pix")
CONFIGS = {"sd14": TINY, **{name: family_files.TINY[name] for name in FAMILIES}}
FP32 = Options(dtype="fp32")


def graphs(family, without=()):
    """Each component's fused graph with its job; one size, the largest batch."""
    model = build(random_checkpoint_from_configs(**CONFIGS[family], seed=1, family=family), published=True)
    yield from fused_graphs(model, Recipe(without=without), largest_jobs(model, SIZE))


def checked(fused, folder, options=FP32, kernels="xnnpack"):
    """The component's file, once its results are those of the reference."""
    entry = writer.write(fused.graph, fused.job, folder, options)
    inputs = feed(fused.graph)
    got, want = by_litert(folder / entry.files[0], inputs, kernels), run(fused.graph, inputs)
    assert got.keys() == entry.outputs.keys() == want.keys()
    assert max(error(got[name], want[name]) for name in want) < 1e-5, fused.job
    return entry, read_tflite(folder / entry.files[0])


def turns(content):
    """The orders into which the file turns axes."""
    (graph,) = content.subgraphs
    code = schema.BuiltinOperator.TRANSPOSE
    found = [op.inputs[1] for op in graph.operators if content.operatorCodes[op.opcodeIndex].builtinCode == code]
    return {tuple(content.buffers[graph.tensors[order].buffer].data.view(np.int32).tolist()) for order in found}


def joins(graph):
    """What is put side by side: values, or a node that does it."""
    for node in graph:
        if node.op_type.startswith("Concat") and node.domain:
            yield node.inputs[0], node.inputs[1]
        elif node.op_type in ("Concat", "CosSin", "SinCos"):
            yield node


@pytest.mark.parametrize("family", CONFIGS)
def test_every_component_computes_what_our_graph_means(family, tmp_path):
    for fused in graphs(family):
        entry, content = checked(fused, tmp_path)
        (graph,) = content.subgraphs
        assert not {"CUSTOM", "BROADCAST_TO", "STABLEHLO_COMPOSITE"} & {*codes(content)}
        assert max(len(tensor.shape) for tensor in graph.tensors) <= 4
        for name, port in (entry.inputs | entry.outputs).items():
            shape = entry.shapes[name]
            assert port.shape == (tuple(shape[axis] for axis in port.axes) if port.axes else shape)
            assert port.axes == ((0, 2, 3, 1) if len(shape) == 4 else ())
        if fused.job.component != "join":  # which joins channels where they stand
            assert turns(content) <= {(0, 2, 1, 3)}, "heads alone are turned"
        # what a norm and its shortcut read side by side is made once
        assert codes(content).count("CONCATENATION") == len({*joins(fused.graph.graph)})
        # values have their names, so that the first that deviates can be told; only what turns ports has none
        names = {tensor.name.decode() for tensor in graph.tensors}
        unnamed = {node.op_type for node in fused.graph.graph for value in node.outputs if value.name not in names}
        assert unnamed <= {"Transpose", "Reshape", "Unsqueeze"}, unnamed


def test_graphs_without_fusions_can_be_written(tmp_path):
    for fused in graphs("sd14", ["all"]):
        checked(fused, tmp_path, kernels="builtin")


def test_a_folder_says_what_draws_with_it(tmp_path):
    checkpoint = random_checkpoint_from_configs(**TINY, seed=1)
    folder = export(checkpoint, tmp_path / "g", FORMAT, FP32, sizes=[SIZE])
    found = read_manifest(folder, tuple(FORMATS))
    assert {entry.files[0] for entry in found.entries} == {
        f"{name}/model.tflite" for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    }
    unet = next(entry for entry in found.entries if entry.component == "unet")
    assert unet.inputs["sample"].shape == (2, 3, 5, 4) and unet.inputs["sample"].axes == (0, 2, 3, 1)
    assert unet.shapes["sample"] == (2, 4, 3, 5) and unet.sizes == {"batch": 2, "height": 3, "width": 5}
