"""One builder a component: ONNX graphs in plain primitives from config and weights."""
