"""Weights that stay in the checkpoint's own .safetensors files: a graph refers to their bytes instead of copying them.

ONNX wants a file of weights inside the folder of the graph, and onnxruntime follows no symbolic link out of it; so each
file becomes a hard link there, which takes no space. Whatever is done to the bytes before the network runs (another
type, another order of axes, several side by side) is nodes of the graph, which runtimes compute once, on loading.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ondevice.converters.onnx_export import INLINE
from ondevice.errors import UsageError
from ondevice.graph.origin import InFile, Made, Origin, Weight, file_origin_of, in_files

log = logging.getLogger(__name__)
FLAG = "--link-weights"
TYPES = {ir.DataType.FLOAT: 4, ir.DataType.FLOAT16: 2, ir.DataType.BFLOAT16: 2}  # that every runtime casts


def linkable(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a weight is made of nothing but bytes of files."""
    origin = file_origin_of(tensor)
    return origin is not None and all(
        one.dtype in TYPES and one.offset % TYPES[one.dtype] == 0 for one in in_files(origin)
    )


def link_weights(model: ir.Model, folder: Path) -> list[ir.Value]:
    """Make the graph refer to the original files, in place, for all weights that it can, by hard links in `folder`.

    Returns:
        The initializers that are there now.

    Raises:
        UsageError: there are weights, and none of them is in such a file; or a file cannot be linked.
    """
    graph, maker, copied = model.graph, _Maker(model.graph), 0
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE:
            continue
        origin = file_origin_of(tensor)
        if origin is None or not linkable(tensor):
            copied += tensor.nbytes if isinstance(tensor, ir.LazyTensor) else 0  # tables of the graph are no weights
            continue
        maker.replace(value, origin)
    if copied and not maker.stored:
        what = "none of its weights is in a .safetensors file as the graph needs it."
        raise UsageError(what, where=f"{FLAG}: {graph.name}", fix=f"leave {FLAG} out, so that weights are copied")
    for name, path in maker.files.items():
        _link(path, folder / name)
    if maker.stored:
        linked = sum(value.const_value.nbytes for value in maker.stored if value.const_value is not None)
        files = ", ".join(str(path) for path in maker.files.values())
        what = "%s: %.1f %% of the bytes of its weights stay in %s, by a hard link beside the graph"
        log.warning(what, graph.name, 100 * linked / (linked + copied), files)
    return maker.stored


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError as error:
        what = f"{path} cannot have a hard link in the folder of the graphs ({error.strerror or error})."
        fix = f"choose an --out on the disk of the checkpoint, or leave {FLAG} out"
        raise UsageError(what, where=FLAG, fix=fix) from error


class _Maker:
    """Puts nodes before all others that make weights of files' bytes.

    `stored`: the initializers that are such bytes. `files`: the original files by the names of their links.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.first = graph, next(iter(graph))
        self.stored: list[ir.Value] = []
        self.files: dict[str, Path] = {}
        self.made: dict[Origin, ir.Value] = {}
        self.names: dict[str, int] = {}

    def replace(self, value: ir.Value, origin: Origin) -> None:
        """`value` is made of bytes of files from now on, under its name."""
        name = str(value.name)
        self.graph.initializers.pop(name)
        value.name = f"{name}:copied"
        new = self.value(origin)
        ir.convenience.replace_all_uses_with(value, new)
        if isinstance(origin, Made):
            new.name = name  # of two weights that are the same, the last one's

    def value(self, origin: Origin) -> ir.Value:
        """The value that holds it, made once."""
        if origin not in self.made:
            assert not isinstance(origin, Weight), "file_origin_of leaves these out"
            self.made[origin] = self.in_file(origin) if isinstance(origin, InFile) else self.node(origin)
        return self.made[origin]

    def in_file(self, origin: InFile) -> ir.Value:
        name, shape = self.unique(f"{origin.name}:stored"), ir.Shape(origin.shape)
        tensor = ir.ExternalTensor(
            self.file(origin.path), origin.offset, origin.length, origin.dtype, shape=shape, name=name
        )
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(origin.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        self.stored.append(value)
        return value

    def node(self, origin: Made) -> ir.Value:
        parts = [self.value(one) for one in origin.of]
        if origin.op == "Reshape":
            parts.append(self.constant(np.array(origin.value, np.int64)))
        elif origin.op == "Mul":
            parts.append(self.constant(np.array(origin.value, np.float32)))
        told = {"Cast": "to", "Transpose": "perm", "Concat": "axis"}.get(origin.op)
        name = self.unique(f"{parts[0].name}/{origin.op}")
        out = ir.Value(name=name, shape=ir.Shape(origin.shape), type=ir.TensorType(origin.dtype))
        attributes = {told: origin.value} if told else {}
        node = ir.node(origin.op, parts, attributes=attributes, outputs=[out], name=name)
        self.graph.insert_before(self.first, node)
        return out

    def constant(self, values: np.ndarray) -> ir.Value:
        name = self.unique(f"linked.{'_'.join(map(str, values.reshape(-1)))}")
        tensor = ir.tensor(values, name=name)
        fixed = ir.Shape(values.shape)
        value = ir.Value(name=name, shape=fixed, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def file(self, path: Path) -> str:
        """What the link to a file is called."""
        real = path.resolve()  # a hub's cache has symbolic links to files named by their content
        for name, known in self.files.items():
            if known == real:
                return name
        name, number = path.name, 1
        while name in self.files:
            number += 1
            name = f"{path.stem}-{number}{path.suffix}"
        self.files[name] = real
        return name

    def unique(self, name: str) -> str:
        count = self.names[name] = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"
