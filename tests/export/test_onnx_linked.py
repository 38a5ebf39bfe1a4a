"""Weights that stay in the checkpoint's own files: the same results, hardly a byte of our own, nothing in silence."""

import json
import shutil
import struct

import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoint_files import arrays_of, safetensors_header, tiny_checkpoint, write_folder, write_safetensors

from ondevice import cli
from ondevice.converters import build
from ondevice.converters.architectures.architecture import Stored
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.component import taken
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.safetensors_file import read_with_metadata
from ondevice.errors import UsageError
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export
from ondevice.graph.origin import file_origin_of, in_files
from ondevice.rewrite import rewrite

SIZES = [(10, 6)]
COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


def padded(path, dtype=None, by=8):
    """The file as the safetensors library writes it: numbers begin at a multiple of 8 bytes (or next to one)."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    arrays = {
        name: np.frombuffer(rest[slice(*row["data_offsets"])], "<f4").reshape(row["shape"]).astype(dtype or np.float32)
        for name, row in header.items()
    }
    text = json.dumps(safetensors_header(arrays)).encode()
    text += b" " * (-len(text) % 8 + by % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in arrays.values()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint in float32, and the same in float16."""
    found = {}
    for dtype in ("float32", "float16"):
        found[dtype] = tmp_path_factory.mktemp(dtype)
        write_folder(found[dtype], tiny_checkpoint())
        for path in found[dtype].rglob("*.safetensors"):
            padded(path, dtype)
    return found


def export_onnx(source, out, dtype="fp32", without=(), link=True, **how):
    options = Options(dtype, without=without, flags={"link-weights": True} if link else {})
    return export(open_checkpoint(str(source), family="sd14"), out, FORMATS["onnx"], options, sizes=SIZES, **how)


def results(folder):
    found, options = {}, onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for component in COMPONENTS:
        path = folder / component / "model.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        types = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int32)": np.int32}
        rng = np.random.default_rng(0)
        given = {p.name: rng.uniform(0, 2, p.shape).astype(types[p.type]) for p in session.get_inputs()}
        found[component] = session.run(None, given)
    return found


@pytest.mark.parametrize(
    "stored, dtype, without", [("float32", "fp32", ()), ("float16", "fp16", ()), ("float16", "fp32", ("all",))]
)
def test_linked_weights_are_the_same_weights(folders, tmp_path, caplog, stored, dtype, without):
    linked = export_onnx(folders[stored], tmp_path / "linked", dtype, without)
    copied = export_onnx(folders[stored], tmp_path / "copied", dtype, without, link=False)
    for found, expected in zip(results(linked).items(), results(copied).items(), strict=True):
        for mine, theirs in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for component in COMPONENTS:
        original = next(folders[stored].glob(f"{component.split('_')[0]}*/*.safetensors"))
        assert (linked / component / original.name).samefile(original)
        data = linked / component / "model.onnx.data"
        tables = 250_000 if component == "text_encoder" else 2000  # a causal mask, and which id ends a text
        assert not data.exists() or data.stat().st_size < tables
        assert f"{component}: 9" in caplog.text or f"{component}: 100.0 % of the bytes of its weights" in caplog.text
    if stored == "float32":  # ONNX's own reader wants files of one name: a copy of the folder has them
        shutil.copytree(linked, tmp_path / "alone")
        for component in COMPONENTS:
            onnx.checker.check_model(str(tmp_path / "alone" / component / "model.onnx"), full_check=True)


def test_a_file_is_linked_again_and_never_written_to(folders, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_nlink) for path in folders["float32"].rglob("*.safetensors")}
    export_onnx(folders["float32"], tmp_path / "g")
    export_onnx(folders["float32"], tmp_path / "g", force=True, link=False)
    assert {path: (path.read_bytes(), path.stat().st_nlink) for path in before} == before


def test_numbers_between_words_are_copied(tmp_path):
    """No reader needs to take a float32 that begins at an odd byte."""
    write_folder(tmp_path / "m", tiny_checkpoint())
    for path in (tmp_path / "m").rglob("*.safetensors"):
        padded(path, by=1)
    with pytest.raises(UsageError, match=r"--link-weights: text_encoder: none of its weights is in a \.safetensors"):
        export_onnx(tmp_path / "m", tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_another_disk_is_refused_and_nothing_copied(folders, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    said = r"--link-weights: .*model\.safetensors cannot have a hard link .*\(Invalid cross-device link\)\. Fix: choose"
    with pytest.raises(UsageError, match=said):
        export_onnx(folders["float32"], tmp_path / "g")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--link-weights: text_encoder: none of its weights is in a .safetensors file as the graph needs it"),
        (["--weights", "int8"], "--link-weights: the checkpoint has no int8 weights that a graph could refer to"),
    ],
)
def test_what_cannot_be_linked_is_an_error(tmp_path, capsys, flags, message):
    words = ["convert", "demo", "--format", "onnx", "--link-weights", "--random-weights", "0", "--size", "16x16"]
    assert cli.main([*words, "--out", str(tmp_path / "g"), *flags]) == UsageError.exit_code
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


OPS = {
    "Cast": lambda parts, to: parts[0].astype(to.numpy()),
    "Transpose": lambda parts, perm: parts[0].transpose(perm),
    "Reshape": lambda parts, shape: parts[0].reshape(shape),
    "Concat": lambda parts, axis: np.concatenate(parts, axis),
    "Mul": lambda parts, factor: parts[0] * np.float32(factor),
}


def values(origin):
    """What a graph makes of the bytes."""
    if not hasattr(origin, "op"):
        data = origin.path.read_bytes()[origin.offset : origin.offset + origin.length]
        return np.frombuffer(data, origin.dtype.numpy()).reshape(origin.shape)
    found = OPS[origin.op]([values(one) for one in origin.of], origin.value)
    assert found.shape == origin.shape and found.dtype == origin.dtype.numpy()
    return found


def test_every_step_from_a_file_to_a_weight_is_known(folders):
    """What the graph makes of the bytes is what the weight holds."""
    graph = build(open_checkpoint(str(folders["float16"]), family="sd14"), whole=True).graph("unet", height=3, width=5)
    rewrite(graph)
    known = 0
    for value in graph.graph.initializers.values():
        if (origin := file_origin_of(value.const_value)) is not None:
            np.testing.assert_array_equal(values(origin), value.const_value.numpy())
            known += len(list(in_files(origin)))
    assert known >= len(arrays_of(tiny_checkpoint(), "unet"))


@pytest.mark.parametrize("place", [Stored("w", 1, 3), Stored("w", transposed=True)])
def test_what_a_layout_cuts_or_turns_is_known_too(tmp_path, place):
    """As single files have a text encoder's weights; and a decoder's are held smaller than they are."""
    write_safetensors(tmp_path / "w.safetensors", {"w": np.arange(24, dtype=np.float32).reshape(6, 4)})
    stored, _ = read_with_metadata(tmp_path / "w.safetensors")
    weight = taken(stored["w"], place, "q")
    np.testing.assert_array_equal(values(file_origin_of(weight)), weight.numpy())
    scaled = GraphBuilder("g", {"q": weight}).weight("q", *weight.shape.numpy(), scale=0.25).const_value
    np.testing.assert_array_equal(values(file_origin_of(scaled)), weight.numpy() / 4)
