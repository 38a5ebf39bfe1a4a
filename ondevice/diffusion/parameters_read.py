"""What a picture was drawn with, read from its file for a model that is to draw it again.

Our JSON says all of it; where there is none, the text as AUTOMATIC1111's WebUI writes it (infotext.py). What comes out
is an object by the words of `generate`'s flags, and a sentence for each thing that cannot be had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.adapters import LARGEST
from ondevice.diffusion.control import NAMES
from ondevice.diffusion.infotext import named_files, read_infotext
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.picture_texts import read_texts
from ondevice.diffusion.recorded import Recorded
from ondevice.diffusion.samplers import make_table
from ondevice.errors import OnDeviceError, UsageError

_VALUES = 4096  # in all of our JSON
_DEPTH = 8
_NO_PARAMETERS = "name a picture that was drawn, and not one that was edited and saved without them"

# our key -> the flag's word and the type
_FIELDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "prompt": ("prompt", str),
    "steps": ("steps", int),
    "sampler": ("sampler", str),
    "guidance_scale": ("guidance", (int, float)),
    "seed": ("seed", int),
    "seed_mode": ("seed_mode", str),
    "variation_seed": ("variation_seed", int),
    "variation_strength": ("variation_strength", (int, float)),
    "noise_seed_delta": ("noise_seed_delta", int),
    "emphasis": ("emphasis", str),
    "strength": ("strength", (int, float)),
    "background": ("background", str),
    "fit": ("fit", str),
    "canny": ("canny", str),
    "refiner_start": ("refiner_start", (int, float)),
    "taesd": ("taesd", bool),
    "decode_chunk": ("decode_chunk", int),
}
_FILES = ("init_image", "mask", "latents", "refiner")
_LEVELS = {"schedule", "karras", "sigmas"}
# options that are not taken over where one of these flags is given
_INSTEAD = {
    "timestep_spacing": {"spacing"},
    "eta": {"eta"},
    **{key: {*_LEVELS, "steps"} for key in ("sigmas", "timesteps")},
    **dict.fromkeys(("ays", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), _LEVELS),
}
_OF_IMAGES = ("strength", "mask")  # flags that mean nothing without --init-image
_OF_PICTURES = ("background", "fit")  # nor these, or --control


@dataclass(frozen=True, slots=True)
class Found:
    """`fields` by the words of `generate`'s flags, values of JSON; `lost`: what is not in them, a sentence each."""

    fields: dict[str, Any]
    lost: list[str]


def read_parameters(path: Path) -> Recorded:
    """What a picture's file says.

    Raises:
        UsageError: it cannot be read, or says nothing.
    """
    texts = read_texts(path)
    if texts.own is not None:
        return _of_json(texts.own, str(path))
    if texts.infotext is not None:
        return read_infotext(texts.infotext)
    raise UsageError("it does not say what it was drawn with.", where=str(path), fix=_NO_PARAMETERS)


def fields_for(recorded: Recorded, files: ModelFiles, folder: Path, given: Set[str] = frozenset()) -> Found:
    """What is to be asked of a model.

    Args:
        folder: where the files that a picture was drawn from are looked for: a picture's own.
        given: words of flags that are given beside it, and need not be found.

    Raises:
        OnDeviceError: the bundle has no pipeline.
    """
    fields, lost = dict(recorded.fields), list(recorded.lost)
    if recorded.model != (source := str(files.model["source"])) and recorded.model is not None:
        lost.append(f"it was drawn with {recorded.model[:80]}, and this model is {source}")
    _numbers(recorded, files, fields, lost)
    _options(recorded, files, fields, lost, given)
    for word, name in recorded.files.items():
        if word not in given:
            _beside(folder, word, name, fields, lost)
    _pictures(recorded, folder, fields, lost, given)
    if "lora" not in given:
        _adapters(recorded, files, folder, fields, lost)
    if "init_image" not in fields and "init_image" not in given:
        if "strength" in fields and "init_image" not in recorded.files:
            lost.append("it was drawn from another picture, which is not named (--init-image)")
        controlled = "control" in fields or "control" in given
        for word in _OF_IMAGES if controlled else (*_OF_IMAGES, *_OF_PICTURES):
            fields.pop(word, None)
    if fields.get("taesd") and not files.pipeline.fast and "taesd" not in given:
        del fields["taesd"]
        lost.append("it was decoded by a tiny decoder, which this bundle has not (`convert --taesd`)")
    if "control" not in fields and "control" not in given:
        fields.pop("canny", None)
    if "refiner" not in fields and "refiner" not in given:
        fields.pop("refiner_start", None)
    return Found(fields, lost)


def _of_json(text: str, where: str) -> Recorded:
    """What our JSON says. Raises UsageError where it is none of ours."""

    def damaged(why: str) -> UsageError:
        return UsageError(f"its parameters are damaged ({why}).", where=where, fix="take another copy of the file")

    try:
        own = json.loads(text, parse_constant=_refuse)
        json.dumps(own, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except (ValueError, RecursionError):
        raise damaged("they are no JSON") from None
    if not isinstance(own, dict) or not _is_small(own):
        raise damaged("they are no object, or too large a one")
    if "morph_part" in own:
        what = "it is a frame of a morph, whose latents lie between those of two pictures."
        raise UsageError(what, where=where, fix="make the morph again (`ondevice morph`)")
    recorded = Recorded({"long": "truncate", "emphasis": "none"})
    for key, value in own.items():
        if key in _FIELDS:
            word, kind = _FIELDS[key]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise damaged(f"{key} is {str(value)[:40]!r}")
            recorded.fields[word] = value
        elif key in _FILES:
            recorded.files[key] = str(value)
        elif key == "lora":
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise damaged(f"{key} is {str(value)[:40]!r}")
            recorded.adapters = value
        elif key not in ("negative_prompt", "negative_given", "width", "height", "long", "pictures", *_ABOUT):
            recorded.options[key] = value
    if "width" in own and "height" in own:
        if type(own["width"]) is not int or type(own["height"]) is not int:
            raise damaged("width and height are no whole numbers")
        recorded.fields["size"] = f"{own['width']}x{own['height']}"
    if own.get("negative_prompt") or own.get("negative_given"):  # "" stands for none, too
        recorded.fields["negative"] = str(own.get("negative_prompt", ""))
    if own.get("long") == "chunk":
        del recorded.fields["long"]  # as many chunks as there are plans for, as it was drawn
    recorded.pictures = named_files(str(own.get("pictures", "")))
    recorded.model = str(own["model"]) if "model" in own else None
    if "texts_cut_at" in own:
        recorded.lost.append("its format had no room for the whole prompt")
    return recorded


_ABOUT = ("model", "version", "texts_cut_at", "out")


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _is_small(value: Any) -> bool:
    """Whether JSON has few values at few levels, all of them finite."""
    level, count = [value], 0
    for _ in range(_DEPTH):
        count += len(level)
        if any(isinstance(one, float) and not math.isfinite(one) for one in level) or count > _VALUES:
            return False
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def _numbers(recorded: Recorded, files: ModelFiles, fields: dict[str, Any], lost: list[str]) -> None:
    """The model's numbers, guidance's among them where it has one that can be given."""
    have = {name for name, number in files.pipeline.numbers.items() if number.ramp is None}
    guidance = fields.pop("guidance", None)
    if guidance is not None and "guidance_scale" in have:
        fields["guidance"] = guidance
    elif guidance is not None and guidance > 1 and "guidance_scale" not in files.pipeline.numbers:
        lost.append(f"this model has no guidance, and it was drawn with {guidance:g}")
    numbers = {name: value for name, value in recorded.options.items() if name in have and _is_number(value)}
    if numbers:
        fields["number"] = numbers


def _options(recorded: Recorded, files: ModelFiles, fields: dict[str, Any], lost: list[str], given: Set[str]) -> None:
    """The sampler's options, as far as the sampler that draws takes them by themselves."""
    options: dict[str, Any] = {}
    sampler = files.pipeline.sampler if "sampler" in given else fields.get("sampler", files.pipeline.sampler)
    steps = fields.get("steps", files.pipeline.steps)
    for name, value in recorded.options.items():
        if name in fields.get("number", ()):
            continue
        if name == "ays" and value is None:
            value = published_levels(files.pipeline)
        if given & _INSTEAD.get(name, set()):
            continue
        if "sampler" in given:
            lost.append(f"{name[:40]} is not taken over: it was another sampler's")
            continue
        try:
            make_table(sampler, steps, files.scheduler, **{name: value})
        except (OnDeviceError, TypeError):
            lost.append(f"{name[:40]} = {str(value)[:40]} is nothing that {sampler[:40]} takes here")
            continue
        options[name] = value
    if options:
        fields["set"] = options


def _pictures(recorded: Recorded, folder: Path, fields: dict[str, Any], lost: list[str], given: Set[str]) -> None:
    """Other pictures than the one to begin from: those of ControlNets in their order, all of them or none."""
    nets = [name for name in NAMES if name in recorded.pictures]
    found = {name: _found(folder, file) for name, file in recorded.pictures.items()}
    for name, path in found.items():
        if path is None and ("control" if name in nets else "picture") not in given:
            flag = "--control FILE" if name in nets else f"--picture {name}=FILE"
            lost.append(f"{recorded.pictures[name][:80]} is not beside it ({flag})")
    there = {name: str(path) for name, path in found.items() if path is not None}
    if nets and all(name in there for name in nets) and "control" not in given:
        fields["control"] = [there[name] for name in nets]
    if (others := {name: path for name, path in there.items() if name not in nets}) and "picture" not in given:
        fields["picture"] = others


def published_levels(pipeline: PipelineSpec) -> str:
    """Which of the published lists of Align Your Steps is for a model's kind."""
    if pipeline.gives != "picture":
        return "video"
    return "sdxl" if "original_width" in pipeline.numbers else "sd"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _beside(folder: Path, word: str, name: str, fields: dict[str, Any], lost: list[str]) -> None:
    path = None if word == "refiner" else _found(folder, name)
    if path is not None:
        fields[word] = str(path)
    elif word == "refiner":
        lost.append(f"{name[:80]} drew its end (--refiner BUNDLE)")
    else:
        lost.append(f"{name[:80]} is not beside it (--{word.replace('_', '-')} FILE)")


def _adapters(recorded: Recorded, files: ModelFiles, folder: Path, fields: dict[str, Any], lost: list[str]) -> None:
    """Adapters that the bundle carries, by their names; else those whose files are in the folder."""
    carried = files.manifest.adapters if isinstance(files, Bundle) else {}
    for one in recorded.adapters:
        name, _, scale = one.rpartition(":")
        path = None if name in carried else _found(folder, f"{name}.safetensors")
        if not _is_scale(scale) or (name not in carried and path is None):
            lost.append(f"the adapter {one[:80]} is not carried, and no file beside it (--lora FILE:SCALE)")
        else:
            fields.setdefault("lora", []).append(f"{path or name}:{scale}")


def _is_scale(text: str) -> bool:
    try:
        return abs(float(text)) <= LARGEST
    except ValueError:
        return False


def _found(folder: Path, name: str) -> Path | None:
    """A plain file of that name in the folder; a name that leads elsewhere is none."""
    if not name or name != Path(name).name or name in (".", "..") or "\0" in name or len(name) > 255:
        return None
    path = folder / name
    return path if path.is_file() else None
