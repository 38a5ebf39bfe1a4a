"""A Core ML package: the folder NAME.mlpackage, with the model's description, its program and its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ondevice.errors import GraphError
from ondevice.export.coreml.program import WeightFile
from ondevice.export.coreml.tools import ModelPackage, features, mil, models
from ondevice.export.manifest import Port

SPECIFICATIONS = {17: 8, 18: 9}  # by version of iOS
_AUTHOR = "com.apple.CoreML"
_ARRAY = features.ArrayFeatureType
_DTYPES = {"float32": _ARRAY.FLOAT32, "float16": _ARRAY.FLOAT16, "int32": _ARRAY.INT32}


def save_package(
    path: Path,
    program: Callable[[WeightFile], mil.Program],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    ios: int,
) -> None:
    """Write the package `path`, which must end in .mlpackage and not be there yet.

    Args:
        program: makes the program and puts its weights into the file, which is in its place in the package already:
            weights are written once.
        ios: the version from which on devices can run it.

    Raises:
        GraphError: the files cannot be written; or `program` raises it.
    """
    try:
        _lay_out(path)
        inside = path / "Data" / _AUTHOR
        model = models.Model(specificationVersion=SPECIFICATIONS[ios])
        for described, ports in ((model.description.input, inputs), (model.description.output, outputs)):
            for port in ports:
                array = described.add(name=port.name).type.multiArrayType
                array.shape.extend(port.shape)
                array.dataType = _DTYPES[port.dtype]
        model.mlProgram.CopyFrom(program(WeightFile(inside / "weights" / "weight.bin")))
        (inside / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    except (OSError, RuntimeError) as error:  # the latter from coremltools' libraries
        what = f"cannot be written ({getattr(error, 'strerror', None) or error})."
        raise GraphError(what, where=path.name, fix="free space on this disk, or choose another path") from error


def _lay_out(path: Path) -> None:
    """The folders and Manifest.json, by Core ML's own library; it copies what it is given, so that is empty yet."""
    with tempfile.TemporaryDirectory() as name:
        model, weights = Path(name) / "model.mlmodel", Path(name) / "weights"
        model.touch()
        weights.mkdir()
        package = ModelPackage(str(path))
        package.setRootModel(str(model), model.name, _AUTHOR, "CoreML Model Specification")
        package.addItem(str(weights), weights.name, _AUTHOR, "CoreML Model Weights")
        del package  # which writes the manifest
