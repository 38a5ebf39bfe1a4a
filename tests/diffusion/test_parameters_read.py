"""Parameters for the model that is to draw them: which numbers, options and texts it can have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from diffusion.fake_networks import OtherDevice, spec_of
from diffusion.sampler_helpers import SD15
from diffusion.test_pipeline_shapes import golden, network, pipeline

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.parameters_read import fields_for, read_parameters
from ondevice.diffusion.picture_file import write_picture
from ondevice.diffusion.recorded import Recorded


def files_of(spec: Any, source: str = "demo") -> Any:
    return SimpleNamespace(pipeline=spec, model={"source": source}, scheduler=SD15)


def test_zeros_that_stand_for_no_text_are_told_from_an_empty_one(tmp_path: Path) -> None:
    """SDXL: "" is encoded, and what was not given is zeros; the file says "" of both, and which it was."""
    whole = golden("sdxl_refiner")
    spec = parse_pipeline(Checker("t"), whole["pipeline"], whole["components"], whole["tokenizers"], whole["samplers"])
    for negative, given in ((None, False), ("", True), ("x", False)):
        drawn = pipeline(whole, OtherDevice(network))("a", num_inference_steps=1, negative_prompt=negative)
        assert drawn.parameters.get("negative_given", False) == given
        assert drawn.pixels is not None
        write_picture(tmp_path / "a.png", drawn.pixels, drawn.parameters | {"model": "demo"})
        found = fields_for(read_parameters(tmp_path / "a.png"), files_of(spec), tmp_path)
        assert found.fields.get("negative") == negative and not found.lost
        assert found.fields["size"] == "24x16" and "guidance" in found.fields


def test_numbers_and_options_are_told_apart_by_the_model() -> None:
    recorded = Recorded(
        {"guidance": 3.0, "sampler": "euler", "steps": 2, "strength": 0.5},
        {"guidance_rescale": 0.5, "use_karras_sigmas": True, "sigmas": [3.0, 1.0], "eta": 0.5, "ays": None, "up": {}},
    )
    found = fields_for(recorded, files_of(spec_of()), Path())
    assert found.fields == {
        "guidance": 3.0, "sampler": "euler", "steps": 2, "number": {"guidance_rescale": 0.5},
        "set": {"use_karras_sigmas": True, "sigmas": [3.0, 1.0], "ays": "sd"},
    }  # fmt: skip
    assert found.lost == [
        "eta = 0.5 is nothing that euler takes here",
        "up = {} is nothing that euler takes here",
        "it was drawn from another picture, which is not named (--init-image)",
    ]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"schedule"}, {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}),
        ({"spacing"}, {"use_karras_sigmas": True, "final_sigmas_type": "zero"}),
        ({"sampler"}, None),
        ({"steps", "seed"}, {"use_karras_sigmas": True, "timestep_spacing": "trailing", "final_sigmas_type": "zero"}),
    ],
)
def test_flags_beside_a_picture_take_the_place_of_its_options(given: set[str], left: dict[str, Any] | None) -> None:
    options = {"use_karras_sigmas": True, "timestep_spacing": "trailing", "final_sigmas_type": "zero"}
    found = fields_for(Recorded({"sampler": "euler"}, options), files_of(spec_of()), Path(), given)
    assert found.fields.get("set") == left and len(found.lost) == (3 if left is None else 0)


def test_a_model_without_guidance_and_another_one() -> None:
    spec = spec_of()
    plain = SimpleNamespace(
        numbers={name: number for name, number in spec.numbers.items() if name != "guidance_scale"},
        sampler="euler", steps=2, gives="picture",
    )  # fmt: skip
    for scale, lost in ((1.0, []), (5.0, ["this model has no guidance, and it was drawn with 5"])):
        found = fields_for(Recorded({"guidance": scale}, model="demo"), files_of(plain), Path())
        assert found.fields == {} and found.lost == lost
    found = fields_for(Recorded({}, model="sd15"), files_of(plain), Path())
    assert found.lost == ["it was drawn with sd15, and this model is demo"]


def test_adapters_and_pictures_of_nets_are_those_of_the_bundle_or_lie_beside_it(tmp_path: Path) -> None:
    files = object.__new__(Bundle)
    files.manifest = SimpleNamespace(  # type: ignore[assignment]
        adapters={"carried": None}, pipeline=spec_of(), model={"source": "demo"}
    )
    (tmp_path / "own.safetensors").write_bytes(b"")
    (tmp_path / "edges.png").write_bytes(b"")
    pictures = {"control": "edges.png", "control_2": "pose.png", "depth": "edges.png"}
    adapters = ["carried:0.5", "own:1", "../own:1", "other:-2"]
    recorded = Recorded({"canny": "1,2", "fit": "crop"}, pictures=pictures, adapters=adapters)
    found = fields_for(recorded, files, tmp_path)
    edges = str(tmp_path / "edges.png")
    assert found.fields == {"lora": ["carried:0.5", f"{tmp_path}/own.safetensors:1"], "picture": {"depth": edges}}
    assert found.lost == [
        "pose.png is not beside it (--control FILE)",
        "the adapter ../own:1 is not carried, and no file beside it (--lora FILE:SCALE)",
        "the adapter other:-2 is not carried, and no file beside it (--lora FILE:SCALE)",
    ]
    (tmp_path / "pose.png").write_bytes(b"")
    found = fields_for(recorded, files, tmp_path, {"lora", "picture"})
    assert found.fields == {"control": [edges, str(tmp_path / "pose.png")], "canny": "1,2", "fit": "crop"}
    assert not found.lost
