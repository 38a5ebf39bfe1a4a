"""A graph as an .onnx file with its weights beside it, for onnxruntime and any other reader of ONNX."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir

from ondevice.base.publish import FULL, hidden_folder
from ondevice.errors import GraphError

INLINE = 256  # bytes up to which a weight is in the model's own file


def save_onnx(model: ir.Model, path: str | os.PathLike[str], linked: Collection[ir.Value] = ()) -> Path:
    """Write `model` to `path` and its weights to `path` + ".data", which must stay beside it;
    a file that is there is replaced.

    Weights are read, written and forgotten one by one, so that memory holds the largest of them and not the model. Both
    files are written in a hidden folder beside `path` and moved when they are whole. Between the two moves an old model
    would read the new weights, so the old model goes first.

    Args:
        linked: initializers that are in files beside `path` already, as external tensors say, and stay there.

    Returns:
        `path`.

    Raises:
        GraphError: the folder does not exist, or the files cannot be written.
    """
    target = Path(path)
    data = target.with_name(f"{target.name}.data")
    if not target.parent.is_dir():
        raise GraphError(
            f"the folder {target.parent} does not exist.", where=target.name, fix="create it, or choose another path"
        )
    if taken := [p.name for p in (target, data) if p.is_dir()]:
        raise GraphError(f"{taken[0]} is a folder.", where=str(target), fix="choose another path")
    try:
        with hidden_folder(target, GraphError) as (folder, _):
            beside, weights = folder / target.name, folder / data.name
            _save(model, beside, data.name, linked)
            target.unlink(missing_ok=True)
            if weights.exists() and weights.stat().st_size:
                os.replace(weights, data)
            else:  # every weight was small enough for the model's own file
                data.unlink(missing_ok=True)
            os.replace(beside, target)
    except OSError as error:
        fix = "free space on this disk, or choose another path" if error.errno in FULL else "choose another path"
        # Not the whole path, which may lead through a hidden folder.
        raise GraphError(
            f"cannot be written ({error.strerror or error}).", where=f"{target.parent.name}/{target.name}", fix=fix
        ) from error
    return target


def _save(model: ir.Model, path: Path, data: str, linked: Collection[ir.Value]) -> None:
    """Write weights to the file `data` beside `path`, then the model; it keeps its lazy weights."""
    stay = set(linked)
    every = [value for graph in model.graphs() for value in graph.initializers.values() if value not in stay]
    lazy = {value: tensor for value in every if (tensor := value.const_value) is not None}
    large = {value: tensor for value, tensor in lazy.items() if tensor.nbytes > INLINE}
    try:
        if large:
            written = ir.external_data.convert_tensors_to_external([*large.values()], path.parent, data)
            for value, tensor in zip(large, written, strict=True):
                value.const_value = tensor
        for value, tensor in lazy.items():
            if value not in large:  # read here: ir.save would hide what a reader raises
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        ir.save(model, path, format="protobuf")
    finally:
        for value, tensor in lazy.items():
            value.const_value = tensor
