"""Whole Core ML packages with weights of few bits: what they cost, that coremltools reads them, what is refused."""

import numpy as np
import pytest
from tiny_model import TINY

from ondevice import cli
from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import UsageError
from ondevice.export.coreml import writer
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import feeds
from ondevice.export.runtimes import mil
from ondevice.export.writing import export

COREML = FORMATS["coreml"]
JOB = Job("unet", {"batch": 2, "height": 4, "width": 4})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The demo model's UNet as a package: its folder, its bytes of weights, what it predicts."""
    folders, model = {}, build(open_checkpoint(None, family="demo"), published=True)

    def write(weights="", ios=17):
        if (weights, ios) not in folders:
            folder = tmp_path_factory.mktemp(f"{weights}{ios}")
            (fused,) = fused_graphs(model, Recipe(without=COREML.without), [JOB])
            entry = writer.write(fused.graph, JOB, folder, Options(dtype="fp32", weights=weights, flags={"ios": ios}))
            rng = np.random.default_rng(0)
            given = {name: rng.standard_normal(entry.shapes[name], dtype=np.float32) for name in entry.inputs}
            size = (folder / "Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
            folders[weights, ios] = folder, size, mil.load(folder, entry).run(feeds(entry, given))["noise_pred"]
        return folders[weights, ios]

    return write


# the root of the mean squared difference, in parts of what is predicted; the file's size, in parts of float32's
COSTS = {
    ("int8", 17): (0.006, 0.29),
    ("int4", 18): (0.06, 0.21),
    ("pal4", 17): (0.07, 0.165),
    ("pal6", 18): (0.023, 0.23),
}


@pytest.mark.parametrize("weights, ios", COSTS)
def test_few_bits_cost_little(written, weights, ios):
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    _, whole, exact = written()
    folder, size, found = written(weights, ios)
    error, share = np.sqrt(np.mean((found - exact) ** 2)) / exact.std(), size / whole
    assert 1e-4 < error <= COSTS[weights, ios][0] and share <= COSTS[weights, ios][1]
    package = MLModel(str(folder / "Unet.mlpackage"), skip_model_load=True)
    spec = package.get_spec()
    loaded = load(spec, specification_version=spec.specificationVersion, file_weights_dir=package.weights_dir)
    assert any(op.op_type.startswith("constexpr_") for op in loaded.functions["main"].operations)


def test_int4_is_of_ios_18(tmp_path):
    checkpoint = random_checkpoint_from_configs(seed=1, family="sd14", **TINY)
    with pytest.raises(UsageError) as caught:
        export(checkpoint, tmp_path / "p", COREML, Options(weights="int4"), sizes=[(10, 6)])
    said = "--weights: Core ML has int4 from iOS 18 on (got 17). Fix: add --ios 18, or use --weights pal4."
    assert str(caught.value) == said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--weights: bundles cannot have it (got pal6, expected one of int8, int4). Fix: choose another, or write"),
        (["--format", "onnx"], "--weights: ONNX files cannot have it (got pal6, expected one of int8). Fix: leave"),
    ],
)
def test_palettes_are_of_core_ml_alone(tmp_path, capsys, words, message):
    words = ["convert", "demo", "--weights", "pal6", "--out", str(tmp_path / "g"), *words]
    assert cli.main(words) == UsageError.exit_code
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
