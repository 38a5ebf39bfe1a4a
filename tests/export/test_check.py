"""`check`: exports on their own runtimes against our graphs, and the op at which a broken one begins to deviate."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_weights import case, checkpoint

from ondevice import cli
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import BundleError
from ondevice.export import checking
from ondevice.export.opened import open_export
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export

SIZE = {"sizes": [(24, 16)]}
WRONG = "mid_block.resnets.1.conv1.weight"


@pytest.fixture(scope="module")
def model():
    return checkpoint(FAMILIES["sdxl"], case("sdxl_e2e")[0]["scheduler"])


def broken(model):
    """With one number of the UNet that is another."""
    net = model.components["unet"]
    values = net.weights[WRONG].numpy().copy()
    values.reshape(-1)[5] += 40 * np.abs(values).max()
    net = replace(net, weights={**net.weights, WRONG: ir.tensor(values, name=WRONG)})
    return replace(model, components={**model.components, "unet": net})


@pytest.mark.parametrize(
    "format, options",
    [("onnx", {"without": ["attention"]}), ("tflite", {}), ("coreml", {"dtype": "fp32"})],
)
def test_every_format_computes_what_ours_do_and_a_broken_weight_is_named(format, options, model, tmp_path):
    path = export(broken(model), tmp_path / "g", FORMATS[format], Options(**options), **SIZE)
    rows = {row.component: row for row in checking.compare(open_export(path), model)}
    assert {"text_encoder", "text_encoder_2", "context", "unet", "vae_decoder", "vae_encoder"} == rows.keys()
    wrong = rows.pop("unet")
    assert all(row.holds and row.psnr > 60 and row.first is None for row in rows.values()), rows
    assert rows["text_encoder"].bound == 1e-5 and wrong.bound == (2e-3 if format == "tflite" else 1e-5)
    assert wrong.error > wrong.bound and wrong.first.value.startswith("mid_block.resnets.1"), wrong
    assert wrong.first.op.startswith("Conv") and wrong.first.error > wrong.bound


@given(st.data())
def test_values_meet_in_their_order(data):
    """Whatever either lacks, and though a few come late."""
    names = [f"v{i}" for i in range(data.draw(st.integers(0, 12)))]
    ours = [name for name in names if data.draw(st.booleans())]
    theirs = [name for name in names if data.draw(st.booleans())]
    if len(theirs) > 1 and data.draw(st.booleans()):
        theirs[0], theirs[1] = theirs[1], theirs[0]
    arrays = {name: np.full(1, i) for i, name in enumerate(names)}
    met = checking.pairs(((n, arrays[n]) for n in theirs), ((n, arrays[n]) for n in ours))
    assert [(name, got, want) for name, got, want in met] == [
        (name, arrays[name], arrays[name]) for name in theirs if name in ours
    ]


def test_values_that_never_meet_are_let_go(monkeypatch):
    monkeypatch.setattr(checking, "KEPT", 100)
    ours = ((f"v{i}", np.zeros(4)) for i in range(50))  # 32 bytes each
    theirs = iter([("v40", 0), ("v3", 0), ("v41", 0)])
    assert [name for name, *_ in checking.pairs(theirs, ours)] == ["v40", "v41"]


def test_differences():
    want = np.array([1.0, -4.0, -np.inf])
    assert checking.error_of(np.array([1.0, -3.0, -np.inf]), want) == 0.25
    assert checking.error_of(np.array([1.0, -3.0, 0.0]), want) == np.inf
    assert checking.error_of(np.array([1.0, np.nan, -np.inf]), want) == np.inf
    assert checking.psnr_of(np.array([9.0, 10.0]), np.array([10.0, 10.0])) == pytest.approx(23.01, abs=0.01)
    assert checking.psnr_of(np.array([np.nan]), np.ones(1)) == -np.inf
    assert checking.psnr_of(want[:2], want[:2]) == np.inf


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "demo-onnx"
    assert cli.main(["convert", "demo", "--format", "onnx", "--size", "32x32", "--out", str(folder)]) == 0
    return folder


def test_the_verb(demo, tmp_path, capsys):
    assert cli.main(["check", str(demo), "--json", "--component", "unet"]) == 0
    said = json.loads(capsys.readouterr().out)
    (row,) = said["components"]
    assert said["format"] == "onnx" and row["component"] == "unet" and row["holds"] and row["error"] < 1e-5
    folder = shutil.copytree(demo, tmp_path / "g")
    path = folder / "vae_decoder" / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:4096] + bytes(4096) + path.read_bytes()[8192:])
    assert cli.main(["check", str(folder), "--format", "onnx"]) == 13
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("ONNX files by onnxruntime on the CPU, against our graphs before any")
    assert [line.split()[-1] for line in printed.out.splitlines()[2:6]] == ["ok", "ok", "DEVIATES", "ok"]
    assert "vae_decoder: the first op beyond it is " in printed.out
    assert "error: g: 1 of 4 components deviate; vae_decoder, first at " in printed.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["demo"], "--format: a model has no format by itself. Fix: add --format onnx or "),
        (["no such"], "'no such' is neither a model family ("),
        (["FOLDER", "--format", "tflite"], "holds ONNX files (got tflite). Fix: use --format onnx, or leave it out"),
        (["FOLDER", "--dtype", "fp16"], "--dtype: a folder has been written already. Fix: leave --dtype out."),
        (["FOLDER", "--ios", "18"], "--ios: a folder has been written already."),
        (["FOLDER", "--component", "none"], "--component: there is no none (it has text_encoder, unet, "),
        (["demo", "--format", "tflite", "--weights", "int4"], "--weights: TFLite files cannot have it (got int4"),
    ],
)
def test_what_cannot_be_checked_is_said(words, said, demo, capsys):
    call = [str(demo) if word == "FOLDER" else word for word in words]
    assert cli.main(["check", *call]) == 2 and said in capsys.readouterr().err


def test_weights_of_another_model_are_said(demo, tmp_path, capsys):
    folder = shutil.copytree(demo, tmp_path / "g")
    manifest = json.loads((folder / "export.json").read_text())

    def changed(**changes):
        (folder / "export.json").write_text(json.dumps(manifest | changes))
        return folder

    changed(model={"family": "sd14", "source": "x"})
    assert cli.main(["check", str(folder)]) == 2
    assert "none are named. Fix: name them as for convert, or --random-weights and its seed." in capsys.readouterr().err
    assert cli.main(["check", str(folder), "--random-weights", "0", "--component", "unet"]) == 9
    assert "of these weights). Fix: name the weights that it was converted from." in capsys.readouterr().err
    changed(model={"family": "sd99", "source": "x"})
    assert cli.main(["check", str(folder)]) == 9 and "which this version does not know" in capsys.readouterr().err
    for options in ({"dtype": 1}, {"dtype": "fp32", "weights": ["int8"]}, {"dtype": "fp32", "weights": "int2"}):
        with pytest.raises(BundleError, match="options say of no dtype or weights of this format"):
            next(checking.compare(open_export(changed(options=options)), open_checkpoint(None, family="demo")))
