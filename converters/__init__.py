"""Weights and graphs: a checkpoint becomes one ONNX graph a component."""
