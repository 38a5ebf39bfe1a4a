"""Small graphs from text, what is in them, and what onnxruntime makes of them."""

import collections

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.plan import plan
from ondevice.rewrite.functions import DOMAIN
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session


def graph(text, **constants):
    """A graph from ONNX's text form, shapes inferred; inputs named in `constants` become initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {text}')
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    for value in [v for v in model.graph.inputs if v.name in constants]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(np.asarray(constants[value.name]), name=value.name)
        model.graph.register_initializer(value)
    return model


def ops(model):
    return collections.Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph)


def fused_ops(model):
    return dict(collections.Counter(n.op_type for n in model.graph if n.domain == DOMAIN))


def feed(model, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {}
    for value in model.graph.inputs:
        shape = [int(dim) for dim in value.shape]
        integer = value.dtype == ir.DataType.INT32
        inputs[value.name] = (
            rng.integers(0, 50, shape).astype(np.int32) if integer else rng.standard_normal(shape, dtype=np.float32)
        )
    return inputs


def by_onnxruntime(model, inputs, every=False):
    """The first output, or `every` one."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, inputs)
    return outputs if every else outputs[0]


def on_device(model, inputs, target=None, storage="f32", every=False, **options):
    """The first output as the device computes it, or `every` one."""
    program = lower(model, "net", storage=storage, target=target, **options)
    bundle = MemoryBundle([plan(program, storage=storage)], weight_sources(program), load_all())
    outputs = Session(bundle, choose_device()).run("net", inputs)
    return [outputs[value.name] for value in model.graph.outputs] if every else outputs[model.graph.outputs[0].name]
