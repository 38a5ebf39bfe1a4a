"""A .tflite file run once by LiteRT's two Python runtimes."""

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.interpreter import Interpreter


def interpreted(path, shape, **inputs):
    """The first output by the interpreter, which must be of `shape`."""
    (output, *_) = Interpreter(model_path=str(path), num_threads=1).get_signature_runner()(**inputs).values()
    assert output.shape == tuple(shape)
    return output


def compiled(path, shape, **inputs):
    """The first output by CompiledModel on the CPU."""
    model = CompiledModel.from_file(str(path))
    names = model.get_signature_by_index(0)["inputs"]
    given, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    for name, buffer in zip(names, given, strict=True):
        buffer.write(inputs[name])
    model.run_by_index(0, given, outputs)
    return outputs[0].read(int(np.prod(shape)), np.float32).reshape(shape)


BOTH = (interpreted, compiled)
