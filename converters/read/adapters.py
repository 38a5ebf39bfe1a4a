"""Adapters (LoRA and its kin) in a checkpoint: W + sum of scale * alpha / rank * up @ down, read when a weight is.

Reference: "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685); kohya-ss/sd-scripts and LyCORIS for
the files that are in use. Alphas are those of each module, as there.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.component import Checkpoint, Component, lazy, listed, shape_of
from ondevice.converters.read.adapter_names import REFUSED, modules_of, spellings, split
from ondevice.converters.read.adapter_terms import Term, term_of
from ondevice.converters.read.json_text import parse_object
from ondevice.converters.read.safetensors_file import read_with_metadata
from ondevice.errors import CheckpointError, UsageError
from ondevice.graph.adapted import WEIGHT, Changes, Modules, leaves

log = logging.getLogger(__name__)
FLAG, CARRY = "--lora", "--carry-lora"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")
_ANOTHER = "use a .safetensors file of a LoRA"
_CONFIG = "adapter_config.json"
_IN_METADATA = "lora_adapter_metadata"  # where diffusers keeps peft's config


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a file holds for a checkpoint.

    Args:
        terms: by part, then by weight.
        modules: how many the file has.
        left: those that are for no weight of the checkpoint, by the file's names.
        known: the layers of the model that it was read for.
    """

    where: str
    terms: Mapping[str, Mapping[str, Term]]
    modules: int
    left: tuple[str, ...]
    known: Modules

    @property
    def applied(self) -> int:
        """How many modules are for weights of the checkpoint."""
        return self.modules - len(self.left)

    @property
    def changes(self) -> Changes:
        """What it adds, by weight of the checkpoint."""
        shapes = dict(leaves(self.known))
        return {
            name: (term.change(shapes[name]),)
            for part, terms in self.terms.items()
            for name, term in ((f"{part}/{weight}", term) for weight, term in terms.items())
        }

    def rest(self) -> str | None:
        """What of it is for no weight, in a sentence; None where all is."""
        return f"{Path(self.where).name}: not of this model: {listed(list(self.left))}" if self.left else None


def read_adapter(path: Path, model: Modules) -> Adapter:
    """What `path` holds for the layers of a model; nothing is read but names and alphas.

    Args:
        path: a .safetensors file, or peft's folder of one and its adapter_config.json.

    Raises:
        CheckpointError: it is damaged, no adapter, of a kind whose formula is not here, or for another model.
    """
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError("there is no such file.", where=str(file), fix=f"give {FLAG} FILE or FILE:SCALE")
    tensors, metadata = read_with_metadata(file)
    for part, kind in REFUSED.items():
        if name := next((name for name in tensors if part in name), None):
            what = f"it is {kind} (it has {name[:120]}), whose formula is not here."
            raise CheckpointError(what, where=str(path), fix="use a LoRA, LoCon or LoHa, or merge it by its own tool")
    found: dict[str, dict[str, ir.TensorProtocol]] = {}
    strays = []
    for name, tensor in tensors.items():
        if (one := split(name)) is None:
            strays.append(name)
        else:
            found.setdefault(one[0], {})[one[1]] = tensor
    if not any(slots.keys() - {"alpha"} for slots in found.values()):
        names = listed(sorted(tensors), most=3) if tensors else "none"
        what = f"it is no LoRA (it has {len(tensors)} tensors: {names})."
        raise CheckpointError(what, where=str(path), fix=_ANOTHER)
    config = _config(file, metadata)
    known = spellings(model)
    terms: dict[str, dict[str, Term]] = {}
    left = []
    for module, slots in found.items():
        if module not in known:
            left.append(module)
            continue
        alpha = _alpha(slots.pop("alpha", None), module, str(path))
        for target in known[module]:
            part, layer, _ = target
            weight = f"{layer}{WEIGHT}"
            if alpha is None and "down" in slots:
                alpha = _of_config(config, part, module, shape_of(slots["down"])[0], str(path))
            term = term_of(str(path), module, target.of(slots), alpha, model[part][layer].shape)
            if weight in terms.setdefault(part, {}):
                what = f"{module} and {terms[part][weight].module} are one module."
                raise CheckpointError(what, where=str(path), fix="download it again")
            terms[part][weight] = term
    if not terms:
        what = f"none of its {len(found)} modules is one of this model ({listed(left, most=2)})."
        raise CheckpointError(what, where=str(path), fix="use an adapter that was trained for this model")
    return Adapter(str(path), terms, len(found) + len(strays), (*left, *strays), model)


def with_adapters(checkpoint: Checkpoint, given: Sequence[str]) -> Checkpoint:
    """The checkpoint with these adapters in its weights; what a file has for no weight becomes a note.

    Args:
        given: each `FILE` or `FILE:SCALE`.

    Raises:
        UsageError: the checkpoint is a folder of graphs, or a scale is no number.
        CheckpointError: as `read_adapter`.
    """
    if given and checkpoint.graphs:
        raise _no_graphs(FLAG)
    known = modules_of(checkpoint) if given else {}
    terms: dict[str, dict[str, list[tuple[float, Term]]]] = {}
    notes, said = list(checkpoint.notes), list(checkpoint.adapters)
    for one in given:
        path, scale = split_scale(one)
        adapter = read_adapter(path, known)
        for part, weights in adapter.terms.items():
            for weight, term in weights.items():
                terms.setdefault(part, {}).setdefault(weight, []).append((scale, term))
        said.append(f"{path.name} at {scale:g}: {adapter.applied} of {adapter.modules} applied")
        if rest := adapter.rest():
            notes.append(rest)
            log.warning("%s", rest)
    components = {
        name: component if name not in terms else _changed(component, terms[name])
        for name, component in checkpoint.components.items()
    }
    return replace(checkpoint, components=components, notes=tuple(notes), adapters=tuple(said))


def with_carried(checkpoint: Checkpoint, given: Sequence[str]) -> Checkpoint:
    """The checkpoint with these adapters beside its weights, for the bundle to carry.

    Args:
        given: each `FILE` or `FILE:NAME`.

    Raises:
        UsageError: the checkpoint is a folder of graphs, or a name is none, or there twice.
        CheckpointError: as `read_adapter`.
    """
    if given and checkpoint.graphs:
        raise _no_graphs(CARRY)
    known = modules_of(checkpoint) if given else {}
    carried, notes, said = dict(checkpoint.carried), list(checkpoint.notes), list(checkpoint.said)
    for one in given:
        path, name = split_name(one)
        if name.casefold() in {other.casefold() for other in carried}:
            fix = f"name it with {CARRY} FILE:NAME"
            raise UsageError(f"there are two adapters called {name}.", where=CARRY, fix=fix)
        adapter = read_adapter(path, known)
        carried[name] = adapter.changes
        said.append(f"{name}: {adapter.applied} of {adapter.modules} carried")
        if rest := adapter.rest():
            notes.append(rest)
            log.warning("%s", rest)
    return replace(checkpoint, carried=carried, notes=tuple(notes), said=tuple(said))


def split_name(given: str) -> tuple[Path, str]:
    """`FILE:style` as (file, "style"); without a name it is the file's. Raises UsageError where that is none."""
    whole = Path(given).expanduser()
    path, colon, name = given.rpartition(":")
    if not colon or whole.exists():
        path, name = given, whole.stem
    if not NAME.fullmatch(name):
        what = f"{name[:80]!r} is no name (expected at most 64 letters, digits and ._+-)."
        raise UsageError(what, where=CARRY, fix=f"use {CARRY} FILE:NAME")
    return Path(path).expanduser(), name


def _no_graphs(flag: str) -> UsageError:
    what = "an exported graph takes no adapter."
    return UsageError(what, where=flag, fix=f"convert from weights, or leave {flag} out")


def split_scale(given: str) -> tuple[Path, float]:
    """`FILE:0.8` as (file, 0.8). Raises UsageError where the scale is no number."""
    whole = Path(given).expanduser()
    path, colon, text = given.rpartition(":")
    if not colon or whole.exists():
        return whole, 1.0
    try:
        scale = float(text)
    except ValueError:
        return whole, 1.0  # a name with a colon in it, which is not there
    if not math.isfinite(scale) or abs(scale) > 1e4:
        raise UsageError(f"{text!r} is no scale (expected a number such as 0.8).", where=FLAG, fix=f"use {FLAG} FILE:1")
    return Path(path).expanduser(), scale


def absolute(given: str) -> str:
    """The same with an absolute path."""
    path, scale = split_scale(given)
    return f"{path.resolve()}:{scale!r}"


def absolute_named(given: str) -> str:
    """The same with an absolute path, of a file that is carried."""
    path, name = split_name(given)
    return f"{path.resolve()}:{name}"


def _changed(component: Component, terms: Mapping[str, Sequence[tuple[float, Term]]]) -> Component:
    weights = dict(component.weights)
    for name, changes in terms.items():
        weights[name] = _sum(weights[name], changes)
    return replace(component, weights=weights)


def _sum(base: ir.TensorProtocol, changes: Sequence[tuple[float, Term]]) -> ir.LazyTensor:
    """The weight with changes, float32: what it is stored in is rounded to once, afterwards."""
    shape = shape_of(base)

    def read() -> np.ndarray:
        total = np.array(base.numpy(), np.float32)
        for scale, term in changes:
            total += np.float32(scale) * term.values(shape)
        return total

    return lazy(read, ir.DataType.FLOAT, shape, str(base.name))


def _alpha(tensor: ir.TensorProtocol | None, module: str, where: str) -> float | None:
    if tensor is None:
        return None
    if math.prod(shape_of(tensor)) != 1:
        what = f"{module}'s alpha is of shape {list(shape_of(tensor))} (expected one number)."
        raise CheckpointError(what, where=where, fix="download it again")
    alpha = float(np.asarray(tensor.numpy(), np.float64).reshape(()))
    if not math.isfinite(alpha):
        raise CheckpointError(f"{module}'s alpha is {alpha}.", where=where, fix="download it again")
    return alpha


def _config(file: Path, metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """peft's config by part ("" for all): beside the file, or in its metadata as diffusers writes it."""
    beside = file.parent / _CONFIG
    if file.name == "adapter_model.safetensors" and beside.is_file():
        return {"": parse_object(beside.read_bytes(), str(beside), "download it again")}
    text = metadata.get(_IN_METADATA)
    if not isinstance(text, str):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, value in parse_object(text.encode(), str(file), "download it again").items():
        part, _, name = key.partition(".")
        found.setdefault(part, {})[name] = value
    return found


def _of_config(config: Mapping[str, Mapping[str, Any]], part: str, module: str, rank: int, where: str) -> float | None:
    """A module's alpha by peft's config; None where it says none. Reference: peft's LoraConfig."""
    own = config.get(part) or config.get("") or {}
    inner = module.removeprefix(f"{part}.")
    pattern = own.get("alpha_pattern")
    special = pattern if isinstance(pattern, dict) else {}
    fits = [value for key, value in special.items() if inner == key or inner.endswith(f".{key}")]
    alpha = fits[0] if fits else own.get("lora_alpha")
    if alpha is None:
        return None
    if type(alpha) not in (int, float) or not abs(alpha) < 1e9:
        raise CheckpointError(f"{module}'s lora_alpha is no number.", where=where, fix="download it again")
    if own.get("use_dora"):
        raise CheckpointError("it is DoRA, whose formula is not here.", where=where, fix="use a LoRA")
    return float(alpha) * math.sqrt(rank) if own.get("use_rslora") else float(alpha)
