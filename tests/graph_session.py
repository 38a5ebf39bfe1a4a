"""A model's graphs in onnxruntime, as a pipeline's session: no rules, no kernels."""

import onnx_ir as ir
import onnxruntime
from diffusion.fake_networks import HostSession

from ondevice.graph.verify import verify_graph


class GraphSession(HostSession):
    """`run_of`: the components that ran."""

    def __init__(self, model):
        self.model, self._open, self.run_of = model, {}, []

    def graph(self, component, **sizes):
        return self._opened(component, sizes)[0]

    def run(self, component, inputs, **sizes):
        self.run_of.append(component)
        session = self._opened(component, sizes)[1]
        outputs = [port.name for port in session.get_outputs()]
        return dict(zip(outputs, session.run(None, dict(inputs)), strict=True))

    def _opened(self, component, sizes):
        key = component, *sorted(sizes.items())
        if key not in self._open:
            graph, options = self.model.graph(component, **sizes), onnxruntime.SessionOptions()
            verify_graph(graph)
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            text = ir.to_proto(graph).SerializeToString()
            self._open[key] = graph, onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
        return self._open[key]
