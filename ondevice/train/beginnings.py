"""Networks that a run begins with: of a folder, or of a config, at random or with what fits of another's weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ondevice.errors import CheckpointError, OnDeviceError
from ondevice.train.parts import place_of

CONFIG = ".json"
_MOST = 1 << 20  # bytes of a config
_ZERO = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")


def begun(kind: Any, source: str, name: str, setting: str = "") -> Any:
    """A part of a model: of a diffusers folder or a hub id, which may be those of the whole model; or, of a config's
    .json, at random.

    Args:
        kind: diffusers' or transformers' class of it.
        name: of its folder in a model's.
        setting: what names it, where that is not NAME_name_or_path.

    Raises:
        CheckpointError: it cannot be read as such.
    """
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()  # the bar is of steps
    transformers.utils.logging.disable_progress_bar()
    try:
        if source.endswith(CONFIG):
            return of_config(kind, Path(source))
        place = place_of(source)
        if Path(place).is_dir():
            inside = next((one for one in (name, name.removesuffix("_2")) if (Path(place) / one).is_dir()), "")
            return kind.from_pretrained(place, subfolder=inside)
        try:
            return kind.from_pretrained(place, subfolder=name)
        except OSError:  # the id is of this part alone
            return kind.from_pretrained(place)
    except OnDeviceError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, RecursionError) as error:
        of_tokens = name == "tokenizer"
        setting = setting or ("tokenizer_name" if of_tokens else f"{name}_name_or_path")
        fix = f"give a diffusers folder of a {name}" + ("" if of_tokens else ", or its config's .json")
        raise CheckpointError(f"it cannot be read ({error}).", where=f"--{setting} {source}", fix=fix) from error


def of_config(kind: Any, path: Path) -> Any:
    """A network at random. Raises OSError and ValueError for a file that is no config."""
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    config = json.loads(data.decode("utf-8")) if len(data) <= _MOST else None
    if not isinstance(config, dict):
        raise ValueError("it is no JSON object of up to 1 MB")
    if hasattr(kind, "config_class") and hasattr(kind.config_class, "from_dict"):  # transformers'
        return kind(kind.config_class.from_dict(config))
    net = kind.from_config(config)
    if hasattr(net, "transformer_blocks"):
        for name, module in net.named_modules():
            if name.endswith(_ZERO):  # adaLN-Zero (arXiv 2212.09748, section 3.2): a block changes nothing at first
                torch.nn.init.zeros_(module.weight)
                torch.nn.init.zeros_(module.bias)
    return net


@torch.no_grad()
def take_what_fits(net: torch.nn.Module, base: torch.nn.Module, said: Callable[[str], object]) -> None:
    """Give a network those of another's weights that have its names and shapes. Where it has more input channels, the
    further ones are zero, so that they change nothing at first; what is new begins as it is. How many is said."""
    known, taken = base.state_dict(), 0
    values = net.state_dict()
    for name, value in values.items():
        other = known.get(name)
        if other is None or other.ndim != value.ndim or not other.ndim:
            continue
        if other.shape == value.shape:
            value.copy_(other)
        elif (
            other.ndim > 1
            and other.shape[1] < value.shape[1]
            and _apart_from_inputs(other) == _apart_from_inputs(value)
        ):
            value.zero_()
            value[:, : other.shape[1]] = other
        else:
            continue
        taken += 1
    said(f"{taken} of {len(values)} weights begin as the model's own")


def _apart_from_inputs(value: torch.Tensor) -> tuple[int, ...]:
    return (value.shape[0], *value.shape[2:])
