"""TFLite files of graphs, run by LiteRT's interpreter, and what is in them."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from ondevice.export.tflite.emit import emit
from ondevice.export.tflite.file import Model
from ondevice.export.tflite.weights import Storage
from ondevice.export.tflite.words import FIRST, LAST

CODES = {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}
KERNELS = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}


def write_tflite(model, path):
    """The file of a graph."""
    content = Model("net")
    ports = emit(model.graph, content, Storage())
    content.write(path, *({name: tensor.number for name, tensor in table.items()} for table in ports))
    return path


def by_litert(path, inputs, kernels="xnnpack"):
    """Every result by name, with our axes; the ports' four axes are turned on the way."""
    interpreter = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=KERNELS[kernels])
    run = interpreter.get_signature_runner("serving_default")
    found = run(**{name: x.transpose(LAST) if x.ndim == 4 else x for name, x in inputs.items()})
    return {name: y.transpose(FIRST) if y.ndim == 4 else y for name, y in found.items()}


def read_tflite(path):
    """The file's content as the schema's objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))


def codes(content):
    """The ops of the main graph, in order."""
    return [CODES[content.operatorCodes[op.opcodeIndex].builtinCode] for op in content.subgraphs[0].operators]


def error(got, want):
    """The largest difference, in terms of the largest number."""
    assert got.shape == want.shape
    return np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)
