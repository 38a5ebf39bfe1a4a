"""A folder of ONNX files as torch.onnx or optimum lay it out: text_encoder/model.onnx, unet/model.onnx,
vae_decoder/model.onnx, and vae_encoder/model.onnx where pictures are to be taken in.

onnx_file.py reads a file without its weights, ports.py gives it our inputs and sizes, evaluate.py makes shapes
static and folds what sizes decide, spelling.py brings every exporter's spelling to our own, imported.py runs them
in this order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import Family, check_joints
from ondevice.converters.onnx_import.imported import ImportedGraph, read_graph
from ondevice.converters.read.diffusers_folder import check_family
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.scheduler_files import read_scheduler
from ondevice.converters.read.tokenizer_files import check_vocabulary, read_tokenizer
from ondevice.errors import CheckpointError

FILE = "model.onnx"
_WEIGHTS = (".safetensors", ".bin")


def is_onnx_folder(root: Path) -> bool:
    """Whether the UNet is there as an ONNX file and not as weights, from which graphs of any size can be built."""
    unet = root / "unet"
    return (unet / FILE).is_file() and not any(file.name.endswith(_WEIGHTS) for file in unet.iterdir())


def read_onnx_folder(root: Path, family: Family) -> Checkpoint:
    """The checkpoint in the folder `root`.
    Configs, scheduler and tokenizers are the folder's own where it has them, else the family's.

    Raises:
        CheckpointError: a component is missing or damaged, or they do not fit each other.
        GraphError: a file is no graph of its component.
    """
    notes: list[str] = []
    absent: list[str] = []
    check_family(root, family)
    configs = {part: _config(root, part, family, absent) for part in family.parts}
    components = {name: Component(config, {}) for name, config in configs.items()}
    check_joints(family, configs, str(root))
    graphs: dict[str, ImportedGraph] = {}
    for name, role in family.roles.items():
        path = root / name / FILE
        if path.is_file():
            graphs[name] = read_graph(path, name, family, configs)
        elif not role.optional:
            raise CheckpointError(f"{name}/{FILE} is missing.", where=str(root), fix=_layout(family))
        else:
            notes.append(f"there is no {name}/{FILE}, so the bundle cannot begin from a picture (--init-image)")
    scheduler = root / "scheduler" / "scheduler_config.json"
    folders = {name: root / name for name in family.tokenizers}
    absent += [f"{path.name}/" for path in (scheduler.parent, *folders.values()) if not path.exists()]
    if absent:
        notes.append(f"there is no {', '.join(absent)}, so {family.name}'s own are used")
    tokenizers = {
        name: read_tokenizer(path) if path.exists() else family.tokenizer(name) for name, path in folders.items()
    }
    for name, part in family.tokenizers.items():
        check_vocabulary(tokenizers[name], configs[part], str(folders[name]))
    schedule = read_object(scheduler, _layout(family)) if scheduler.parent.exists() else family.scheduler()
    return Checkpoint(
        components, read_scheduler(root, schedule, notes), tokenizers, family.name, str(root), tuple(notes), graphs
    )


def _layout(family: Family) -> str:
    *most, last = (f"{name}/" for name, role in family.roles.items() if not role.optional)
    return f"give a folder of {', '.join(most)} and {last} with a {FILE} in each"


def _config(root: Path, part: str, family: Family, absent: list[str]) -> dict[str, Any]:
    """The part's config.json out of the folder of a role that it has, or out of its own."""
    folders = [name for name, role in family.roles.items() if role.part == part]
    for folder in dict.fromkeys((*folders, part)):
        path = root / folder / "config.json"
        if path.exists():
            return family.normalize(part, read_object(path, _layout(family)), str(path))
    absent.append(f"{folders[0]}/config.json")
    return family.config(part)
