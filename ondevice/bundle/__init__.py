"""Plans, weights, kernels, tokenizers, sampler tables and a pipeline <-> one folder that a player replays.
Specified in docs/bundle.md."""

from ondevice.bundle.manifest import PlanEntry
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.bundle.weights import WeightSource
from ondevice.bundle.writer import Contents, TokenizerFiles, write_bundle

__all__ = [
    "Bundle",
    "Contents",
    "PipelineSpec",
    "PlanEntry",
    "TokenizerFiles",
    "WeightSource",
    "open_bundle",
    "write_bundle",
]
