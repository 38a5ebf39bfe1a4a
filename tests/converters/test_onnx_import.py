"""A folder of ONNX files is a checkpoint: the same graphs as from its weights, lazily, at every size that it has."""

import collections

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from checkpoint_files import ROLES, tiny_checkpoint, write_folder
from onnx_files import SIZE, change, make_dynamic, write_onnx_folder

from ondevice.bundle.pipeline import Role
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import bundle_jobs
from ondevice.converters import build
from ondevice.converters.onnx_import import evaluate
from ondevice.converters.onnx_import.onnx_file import read_onnx
from ondevice.converters.read import safetensors_file as module
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.memory_budget import in_single_passes
from ondevice.errors import GraphError, UsageError
from ondevice.graph.verify import verify_graph
from ondevice.rewrite import rewrite


@pytest.fixture(scope="module")
def tiny():
    return tiny_checkpoint()


@pytest.fixture
def folder(tmp_path, tiny):
    return write_onnx_folder(tmp_path / "exported", tiny)


def histogram(model):
    return collections.Counter((node.domain, node.op_type) for node in model.graph)


def sizes_of(component, batch):
    return {"batch": batch} if component == "text_encoder" else SIZE | {"batch": batch}


def run(model, seed=0):
    rng, inputs = np.random.default_rng(seed), {}
    for value in model.graph.inputs:
        shape = [int(size) for size in value.shape]
        ids = value.dtype == ir.DataType.INT32
        inputs[value.name] = (
            rng.integers(0, 999, shape).astype(np.int32) if ids else rng.standard_normal(shape).astype(np.float32)
        )
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize("component", ROLES)
def test_the_same_graph_as_from_weights(folder, tiny, component):
    batch = 2 if component == "unet" else 1
    ours, theirs = (
        build(c, whole=True).graph(component, **sizes_of(component, batch))
        for c in (tiny, open_checkpoint(folder, family="sd14"))
    )
    verify_graph(theirs)
    assert [(v.name, v.dtype, v.shape) for v in theirs.graph.inputs] == [
        (v.name, v.dtype, v.shape) for v in ours.graph.inputs
    ]
    assert [(v.name, v.shape) for v in theirs.graph.outputs] == [(v.name, v.shape) for v in ours.graph.outputs]
    plain = histogram(ours)
    if component.startswith("vae"):  # the view of the pixels and the norm's split are one Reshape in an import
        plain["", "Reshape"] -= 1
    assert histogram(theirs) == plain
    expected = run(ours)
    assert np.abs(run(theirs) - expected).max() <= 1e-5 * np.abs(expected).max()
    for model in (ours, theirs):
        rewrite(model)
    assert histogram(theirs) == histogram(ours)
    assert np.abs(run(theirs) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("component", ROLES)
@pytest.mark.parametrize("without", [["group_norm", "group_norm_silu"], ["attention"], ["gelu", "geglu"]])
def test_rules_can_be_left_out(folder, component, without):
    model = build(open_checkpoint(folder, family="sd14")).graph(
        component, **sizes_of(component, 2 if component == "unet" else 1)
    )
    expected = run(model)
    rewrite(model, without=without)
    assert np.abs(run(model) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("height, width", [(8, 6), (4, 10)])
def test_a_dynamic_file_has_every_size(folder, tiny, height, width):
    for component in ROLES:
        change(folder / component / "model.onnx", make_dynamic)
    # Our own graphs are static inside, too, so only what sizes reach through the inputs can change: the text
    # encoder's batch stays.
    found = build(open_checkpoint(folder, family="sd14"))
    assert found.lacks("unet", batch=1, height=height, width=width) is None
    if (height, width) == (8, 6):
        rewrite(model := found.graph("unet", batch=2, height=8, width=6))
        assert histogram(model) == histogram(fused(tiny))
    else:
        with pytest.raises(
            GraphError,
            match=r"unet/model.onnx: node .* do not fit .* Fix: choose a --size that the file was exported for",
        ):
            found.graph("unet", batch=1, height=height, width=width)


def fused(checkpoint):
    model = build(checkpoint, whole=True).graph("unet", batch=2, **SIZE)
    rewrite(model)
    return model


def test_weights_are_read_when_they_are_asked_for(folder, monkeypatch):
    def refuse(self, offset, length):
        raise AssertionError(f"{length} bytes were read")

    checkpoint = open_checkpoint(folder, family="sd14")
    monkeypatch.setattr(evaluate, "SMALL", 64)  # a small model's weights are large then
    monkeypatch.setattr(module.FileSlice, "read", refuse)
    model = build(checkpoint, whole=True).graph("unet", batch=2, **SIZE)
    rewrite(model)
    big = [v.const_value for v in model.graph.initializers.values() if v.const_value.size > 1024]
    assert big
    with pytest.raises(AssertionError, match="bytes were read"):
        big[0].numpy()


def test_weights_inside_the_file_are_lazy_too(folder):
    path = folder / "unet" / "model.onnx"
    expected = run(build(open_checkpoint(folder, family="sd14")).graph("unet", batch=2, **SIZE))
    whole = onnx.load(path)
    (folder / "unet" / "model.onnx.data").unlink()
    path.write_bytes(whole.SerializeToString())
    found = read_onnx(path)
    assert len(found.graph) < 0.7 * path.stat().st_size and b"raw" not in repr(found).encode()
    np.testing.assert_array_equal(
        run(build(open_checkpoint(folder, family="sd14")).graph("unet", batch=2, **SIZE)), expected
    )


def test_one_weight_has_one_name_whatever_the_size(folder):
    """A bundle stores a weight once for all its plans, by name."""
    for component in ("vae_decoder", "vae_encoder"):
        change(folder / component / "model.onnx", make_dynamic)
    model = build(open_checkpoint(folder, family="sd14"))
    first, second = (model.graph("vae_decoder", batch=batch, **SIZE).graph.initializers for batch in (1, 1))
    assert list(first) == list(second) and len(first) > 20
    for name in first:
        np.testing.assert_array_equal(first[name].const_value.numpy(), second[name].const_value.numpy())


def test_float16_files_become_float32(folder, tiny):
    def halve(proto):
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
                )
        for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    path = folder / "vae_decoder" / "model.onnx"
    whole = onnx.load(path)
    halve(whole)
    path.write_bytes(whole.SerializeToString())
    model = build(open_checkpoint(folder, family="sd14")).graph("vae_decoder", batch=1, **SIZE)
    assert all(
        value.dtype != ir.DataType.FLOAT16
        for node in model.graph
        for value in (*node.inputs, *node.outputs)
        if value is not None
    )
    expected = run(build(tiny, whole=True).graph("vae_decoder", batch=1, **SIZE))
    assert np.abs(run(model) - expected).max() <= 2e-2 * np.abs(expected).max()


TIMESTEPS = {
    "scalar": ((), onnx.TensorProto.INT64),
    "one": ((1,), onnx.TensorProto.INT64),
    "one per picture": ((2,), onnx.TensorProto.FLOAT),
}


@pytest.mark.parametrize("shape, kind", TIMESTEPS.values(), ids=TIMESTEPS)
def test_timesteps_of_every_kind(folder, tiny, shape, kind):
    def retype(proto):
        given = next(value for value in proto.graph.input if value.name == "timestep")
        given.type.tensor_type.elem_type = kind
        del given.type.tensor_type.shape.dim[:]
        for size in shape:
            given.type.tensor_type.shape.dim.add(dim_value=size)
        first = next(i for i, node in enumerate(proto.graph.node) if "timestep" in node.input)
        whole = onnx.helper.make_node("Cast", ["timestep"], ["whole"], to=onnx.TensorProto.INT64)
        nodes = [whole, onnx.helper.make_node("Cast", ["whole"], ["time"], to=onnx.TensorProto.FLOAT)]
        if shape != (1,):
            axes = onnx.numpy_helper.from_array(np.array([1] if shape == () else [2], np.int64), "sides")
            proto.graph.initializer.append(axes)
            nodes.append(onnx.helper.make_node("Reshape", ["time", "sides"], ["times"]))
        for node in proto.graph.node:
            for i, name in enumerate(node.input):
                if name == "timestep":
                    node.input[i] = nodes[-1].output[0]
        for node in reversed(nodes):
            proto.graph.node.insert(first, node)
        del proto.graph.value_info[:]

    expected = run(build(tiny, whole=True).graph("unet", batch=2, **SIZE))
    change(folder / "unet" / "model.onnx", retype)
    model = build(open_checkpoint(folder, family="sd14")).graph("unet", batch=2, **SIZE)
    assert [(v.name, v.dtype, list(v.shape)) for v in model.graph.inputs][1] == ("timestep", ir.DataType.FLOAT, [1])
    assert "Cast" not in {node.op_type for node in model.graph}
    assert np.abs(run(model) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_other_names_and_further_outputs(folder, tiny):
    def rename(proto):
        other = {"input_ids": "tokens", "last_hidden_state": "hidden"}
        for value in (*proto.graph.input, *proto.graph.output):
            value.name = other[value.name]
        for node in proto.graph.node:
            node.input[:] = [other.get(name, name) for name in node.input]
            node.output[:] = [other.get(name, name) for name in node.output]
        proto.graph.node.append(onnx.helper.make_node("ReduceMax", ["hidden"], ["pooled"]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, None))

    expected = run(build(tiny, whole=True).graph("text_encoder"))
    change(folder / "text_encoder" / "model.onnx", rename)
    model = build(open_checkpoint(folder, family="sd14")).graph("text_encoder")
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["input_ids", "last_hidden_state"]
    assert np.abs(run(model) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_weights_go_before_graphs(folder, tiny):
    write_folder(folder, tiny)
    assert not open_checkpoint(folder, family="sd14").graphs


def test_what_a_folder_lacks_is_the_familys(folder, caplog):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    (folder / "scheduler").rmdir()
    (folder / "unet" / "config.json").unlink()
    for name in ("text_encoder", "vae_decoder", "vae_encoder"):
        (folder / name / "config.json").unlink()
    with pytest.raises(GraphError, match=r"its output is \[1, 77, 20\] \(expected last_hidden_state \[1, 77, 768\]\)"):
        build(open_checkpoint(folder, family="sd14")).graph("text_encoder")
    asked = (
        "there is no text_encoder/config.json, unet/config.json, vae_decoder/config.json, "
        "scheduler/, so sd14's own are used"
    )
    assert asked in caplog.text


# Bundles --------------------------------------------------------------------------------------------------------------


def test_plans_are_made_of_the_batches_there_are(tmp_path, folder, caplog):
    checkpoint = open_checkpoint(folder, family="sd14")
    jobs = bundle_jobs(build(checkpoint), [(12, 16)], 0, [])
    assert [(job.component, job.sizes["batch"]) for job in jobs] == [
        ("text_encoder", 1), ("unet", 2), ("vae_decoder", 1), ("vae_encoder", 1),
    ]  # fmt: skip
    assert (
        "unet: its input sample is fixed to [2, 4, 8, 6] (12x16 pixels), and [1, 4, 8, 6] is asked for; left out"
        in caplog.text
    )
    bundle = open_bundle(compile_bundle(checkpoint, tmp_path / "m.ondevice", Recipe(), sizes=[(12, 16)]))
    assert [entry.sizes["batch"] for entry in bundle.plans if entry.component == "unet"] == [2]
    assert not in_single_passes(bundle, True, 6, 8)
    with pytest.raises(
        UsageError, match=r"--guidance: a picture without guidance needs the unet at batch 1, and .* batch 2 only"
    ):
        in_single_passes(bundle, False, 6, 8)


def test_guidance_takes_two_passes_where_there_is_only_batch_1(tmp_path, tiny, caplog):
    folder = write_onnx_folder(tmp_path / "one", tiny, ROLES[:3], batch=1)
    bundle = open_bundle(
        compile_bundle(open_checkpoint(folder, family="sd14"), tmp_path / "m.ondevice", Recipe(), sizes=[(12, 16)])
    )
    assert (
        "there is no vae_encoder/model.onnx" in caplog.text and "guidance in two passes, which is slower" in caplog.text
    )
    assert {entry.component for entry in bundle.plans} == {"text_encoder", "unet", "vae_decoder"}
    assert in_single_passes(bundle, True, 6, 8) and not in_single_passes(bundle, False, 6, 8)
    spec = bundle.pipeline
    assert spec.latents.begin is None and [step for step in spec.before if isinstance(step, Role)] == [spec.before[0]]


def test_a_size_that_the_file_has_not(tmp_path, folder):
    with pytest.raises(GraphError) as caught:
        compile_bundle(open_checkpoint(folder, family="sd14"), tmp_path / "m.ondevice", Recipe(), sizes=[(16, 16)])
    assert str(caught.value) == (
        f"{folder}: unet: its input sample is fixed to [2, 4, 8, 6] (12x16 pixels), and [1, 4, 8, 8] is asked for."
        " Fix: choose the --size that it is fixed to, or export it again with dynamic axes."
    )
    assert not (tmp_path / "m.ondevice").exists()


@pytest.mark.parametrize("word", ["n" * 5000, "\x1b[2J\n\0", "\u202e"], ids=["long", "control", "turned"])
def test_names_that_no_message_or_bundle_can_hold_are_replaced(folder, tiny, word):
    def rename(proto):
        ports, names = {value.name for value in (*proto.graph.input, *proto.graph.output)}, {}
        for i, node in enumerate(proto.graph.node):
            node.name = f"{word}{i}"
            for side in (node.input, node.output):
                side[:] = [
                    name if not name or name in ports else names.setdefault(name, f"{word}{len(names)}")
                    for name in side
                ]
        for value in (*proto.graph.initializer, *proto.graph.value_info):
            value.name = names.get(value.name, value.name)

    change(folder / "unet" / "model.onnx", rename)
    ours, theirs = (
        build(c, whole=True).graph("unet", **sizes_of("unet", 2))
        for c in (tiny, open_checkpoint(folder, family="sd14"))
    )
    verify_graph(theirs)
    assert histogram(ours) == histogram(theirs)
    names = {
        str(name) for node in theirs.graph for name in (node.name, *(value.name for value in node.inputs if value))
    }
    assert all(name.isprintable() and len(name) < 256 for name in names)
    np.testing.assert_array_equal(run(theirs), run(ours))
