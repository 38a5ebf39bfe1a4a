"""Read a checkpoint in diffusers' layout: one folder per component,
each with config.json and one or several weight files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx_ir as ir

from ondevice.converters.component import Checkpoint, Component, fitted, listed
from ondevice.converters.families import FAMILIES, Family, advice, check_joints
from ondevice.converters.families.tiny import is_tiny, with_tiny_vae
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.names import is_clip_only, is_ignorable
from ondevice.converters.read.scheduler_files import read_scheduler
from ondevice.converters.read.tokenizer_files import check_vocabulary, read_tokenizer
from ondevice.converters.read.weights_file import read_weights, without_wrappers
from ondevice.errors import CheckpointError

_LAYOUT = "give a folder in diffusers' layout"
_VARIANT = re.compile(r"(?:diffusion_pytorch_model|pytorch_model|model)\.([A-Za-z0-9_-]{1,40})\.(?:safetensors|bin)")
_OTHER_FRAMEWORKS = (".msgpack", ".h5")
Stems = tuple[str, str]  # of .safetensors and .bin files (Architecture.stems)


@dataclass(frozen=True, slots=True)
class WeightChoice:
    """A component's weight file, or the index of its shards;
    `note` says what was taken instead of what was asked for."""

    file: str
    note: str = ""

    @property
    def is_index(self) -> bool:
        """Whether the file lists shards instead of holding tensors."""
        return self.file.endswith(".json")


def _names(stem: str, suffix: str, variant: str | None) -> tuple[str, ...]:
    """File names to look for, best first. diffusers has written a variant's index in two spellings."""
    if variant is None:
        return f"{stem}.{suffix}", f"{stem}.{suffix}.index.json"
    return (
        f"{stem}.{variant}.{suffix}",
        f"{stem}.{suffix}.index.{variant}.json",
        f"{stem}.{variant}.{suffix}.index.json",
    )


def choose_weights(
    component: str, stems: Stems, files: Sequence[str], variant: str | None, where: str, *, mixed: bool = False
) -> WeightChoice:
    """Which of `files` (names inside the component's folder) holds the weights.

    .safetensors goes before .bin. Without a variant the plain file is taken, or the fp16 one where there is no
    other, with a note. With one that only other components have (`mixed`) the plain file is taken with a note, as
    diffusers does.
    Raises CheckpointError listing what is there.
    """
    for kind in [variant, *([None] if mixed else [])] if variant else [None, "fp16"]:
        if name := _file_of(stems, files, kind):
            return WeightChoice(name, f"{component}: only {name} is there, so it was taken" if kind != variant else "")
    found = ", ".join(sorted(files)[:20]) or "nothing"
    what = f"no weights of variant {variant!r}" if variant else "no weights"
    if variant:
        fix = "leave the variant out or name one that is there"
    elif there := sorted({match[1] for name in files if (match := _VARIANT.fullmatch(name))}):
        fix = f"name the variant that is there with --variant {there[0]}"
    elif any(name.endswith(_OTHER_FRAMEWORKS) for name in files):
        fix = "use weights for PyTorch, as .safetensors or .bin: these are for Flax or TensorFlow"
    else:
        fix = "download the folder again, weights included"
    expected = _names(stems[0], "safetensors", variant)[0]
    raise CheckpointError(f"{what} (found {found}; expected {expected}).", where=where, fix=fix)


def _file_of(stems: Stems, files: Sequence[str], variant: str | None) -> str | None:
    safe, binary = stems
    return next(
        (name for name in (*_names(safe, "safetensors", variant), *_names(binary, "bin", variant)) if name in files),
        None,
    )


def is_somewhere(variant: str | None, family: Family, files: Mapping[str, Sequence[str]]) -> bool:
    """Whether a part has weights of `variant`; `files` are the names inside each part's folder."""
    return variant is not None and any(
        _file_of(family.parts[part].architecture.stems, names, variant) for part, names in files.items()
    )


def shards_of(folder: Path, index_name: str) -> dict[str, list[str]]:
    """{shard file: its weights} from an index file. Raises CheckpointError for shards outside the folder."""
    path = folder / index_name
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(
            "the index has no weight_map of file names.", where=str(path), fix="download the file again"
        )
    shards: dict[str, list[str]] = {}
    for weight, file in weight_map.items():
        if PurePosixPath(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise CheckpointError(
                f"the index names a file outside its folder ({file[:200]!r}).",
                where=str(path),
                fix="use another checkpoint",
            )
        shards.setdefault(file, []).append(weight)
    return shards


def _read_weights(folder: Path, choice: WeightChoice) -> dict[str, ir.LazyTensor]:
    if not choice.is_index:
        return read_weights(folder / choice.file).tensors
    found: dict[str, ir.LazyTensor] = {}
    for file, weights in shards_of(folder, choice.file).items():
        tensors = read_weights(folder / file).tensors
        weights = [without_wrappers(name) for name in weights]
        absent = [name for name in weights if name not in tensors]
        if absent:
            raise CheckpointError(
                f"the index places {absent[0][:200]} in {file}, which does not hold it.",
                where=str(folder / choice.file),
                fix="download the folder again",
            )
        found |= {name: tensors[name] for name in weights}
    return found


def read_component(
    folder: Path, family: Family, part: str, variant: str | None, notes: list[str], *, mixed: bool = False
) -> Component:
    """The part in its own folder, config.json and weights;
    what was taken instead of what was asked for is added to `notes`.

    `mixed`: as `choose_weights` takes it. Raises CheckpointError and WeightsError.
    """
    network = family.parts[part].architecture
    if not folder.is_dir():
        root = folder.parent
        pipeline = _pipeline(root)
        other = pipeline not in (None, *family.pipelines)
        what = f"the folder {part}/ is missing" + (
            f" (model_index.json says that this is a {pipeline})." if other else "."
        )
        raise CheckpointError(what, where=str(root), fix=advice(None, family, "model") if other else _LAYOUT)
    path = folder / "config.json"
    config = family.normalize(part, read_object(path, _LAYOUT), str(path))
    choice = choose_weights(part, network.stems, _listing(folder), variant, str(folder), mixed=mixed)
    if choice.note:
        notes.append(choice.note)
    needed = network.weights(config)
    found: dict[str, ir.TensorProtocol] = {}
    unused: list[str] = []
    for name, tensor in _read_weights(folder, choice).items():
        to = network.canonical(name)
        if network.vain(to, config):
            continue
        if to not in needed and is_ignorable(name):
            unused += [name] if is_clip_only(name) else []
        elif network.beyond(to, config):
            unused.append(to)
        elif to in found:
            raise CheckpointError(
                f"the weight {to} is there under two names.",
                where=str(folder / choice.file),
                fix="use another checkpoint",
            )
        else:
            found[to] = tensor
    if unused:
        notes.append(f"{part}: weights that a {network.word} has no use for were ignored: {listed(unused, most=2)}")
    return fitted(family, part, config, found, str(folder / choice.file))


def _has_tiny_vae(root: Path, family: Family) -> bool:
    path = family.place(root, "vae") / "config.json"
    return path.is_file() and is_tiny(read_object(path, _LAYOUT))


def _listing(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()] if folder.is_dir() else []


def _pipeline(root: Path) -> str | None:
    """The class of diffusers that draws with the folder, if it says so."""
    path = root / "model_index.json"
    name = read_object(path, _LAYOUT).get("_class_name") if path.is_file() else None
    return name[:100] if isinstance(name, str) else None


def check_family(root: Path, family: Family) -> None:
    """Refuse the folder of another family that we have, by its networks' numbers, or else by its pipeline's class
    (several draw with the same networks). Raises CheckpointError."""
    pipeline = _pipeline(root)
    theirs = [other.title for other in FAMILIES.values() if pipeline in other.pipelines]
    paths = {part: root / part / "config.json" for part in family.parts}
    kind = family.kind({part: read_object(path, _LAYOUT) for part, path in paths.items() if path.is_file()})
    if any(other.title == kind for other in FAMILIES.values()):
        reason = "by the numbers in its configs"
    elif theirs and family.title not in theirs:
        kind, reason = theirs[0], f"its model_index.json names {pipeline}"
    else:
        return
    if kind == family.title:
        return
    raise CheckpointError(f"this is {kind}, not {family.title} ({reason}).", where=str(root), fix=advice(kind, family))


def read_folder(
    root: Path, family: Family, variant: str | None, given: Mapping[str, Component] | None = None
) -> Checkpoint:
    """The checkpoint in the folder `root`.
    Configs, scheduler and tokenizers are the folder's own; parts in `given` are taken instead.

    Raises CheckpointError.
    """
    notes: list[str] = []
    parts = given or {}
    check_family(root, family)
    if "vae" not in parts and _has_tiny_vae(root, family):
        family = with_tiny_vae(family)
    own = {name: family.place(root, name) for name in family.parts if name not in parts}
    mixed = is_somewhere(variant, family, {name: _listing(folder) for name, folder in own.items()})
    read = {name: read_component(folder, family, name, variant, notes, mixed=mixed) for name, folder in own.items()}
    components = {name: parts[name] if name in parts else read[name] for name in family.parts}
    check_joints(family, {name: component.config for name, component in components.items()}, str(root))
    scheduler = family.scheduler()
    if not family.own_scheduler:
        noise = family.place(root, "scheduler")
        scheduler = read_scheduler(noise.parent, read_object(noise / "scheduler_config.json", _LAYOUT), notes)
    kinds = {name: family.parts[part].architecture.tokenizer for name, part in family.tokenizers.items()}
    tokenizers = {name: read_tokenizer(family.place(root, name), kind) for name, kind in kinds.items()}
    for name, part in family.tokenizers.items():
        check_vocabulary(tokenizers[name], components[part].config, str(family.place(root, name)), kinds[name])
    return Checkpoint(components, scheduler, tokenizers, family.name, str(root), tuple(notes))
