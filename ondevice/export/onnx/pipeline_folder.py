"""What pipelines of optimum-onnx look for beside the ONNX files: model_index.json, a config.json for each network, the
scheduler's config, and tokenizers that say how long a text is.

Layout: that of `optimum-cli export onnx`, as `ORTDiffusionPipeline.from_pretrained` of optimum-onnx 0.1 reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ondevice.compiler.picture import scheduler_of
from ondevice.converters import Model
from ondevice.converters.architectures.clip_text import CLIP_SKIP
from ondevice.converters.families.controlled import NETS
from ondevice.export.options import Options
from ondevice.vocabulary.files import CONFIG, VOCAB
from ondevice.vocabulary.settings import with_length

_DIFFUSERS = "0.35.2"  # whose files these are like
_NONE = [None, None]
_CLASSES = {  # by architecture
    "clip_text": ["transformers", "CLIPTextModel"],
    "clip_text_pooled": ["transformers", "CLIPTextModelWithProjection"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "autoencoder_kl": ["diffusers", "AutoencoderKL"],
    "controlnet": ["diffusers", "ControlNetModel"],
    "autoencoder_tiny": ["diffusers", "AutoencoderTiny"],
}
_OF_THEIR_SOURCE = ("_diffusers_version", "_name_or_path", "_use_default_values")
_STATES = "hidden_states_"


def port_name(name: str) -> str:
    """What optimum calls a port of ours."""
    return f"hidden_states.{name.removeprefix(_STATES)}" if name.startswith(_STATES) else name


def write_pipeline_folder(model: Model, folder: Path, options: Options) -> None:
    """Write these files into `folder`, which has the components and tokenizers already."""
    family = model.family
    scheduler = scheduler_of(model, options.sampler).config
    place = folder / "scheduler"
    place.mkdir()
    _write(place / "scheduler_config.json", scheduler)
    for part in family.parts:
        for role, about in family.roles.items():
            if about.part == part and role.startswith(part) and about.graph != "scaled" and (folder / role).is_dir():
                _write(folder / role / "config.json", _config(model, part, folder))
    for name, part in family.tokenizers.items():
        path = folder / name / CONFIG
        said = path.read_bytes() if path.exists() else b"{}"
        path.write_bytes(with_length(said, model.configs[part]["max_position_embeddings"]))
    _write(folder / "model_index.json", _index(model, folder, str(scheduler["_class_name"])))


def _config(model: Model, part: str, folder: Path) -> dict[str, Any]:
    """The config of a network as its graph is."""
    library, name = _CLASSES[model.family.parts[part].architecture.name]
    config = {key: value for key, value in model.configs[part].items() if key not in _OF_THEIR_SOURCE}
    if library == "transformers":
        config |= {"architectures": [name], "num_hidden_layers": config["num_hidden_layers"] - config.pop(CLIP_SKIP, 0)}
        return config
    if "force_upcast" in config:  # our graph holds what would overflow in half precision
        config["force_upcast"] = False
    if part == "unet" and (size := _fixed_size(folder / part / "model.onnx")):
        config["sample_size"] = size[0] if size[0] == size[1] else list(size)
    return {"_class_name": name, "_diffusers_version": _DIFFUSERS} | config


def _fixed_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the file's latents; None where they are free."""
    sample = next(value for value in ir.load(path).graph.inputs if value.name == "sample")
    assert sample.shape is not None
    height, width = sample.shape[2], sample.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _index(model: Model, folder: Path, scheduler: str) -> dict[str, Any]:
    """model_index.json: the classes of what is there, and what the pipeline is told."""
    family, pipeline = model.family, model.pipeline()
    index: dict[str, Any] = {"_class_name": family.pipelines[0], "_diffusers_version": _DIFFUSERS}
    index |= dict.fromkeys(("feature_extractor", "image_encoder"), _NONE)
    if "text_encoder_2" in family.parts:
        feeds = [feed for step in pipeline["before"] for feed in step.get("feed", {}).values()]
        index |= {"text_encoder": _NONE, "tokenizer": _NONE}  # of a refiner
        index["force_zeros_for_empty_prompt"] = any(feed.get("absent") == "zeros" for feed in feeds)
        index["requires_aesthetics_score"] = "aesthetic_score" in pipeline["numbers"]
    else:
        index |= {"safety_checker": _NONE, "requires_safety_checker": False}
    own = (item for item in family.parts.items() if item[0] not in NETS)  # which these pipelines know nothing of
    index |= {part: _CLASSES[about.architecture.name] for part, about in own}
    for name in family.tokenizers:
        whole = "" if (folder / name / VOCAB).exists() else "Fast"
        index[name] = ["transformers", f"CLIPTokenizer{whole}"]
    return index | {"scheduler": ["diffusers", scheduler]}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
