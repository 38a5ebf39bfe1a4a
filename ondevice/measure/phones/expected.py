"""What was to be expected of a picture on a phone: its time by the model of time, its memory by the plans."""

from __future__ import annotations

from ondevice.bundle.reader import Bundle
from ondevice.diffusion.memory_budget import Way, need
from ondevice.errors import OnDeviceError
from ondevice.measure.phones.result import Predicted, Result
from ondevice.measure.predict.prediction import of_bundle
from ondevice.target import load_target, target_names


def expected_of(bundle: Bundle, result: Result) -> Predicted:
    """Of the picture that was measured, by the plans that it was measured with; what is not known is left out."""
    name = str(result.data.get("plans") or bundle.target or bundle.model.get("target") or "")
    if bundle.manifest.targets and name in [target.name for target in bundle.manifest.targets]:
        bundle = bundle.for_target(name)
    scale = bundle.pipeline.latents.scale
    try:
        device_bytes = need(bundle, result.size[0] // scale, result.size[1] // scale, Way()).device
    except OnDeviceError:  # drawn in a way that is not this one
        device_bytes = 0
    if name not in target_names() or load_target(name).roofline is None:
        return Predicted(name, None, device_bytes)
    try:
        seconds = of_bundle(bundle, load_target(name), result.steps, result.size).seconds
    except OnDeviceError:
        seconds = None
    return Predicted(name, seconds, device_bytes)
