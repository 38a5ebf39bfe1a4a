"""A model whose autoencoder is a tiny one, in other formats: both halves give what its graphs mean."""

from dataclasses import replace

import numpy as np
import pytest
from family_files import TINY
from recipe_weights import weights

from ondevice.converters import build
from ondevice.converters.architectures.autoencoder_tiny import AUTOENCODER_TINY
from ondevice.converters.component import Component
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.export.opened import open_export
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import ExportRunner
from ondevice.export.writing import export
from ondevice.graph import reference

CONFIG = {"_class_name": "AutoencoderTiny"} | {
    key: value
    for half, width in (("encoder", 8), ("decoder", 12))
    for key, value in ((f"{half}_block_out_channels", [width] * 2), (f"num_{half}_blocks", [1, 1]))
}
SIZE = {"batch": 1, "height": 8, "width": 12}


@pytest.fixture(scope="module")
def checkpoint():
    made = random_checkpoint_from_configs(seed=3, family="sd21", **TINY["sd21"])
    config = AUTOENCODER_TINY.normalize(CONFIG, "test")
    return replace(
        made, components=made.components | {"vae": Component(config, weights(AUTOENCODER_TINY, config, "s"))}
    )


@pytest.mark.parametrize("format", FORMATS)
def test_both_halves(checkpoint, format, tmp_path):
    out = export(checkpoint, tmp_path / "x", FORMATS[format], Options(dtype="fp32"), sizes=[(24, 16)])
    runner, model, rng = ExportRunner(open_export(out)), build(checkpoint), np.random.default_rng(1)
    given = {"vae_decoder": ("latent_sample", (1, 4, 8, 12)), "vae_encoder": ("sample", (1, 3, 16, 24))}
    for role, (port, shape) in given.items():
        inputs = {port: rng.uniform(-1, 1, shape).astype(np.float32)}
        expected = reference.run(model.graph(role, **SIZE), inputs)
        for name, found in runner.run(role, inputs, **SIZE).items():
            assert np.abs(found - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max(), (role, name)
