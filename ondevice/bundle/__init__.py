"""Plans, weights, kernels, tokenizer and sampler tables <-> one folder that a player replays. Specified in docs/bundle.md."""

from ondevice.bundle.manifest import PlanEntry
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.bundle.weights import WeightSource
from ondevice.bundle.writer import write_bundle

__all__ = ["Bundle", "PlanEntry", "WeightSource", "open_bundle", "write_bundle"]
