"""A model whose decoder overflows half storage, as SDXL's first VAE does: what `generate` does with it."""

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import message, tiny_checkpoint

from ondevice import Pipeline, cli
from ondevice.compiler import Recipe, compile_bundle
from ondevice.errors import UsageError

pytestmark = pytest.mark.device
LARGE = {"decoder.up_blocks.0.resnets.0.conv2.weight": 2.0**18, "decoder.up_blocks.0.resnets.0.conv2.bias": 2.0**18}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The same weights in half and in float32 storage."""
    checkpoint = tiny_checkpoint()
    vae = checkpoint.components["vae"]
    weights = {
        name: ir.tensor((t.numpy() * np.float32(LARGE.get(name, 1.0))).astype(np.float16).astype(np.float32), name=name)
        for name, t in vae.weights.items()
    }
    checkpoint = replace(checkpoint, components=checkpoint.components | {"vae": replace(vae, weights=weights)})
    folder = tmp_path_factory.mktemp("guards")
    return {
        storage: compile_bundle(checkpoint, folder / f"{storage}.ondevice", Recipe(storage), sizes=[(64, 64)])
        for storage in ("f16", "f32")
    }


def test_the_picture_of_float32_storage(bundles):
    asked = {"num_inference_steps": 2, "seed": 1}
    want = Pipeline.from_bundle(bundles["f32"])("a cat", **asked).pixels.astype(np.float64)
    got = Pipeline.from_bundle(bundles["f16"], on_nan="fp32")("a cat", **asked).pixels
    assert 10 * math.log10(255**2 / max(((got - want) ** 2).mean(), 1e-9)) >= 40


@pytest.mark.parametrize(
    "words, code, said",
    [
        ((), 13, "vae_decoder: dispatch "),
        (("--on-nan", "fp32", "--strict"), 14, "half storage overflows"),
        (("--on-nan", "fp32", "--max-memory", "1MB"), 8, "half storage does not hold takes"),
    ],
)
def test_the_verb(bundles, tmp_path, capsys, words, code, said):
    out = tmp_path / "a.png"
    asked = ["generate", str(bundles["f16"]), "a cat", "--steps", "1", "--seed", "1", "--out", str(out), *words]
    assert cli.main(asked) == code and said in capsys.readouterr().err and not out.exists()


def test_on_nan_is_one_of_two(bundles):
    said = message(lambda: Pipeline.from_bundle(bundles["f16"], on_nan="ignore"), UsageError)
    assert said == "on_nan: unknown (got 'ignore', expected stop or fp32). Fix: use fp32."
