"""A component whose graph someone else exported:
checked, brought to the size asked for and to our own graphs' spelling."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, InlinePass, NameFixPass

from ondevice.converters.architectures.builder import OPSET
from ondevice.converters.families import Family
from ondevice.converters.onnx_import.evaluate import evaluate, shape_of
from ondevice.converters.onnx_import.naming import fit_names
from ondevice.converters.onnx_import.onnx_file import OnnxFile, read_onnx
from ondevice.converters.onnx_import.ports import adapt, misfit, ports
from ondevice.converters.onnx_import.spelling import FORMS, NATIVE, respell
from ondevice.errors import GraphError, OnDeviceError
from ondevice.graph.verify import verify_graph

log = logging.getLogger(__name__)
OPSETS = range(13, 26)  # torch.onnx labels what it writes at 26 and above as 18, which no reader can undo
RESIZE = "choose the --size that it is fixed to, or export it again with dynamic axes"
EXPORT_AGAIN = "export the model again with torch.onnx at one of the opsets 17 to 25"


@dataclass(frozen=True, slots=True)
class ImportedGraph:
    """One role of a family in a folder of ONNX files. `configs` by part."""

    role: str
    file: OnnxFile
    family: Family
    configs: dict[str, dict[str, Any]]

    @property
    def path(self) -> Path:
        """Of the .onnx file."""
        return self.file.path

    def misfit(self, **sizes: int) -> str | None:
        """Why the file has no graph of these sizes (batch, height, width); None if it has.

        Raises:
            CheckpointError: the file is damaged.
            GraphError: it is no graph of this component.
        """
        return misfit(self._read().graph, ports(self.family, self.role, self.configs, **sizes), str(self.path))

    def graph(self, **sizes: int) -> ir.Model:
        """A fresh graph in the primitives and the spelling of our own builders:
        static shapes, opset 18, lazy float32 weights.

        Raises:
            CheckpointError: the file is damaged.
            GraphError: it is fixed to another size, or holds what we do not support; names the node.
        """
        model, where = self._read(), str(self.path)
        wanted = ports(self.family, self.role, self.configs, **sizes)
        if reason := misfit(model.graph, wanted, where):
            raise GraphError(f"{reason}.", where=where, fix=RESIZE)
        try:
            InlinePass()(model)
            adapt(model, wanted, where)
            legalise(model, where)
        except OnDeviceError:
            raise
        except Exception as error:  # a damaged file can be a graph that onnx and onnx_ir stumble over anywhere
            log.debug("%s", where, exc_info=True)
            reason = f"{type(error).__name__}: {str(error)[:120]}"
            raise GraphError(
                f"its graph cannot be brought to our form ({reason}).", where=where, fix=EXPORT_AGAIN
            ) from None
        try:
            verify_graph(model)
        except GraphError as error:
            raise GraphError(error.what, where=f"{where}: {error.where}", fix=error.fix or EXPORT_AGAIN) from None
        for value in model.graph.outputs:
            result, expected = shape_of(value), wanted.outputs[str(value.name)]
            if result != expected:
                what = f"its output is {list(result or ())} (expected {value.name} {list(expected)})."
                raise GraphError(
                    what, where=where, fix="give the config.json that belongs to the file, or the model's family"
                )
        return model

    def _read(self) -> ir.Model:
        model = self.file.model()
        opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0))
        if opset not in OPSETS:
            what = f"it is of opset {opset} (expected {OPSETS[0]} to {OPSETS[-1]})."
            raise GraphError(what, where=str(self.path), fix=EXPORT_AGAIN)
        return model


def read_graph(path: Path, role: str, family: Family, configs: dict[str, dict[str, Any]]) -> ImportedGraph:
    """The role's graph in the file at `path`. Raises CheckpointError and GraphError as its methods do."""
    found = ImportedGraph(role, read_onnx(path), family, configs)
    found.misfit(batch=1, height=1, width=1)
    return found


def legalise(model: ir.Model, where: str) -> None:
    """Bring a graph whose inputs have static shapes to opset 18 and to our own graphs' spelling, in place.
    Raises GraphError."""
    imports = model.graph.opset_imports
    evaluate(model, where)
    respell(model, NATIVE)
    imports[""] = max(imports.get("", OPSET), OPSET)
    evaluate(model, where)  # masks become constants, which the forms ask for
    respell(model, FORMS)
    imports.clear()
    imports[""] = OPSET
    evaluate(model, where)
    _tidy(model)


def _tidy(model: ir.Model) -> None:
    """Names for what rules made, none twice; no traces of the exporter."""
    model.ir_version, model.producer_name = 10, "ondevice"
    ClearMetadataAndDocStringPass()(model)
    fit_names(model)  # those of functions, which are inlined now
    NameFixPass()(model)
    for node in model.graph:
        node.name = node.name or f"{node.outputs[0].name}/{node.op_type}"
