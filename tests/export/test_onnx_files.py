"""A folder of ONNX graphs: fused or plain, whole or not at all, and only over its own."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_model import TINY

from ondevice import cli
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import GraphError, UsageError
from ondevice.export.manifest import read_manifest
from ondevice.export.onnx import writer
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export
from ondevice.graph.ops import DOMAIN
from ondevice.rewrite import FUSIONS

SIZES = [(10, 6)]


def export_onnx(checkpoint, out, *, without=(), **how):
    return export(checkpoint, out, FORMATS["onnx"], Options(without=without), **how)


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint_from_configs(**TINY, seed=1)


def domains(path):
    return collections.Counter(node.domain for node in onnx.load(path, load_external_data=False).graph.node)


def test_fused_graphs_mean_what_the_plain_ones_do(checkpoint, tmp_path):
    fused = export_onnx(checkpoint, tmp_path / "fused", sizes=SIZES)
    plain = export_onnx(checkpoint, tmp_path / "plain", sizes=SIZES, without=["all"])
    inputs = {"latent_sample": np.random.default_rng(0).standard_normal((1, 4, 3, 5), dtype=np.float32)}
    results = []
    for folder in (fused, plain):
        path = folder / "vae_decoder" / "model.onnx"
        onnx.checker.check_model(str(path))
        results += onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)
    assert np.abs(results[0] - results[1]).max() <= 1e-5 * np.abs(results[1]).max()
    for component in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
        assert (
            domains(fused / component / "model.onnx")[DOMAIN] and not domains(plain / component / "model.onnx")[DOMAIN]
        )
    kept = onnx.load(plain / "unet" / "model.onnx", load_external_data=False)
    assert not kept.functions


def test_every_family_can_be_left_out_alone(checkpoint, tmp_path):
    whole = domains(export_onnx(checkpoint, tmp_path / "all", sizes=SIZES) / "unet" / "model.onnx")[DOMAIN]
    counts = [
        domains(export_onnx(checkpoint, tmp_path / f, sizes=SIZES, without=[f]) / "unet" / "model.onnx")[DOMAIN]
        for f in FUSIONS[:2]
    ]
    assert min(counts) < whole


@pytest.mark.parametrize("failing", [1, 3])
def test_all_of_it_or_nothing(checkpoint, tmp_path, monkeypatch, failing):
    export_onnx(checkpoint, tmp_path / "g", sizes=SIZES)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    real, calls = writer.save_onnx, []

    def counted(graph, path, *linked):
        calls.append(path)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return real(graph, path, *linked)

    monkeypatch.setattr(writer, "save_onnx", counted)
    for name in ("g", "h"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            export_onnx(checkpoint, tmp_path / name, sizes=SIZES, force=True, without=["all"])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_is_kept_unless_forced(checkpoint, tmp_path):
    path = export_onnx(checkpoint, tmp_path / "g", sizes=SIZES)
    with pytest.raises(UsageError, match=r"is there already.*--force"):
        export_onnx(checkpoint, path, sizes=SIZES)
    export_onnx(checkpoint, path, sizes=SIZES, without=["all"], force=True)
    assert not domains(path / "unet" / "model.onnx")[DOMAIN]
    (path / "unet" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds unet/thesis.txt, which is not ours"):
        export_onnx(checkpoint, path, sizes=SIZES, force=True)
    assert (path / "unet" / "thesis.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is there already and no folder"):
        export_onnx(checkpoint, tmp_path / "file", sizes=SIZES, force=True)
    with pytest.raises(UsageError, match="does not exist"):
        export_onnx(checkpoint, tmp_path / "no" / "g", sizes=SIZES)


def test_what_appears_meanwhile_stays(checkpoint, tmp_path, monkeypatch):
    real = writer.save_onnx

    def late(graph, path, *linked):
        (tmp_path / "g").mkdir(exist_ok=True)
        (tmp_path / "g" / "thesis.txt").write_text("mine")
        return real(graph, path, *linked)

    monkeypatch.setattr(writer, "save_onnx", late)
    for force in (False, True):
        with pytest.raises(UsageError, match=r"g holds thesis.txt, which is not ours" if force else "--out: "):
            (tmp_path / "g" / "thesis.txt").unlink(missing_ok=True)
            export_onnx(checkpoint, tmp_path / "g", sizes=SIZES, without=["all"], force=force)
        assert [path.name for path in tmp_path.rglob("*")] == ["g", "thesis.txt"]


def test_a_full_disk_is_noticed_before_anything_is_written(checkpoint, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(
        GraphError,
        match=r"the graphs do not fit on this disk \(got 0 MB free, expected 1 MB\)\. Fix: free 1 MB, or choose",
    ):
        export_onnx(checkpoint, tmp_path / "g", sizes=SIZES)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_names_the_file_and_no_hidden_folder(checkpoint, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx_ir.save", full)
    with pytest.raises(GraphError) as caught:
        export_onnx(checkpoint, tmp_path / "g", sizes=SIZES)
    said = (
        "text_encoder/model.onnx: cannot be written (No space left on device). Fix: "
        "free space on this disk, or choose another path."
    )
    assert str(caught.value) == said and not list(tmp_path.iterdir())


def test_a_refusal_of_the_disk_names_the_way_out(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("os.mkdir", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(
        GraphError, match=r"g: cannot be written \(Permission denied\)\. Fix: choose another folder with --out"
    ):
        export_onnx(checkpoint, tmp_path / "g", sizes=SIZES)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--weights", "int4"],
            "--weights: ONNX files cannot have it (got int4, expected one of int8). Fix: leave --weights out",
        ),
        (
            ["--target", "gpu"],
            "--target: a graph in another format is tuned for no target (got gpu). Fix: leave --target out",
        ),
    ],
)
def test_flags_without_a_meaning_are_refused(tmp_path, capsys, flags, message):
    words = ["convert", "demo", "--format", "onnx", "--out", str(tmp_path / "g"), *flags]
    assert cli.main(words) == UsageError.exit_code
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_float32_may_be_said(tmp_path, capsys):
    words = [
        "convert",
        "demo",
        "--format",
        "onnx",
        "--size",
        "16x16",
        "--dtype",
        "fp32",
        "--without",
        "all",
        "--out",
        str(tmp_path / "g"),
    ]
    assert cli.main(words) == 0 and capsys.readouterr().out.strip() == str(tmp_path / "g")


def test_a_folder_says_what_draws_with_it(checkpoint, tmp_path):
    path = export_onnx(checkpoint, tmp_path / "g", sizes=SIZES)
    found = read_manifest(path, tuple(FORMATS))
    unet = next(entry for entry in found.entries if entry.component == "unet")
    assert unet.files == ("unet/model.onnx",) and unet.sizes == {"batch": 2, "height": 3, "width": 5}
    assert unet.inputs["sample"].shape == unet.shapes["sample"] == (2, 4, 3, 5)
    assert found.pipeline.latents.scale == 2 and found.tokenizers["tokenizer"] == ("tokenizer", 7)
    assert {"tokenizer/vocab.json", "unet/model.onnx.data"} <= {*found.holds}
