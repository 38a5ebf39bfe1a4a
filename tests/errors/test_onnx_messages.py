"""The text of every error that a folder of ONNX files can cause, and that nothing damaged ends in a traceback."""

import random
import shutil

import onnx
import pytest
from checkpoint_files import tiny_checkpoint, write_json
from onnx_files import SIZE, TINY_UNET, change, write_onnx_folder

from ondevice.converters import build
from ondevice.converters.onnx_import import onnx_file
from ondevice.converters.onnx_import.onnx_file import read_onnx
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import CheckpointError, GraphError, OnDeviceError, UsageError

AGAIN = "Fix: export the model again, or download the file again."


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_onnx_folder(tmp_path_factory.mktemp("onnx") / "exported", tiny_checkpoint())


@pytest.fixture
def folder(tmp_path, original):
    return shutil.copytree(original, tmp_path / "exported")


def opened(folder, error=CheckpointError, **options):
    with pytest.raises(error) as caught:
        open_checkpoint(folder, family="sd14", **options)
    return str(caught.value)


def built(folder, error=GraphError):
    with pytest.raises(error) as caught:
        build(open_checkpoint(folder, family="sd14")).graph("unet", batch=2, **SIZE)
    return str(caught.value)


def external(proto, **changes):
    """The first tensor that lies outside the file, with entries of its place changed; returns its name."""
    tensor = next(t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL)
    for entry in tensor.external_data:
        entry.value = str(changes.get(entry.key, entry.value))
    return tensor.name


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../b", "..\\b", "c:x", "", "a\\b", "a\0b"])
def test_weights_outside_the_folder(folder, location):
    (folder / "secret").write_bytes(b"x" * 100)
    path, names = folder / "unet" / "model.onnx", []
    change(path, lambda proto: names.append(external(proto, location=location)))
    assert (
        opened(folder) == f"{path}: the tensor {names[0]} is said to lie outside the folder (in {location!r}). {AGAIN}"
    )


def test_weights_in_a_file_that_no_system_can_name(folder):
    path = folder / "unet" / "model.onnx"
    change(path, lambda proto: external(proto, location="n" * 5000))
    assert (
        opened(folder)
        == f"{path}: the file {'n' * 120} with the weights is missing. Fix: keep both files in one folder."
    )


def test_a_link_out_of_the_folder(folder):
    path = folder / "unet" / "model.onnx"
    (folder / "elsewhere").mkdir()
    (folder / "unet" / "model.onnx.data").rename(folder / "elsewhere" / "data")
    (folder / "unet" / "model.onnx.data").symlink_to(folder / "elsewhere" / "data")
    assert "is said to lie outside the folder (in 'model.onnx.data', a link)" in opened(folder)
    path.rename(folder / "elsewhere" / "graph")  # a hub's cache: the model is a link into the same place
    path.symlink_to(folder / "elsewhere" / "graph")
    assert open_checkpoint(folder, family="sd14").graphs


def test_places_that_the_file_has_not(folder):
    path = folder / "unet" / "model.onnx"
    size, names = (folder / "unet" / "model.onnx.data").stat().st_size, []
    change(path, lambda proto: names.append(external(proto, offset=size)))
    assert f"unet/model.onnx: the tensor {names[0]} lies outside its file (got bytes {size:,} to " in opened(folder)
    change(path, lambda proto: external(proto, offset=-8))
    assert "unet/model.onnx: its graph cannot be read (" in opened(folder)
    change(path, lambda proto: external(proto, offset=0, length=4))
    assert f"the tensor {names[0]} has 4 bytes where FLOAT[" in opened(folder)
    change(path, lambda proto: external(proto, length="many"))
    assert "unet/model.onnx: its graph cannot be read (" in opened(folder)
    (folder / "unet" / "model.onnx.data").unlink()
    change(path, lambda proto: external(proto, offset=0, length=0))
    assert "the file model.onnx.data with the weights is missing. Fix: keep both files in one folder." in opened(folder)


@pytest.mark.parametrize(
    ("kind", "dims", "words"),
    [
        ("COMPLEX64", [1], "holds COMPLEX64 (expected floats or integers)"),
        ("STRING", [1], "holds STRING (expected floats or integers)"),
        ("FLOAT", [-1], "has the shape [-1]"),
        ("FLOAT", [1 << 24, 1 << 24], "has the shape [16777216, 16777216]"),
    ],
)
def test_tensors_beside_the_file_that_hold_something_else(folder, kind, dims, words):
    path = folder / "unet" / "model.onnx"
    tensor = onnx.TensorProto(name="made", data_type=onnx.TensorProto.DataType.Value(kind), dims=dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx.data")
    change(path, lambda proto: proto.graph.initializer.append(tensor))
    assert opened(folder) == f"{path}: the tensor made {words}. {AGAIN}"


def test_tensors_inside_that_hold_something_else(folder):
    """No data at all is what onnx_ir takes for zeros."""
    path = folder / "unet" / "model.onnx"
    whole = path.read_bytes()
    for kind, dims, data, words in (
        (1, [2, 3], {}, "does not hold what its shape [2,3] says"),
        (1, [1 << 20, 1 << 20], {}, "does not hold what its shape [1048576,1048576] says"),
        (1, [-1], {"float_data": [1.0]}, "does not hold what its shape [-1] says"),
        (7, [1], {"double_data": [1.0]}, "does not hold what its shape [1] says"),
    ):
        tensor = onnx.TensorProto(name="made", data_type=kind, dims=dims, **data)
        change(path, lambda proto, tensor=tensor: proto.graph.initializer.append(tensor))
        assert opened(folder) == f"{path}: the tensor made {words}. {AGAIN}"
        path.write_bytes(whole)
        change(path, add_node("Constant", value=tensor))
        assert opened(folder) == f"{path}: the tensor added.value {words}. {AGAIN}"
        path.write_bytes(whole)
    for kind, data in (("COMPLEX64", {"float_data": [1.0, 0.0]}), ("STRING", {"string_data": [b"x"]})):
        tensor = onnx.TensorProto(name="made", data_type=onnx.TensorProto.DataType.Value(kind), dims=[1], **data)
        change(path, lambda proto, tensor=tensor: proto.graph.initializer.append(tensor))
        assert opened(folder) == f"{path}: the tensor made holds {kind} (expected floats or integers). {AGAIN}"
        path.write_bytes(whole)
    tensor = onnx.TensorProto(name="made", data_type=29, dims=[1], float_data=[1.0])  # 29 is no type
    change(path, add_node("Constant", value=tensor))
    assert opened(folder) == f"{path}: the tensor added.value holds nothing (expected floats or integers). {AGAIN}"
    path.write_bytes(whole)
    tensor = onnx.TensorProto(name="made", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    change(path, add_node("Constant", value=tensor))
    assert opened(folder) == f"{path}: the tensor added.value does not hold what its shape [1] says. {AGAIN}"


def test_files_that_are_no_graph(folder, monkeypatch):
    path = folder / "unet" / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(b"PK\x03\x04" + b"\xff" * 64)
    assert opened(folder).startswith(f"{path}: it is damaged, or no ONNX file (")
    path.write_bytes(whole[: len(whole) // 2])
    assert opened(folder).startswith(f"{path}: it is damaged, or no ONNX file (the field at byte ")
    for data, words in (
        (b"\x02\x00", "byte 0 begins no field"),  # its number is 0
        (b"\x0b\x00", "byte 0 begins no field"),  # the beginning of a group, which has no length
        (b"\x08\x01\x0a\x05....", "the field at byte 2 ends after its message"),
        (b"\x08" + b"\x80" * 12, "the number at byte 1 has no end"),
    ):
        path.write_bytes(data)
        assert opened(folder) == f"{path}: it is damaged, or no ONNX file ({words}). {AGAIN}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "this is a git-lfs pointer, not the file itself." in opened(folder)
    path.write_bytes(b"")
    assert "it is of opset 0 (expected 13 to 25)" in opened(folder, GraphError)
    path.write_bytes(whole)
    monkeypatch.setattr(onnx_file, "GRAPH_LIMIT", 1 << 14)
    with pytest.raises(CheckpointError, match="it holds more than 0 MB beside its weights"):
        read_onnx(path)


def test_no_damage_ends_in_a_traceback(folder):
    """Any byte may be wrong: an error of ours, or a graph that passes every check, and nothing else."""
    path = folder / "vae_decoder" / "model.onnx"
    whole, numbers = path.read_bytes(), random.Random(0)
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(numbers.randint(1, 8)):
            broken[numbers.randrange(len(broken))] = numbers.randrange(256)
        path.write_bytes(bytes(broken[: numbers.choice([len(broken), numbers.randrange(len(broken))])]))
        try:
            build(open_checkpoint(folder, family="sd14")).graph("vae_decoder", batch=1, **SIZE)
        except OnDeviceError as error:
            assert str(error)


def test_graphs_of_another_kind(folder):
    path = folder / "unet" / "model.onnx"

    def relabel(version):
        return lambda proto: setattr(proto.opset_import[0], "version", version)

    change(path, relabel(11))
    assert opened(folder, GraphError) == (
        f"{path}: it is of opset 11 (expected 13 to 25). Fix: "
        "export the model again with torch.onnx at one of the opsets 17 to 25."
    )
    change(path, relabel(18))
    change(path, lambda proto: proto.graph.input.pop())
    assert f"{path}: it takes sample, timestep (expected sample, timestep, encoder_hidden_states)." in opened(
        folder, GraphError
    )
    change(
        path,
        lambda proto: proto.graph.input.append(onnx.helper.make_tensor_value_info("encoder_hidden_states", 1, [1, 2])),
    )
    assert "its input encoder_hidden_states is [1, 2] (expected [1, 77, 20])" in opened(folder, GraphError)


def add_node(op, **attributes):
    """An edit that puts a node before the graph's output."""

    def edit(proto):
        last = proto.graph.node[-1]
        last.output[0] = "before"
        proto.graph.node.append(onnx.helper.make_node(op, ["before"], ["out_sample"], name="added", **attributes))

    return edit


def test_an_op_that_is_not_supported(folder):
    change(folder / "unet" / "model.onnx", add_node("Elu"))
    text = built(folder)
    assert text.startswith(
        f"{folder}/unet/model.onnx: node added (Elu): op ai.onnx::Elu is not supported (expected one of Add, "
    )
    assert text.endswith(
        "Fix: use a Stable Diffusion 1.x model, exported without quantization, control flow or ops of its own."
    )


def test_an_op_of_another_domain_and_one_with_a_graph(folder):
    path = folder / "unet" / "model.onnx"
    whole = path.read_bytes()
    change(path, add_node("QLinearRelu", domain="com.microsoft"))
    assert "node added (QLinearRelu): op com.microsoft::QLinearRelu is not ONNX's own." in built(folder)
    path.write_bytes(whole)
    inner = onnx.helper.make_graph([], "inner", [], [onnx.helper.make_tensor_value_info("before", 1, None)])
    change(path, add_node("If", then_branch=inner, else_branch=inner))
    assert "node added (If): it holds a graph of its own. Fix: export the model without control flow." in built(folder)


def test_what_a_folder_must_have(folder):
    (folder / "vae_decoder" / "model.onnx").unlink()
    assert opened(folder) == (
        f"{folder}: vae_decoder/model.onnx is missing."
        " Fix: give a folder of text_encoder/, unet/ and vae_decoder/ with a model.onnx in each."
    )
    assert opened(folder, UsageError, variant="fp16") == (
        f"{folder}: variant goes only with a folder of weights or a hub id. Fix: leave variant out."
    )


def test_components_that_do_not_fit(folder):
    write_json(folder / "unet" / "config.json", TINY_UNET | {"cross_attention_dim": 24})
    assert "the unet's cross_attention_dim is not the text_encoder's hidden_size (got 24, expected 20)" in opened(
        folder
    )
    write_json(folder / "unet" / "config.json", TINY_UNET)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    write_json(
        folder / "vae_decoder" / "config.json", {"block_out_channels": [8, 12, 12], "norm_num_groups": 4, **blocks}
    )
    with pytest.raises(GraphError, match=r"its output is \[1, 3, 16, 12\] \(expected sample \[1, 3, 32, 24\]\)"):
        build(open_checkpoint(folder, family="sd14")).graph("vae_decoder", batch=1, **SIZE)


def test_a_component_that_is_not_there(folder):
    (folder / "vae_encoder" / "model.onnx").unlink()
    model = build(open_checkpoint(folder, family="sd14"))
    with pytest.raises(GraphError, match=r"there is no vae_encoder/model.onnx\. Fix: export that component, too"):
        model.graph("vae_encoder", batch=1, **SIZE)
    with pytest.raises(
        GraphError, match=r"unet/model.onnx: its input sample is fixed to \[2, 4, 8, 6\] \(12x16 pixels\)"
    ):
        model.graph("unet", batch=2, height=9, width=6)


@pytest.mark.parametrize("word", ["timestep", "before", "added", "Oddity", "some.domain"])
def test_names_that_are_no_text(folder, word):
    """Of an input, a value, a node, an op, a domain: protobuf gives bytes where they are not UTF-8."""
    path = folder / "unet" / "model.onnx"
    change(path, add_node("Oddity", domain="some.domain"))
    path.write_bytes(path.read_bytes().replace(word.encode(), word[:-1].encode() + b"\xff"))
    assert opened(folder) == f"{path}: a name in it is not UTF-8. {AGAIN}"


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(onnx_file, "open", refuse, raising=False)
    assert opened(folder).endswith("model.onnx: cannot read the file (Permission denied). Fix: check its permissions.")
