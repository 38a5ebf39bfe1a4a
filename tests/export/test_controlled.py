"""ControlNets in other formats: drawn by each format's own runtime, as diffusers and as a bundle draw."""

import json

import numpy as np
import pytest
from control_files import recipe, with_nets
from recipe_weights import case

from ondevice import Pipeline
from ondevice.errors import UsageError
from ondevice.export.manifest import MANIFEST
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export

PROMPT = "a photo of an astronaut riding a horse on mars"


@pytest.mark.parametrize("format", FORMATS)
def test_latents_are_those_of_diffusers(format, tmp_path):
    config, _, arrays = case("controlnet_e2e")
    made = export(recipe(config["scheduler"]), tmp_path / "g", FORMATS[format], Options(dtype="fp32"), sizes=[(48, 32)])
    picture = Pipeline.from_export(made)(
        PROMPT,
        negative_prompt="blurry, low quality",
        num_inference_steps=config["steps"],
        guidance_scale=config["guidance_scale"],
        latents=arrays["in.latents"],
        control_image=np.round(arrays["in.cond"][0].transpose(1, 2, 0) * 255).astype(np.uint8),
        **config["call"],
    )
    assert np.abs(picture.latents - arrays["out.latents"]).max() <= 2e-5 * np.abs(arrays["out.latents"]).max()
    names = {entry["component"]: entry for entry in json.loads((made / MANIFEST).read_text())["entries"]}
    residuals = [f"additional_residual_{number}" for number in range(5)]
    ports = {"sample", "timestep", "encoder_hidden_states"}
    given = {name: port["name"] for name, port in names["unet"]["inputs"].items()}
    assert list(names["controlnet"]["outputs"]) == residuals and given.keys() == {*ports, *residuals}
    assert names["controlnet"]["inputs"].keys() == {*ports, "controlnet_cond"}
    assert not any((made / folder).exists() for folder in ("controlnet_sizes",))
    if format == "coreml":
        assert names["controlnet"]["files"] == ["ControlNet.mlpackage"]
        assert names["unet"]["files"] == ["ControlledUnet.mlpackage"]
        assert names["controlnet"]["inputs"]["encoder_hidden_states"]["shape"] == [2, 32, 1, 77]


def test_free_sizes_are_refused(tmp_path):
    options = Options(dtype="fp32", flags={"dynamic": True})
    with pytest.raises(
        UsageError, match=r"--dynamic: what ControlNets give has sides that are rounded up.*Fix: leave it"
    ):
        export(with_nets("sd15", 1), tmp_path / "o", FORMATS["onnx"], options, sizes=[(24, 16)])
    assert not any(tmp_path.iterdir())
