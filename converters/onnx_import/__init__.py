"""A folder of ONNX files as torch.onnx or optimum lay it out: text_encoder/model.onnx, unet/model.onnx, vae_decoder/model.onnx, and
vae_encoder/model.onnx where pictures are to be taken in.

onnx_file.py reads a file without its weights, ports.py gives it our inputs and sizes, evaluate.py makes shapes static and folds what sizes
decide, spelling.py brings every exporter's spelling to our own, imported.py runs them in this order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ondevice.converters.component import Checkpoint, Component, check_joints
from ondevice.converters.configs import normalize
from ondevice.converters.families import Family
from ondevice.converters.onnx_import.imported import ImportedGraph, read_graph
from ondevice.converters.read.json_text import read_object
from ondevice.converters.read.scheduler_files import read_scheduler
from ondevice.converters.read.tokenizer_files import check_vocabulary, read_tokenizer
from ondevice.errors import CheckpointError

FILE = "model.onnx"
REQUIRED = ("text_encoder", "unet", "vae_decoder")
OPTIONAL = "vae_encoder"
_CONFIGS = {"text_encoder": ("text_encoder",), "unet": ("unet",), "vae": ("vae_decoder", "vae_encoder", "vae")}
_LAYOUT = "give a folder of text_encoder/, unet/ and vae_decoder/ with a model.onnx in each"
_WEIGHTS = (".safetensors", ".bin")


def is_onnx_folder(root: Path) -> bool:
    """Whether the UNet is there as an ONNX file and not as weights, from which graphs of any size can be built."""
    unet = root / "unet"
    return (unet / FILE).is_file() and not any(file.name.endswith(_WEIGHTS) for file in unet.iterdir())


def read_onnx_folder(root: Path, family: Family) -> Checkpoint:
    """The checkpoint in the folder `root`. Configs, scheduler and tokenizer are the folder's own where it has them, else the family's.

    Raises:
        CheckpointError: a component is missing or damaged, or they do not fit each other.
        GraphError: a file is no graph of its component.
    """
    notes: list[str] = []
    absent: list[str] = []
    configs = {name: _config(root, name, family, absent) for name in _CONFIGS}
    components = {name: Component(config, {}) for name, config in configs.items()}
    check_joints(components, str(root))
    graphs: dict[str, ImportedGraph] = {}
    for name in (*REQUIRED, OPTIONAL):
        path = root / name / FILE
        if path.is_file():
            graphs[name] = read_graph(path, name, configs)
        elif name in REQUIRED:
            raise CheckpointError(f"{name}/{FILE} is missing.", where=str(root), fix=_LAYOUT)
        else:
            notes.append(f"there is no {name}/{FILE}, so the bundle cannot begin from a picture (--init-image)")
    scheduler, tokenizer = root / "scheduler" / "scheduler_config.json", root / "tokenizer"
    absent += [f"{path.name}/" for path in (scheduler.parent, tokenizer) if not path.exists()]
    if absent:
        notes.append(f"there is no {', '.join(absent)}, so {family.name}'s own are used")
    files = read_tokenizer(tokenizer) if tokenizer.exists() else family.tokenizer()
    check_vocabulary(files, configs["text_encoder"], str(tokenizer))
    schedule = read_object(scheduler, _LAYOUT) if scheduler.parent.exists() else family.scheduler()
    return Checkpoint(components, read_scheduler(root, schedule, notes), files, family.name, str(root), tuple(notes), graphs)


def _config(root: Path, component: str, family: Family, absent: list[str]) -> dict[str, Any]:
    for folder in _CONFIGS[component]:
        path = root / folder / "config.json"
        if path.exists():
            return normalize(component, read_object(path, _LAYOUT), str(path))
    absent.append(f"{_CONFIGS[component][0]}/config.json")
    return family.config(component)
