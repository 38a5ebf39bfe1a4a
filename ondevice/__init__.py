"""ondevice: Stable Diffusion checkpoints into dispatch plans that phone GPUs replay.

from ondevice import Pipeline

pipe = Pipeline.from_bundle("sd14.ondevice")         # or Pipeline.from_pretrained(PATH_OR_HUB_ID)
pipe("a red circle", num_inference_steps=20).images[0].save("circle.png")
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ondevice.api import Pipeline as Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__"]

# Python says "-m" here while it looks for the module of `python -m`. What a verb imports takes a second, in which a
# signal is heard, too.
if sys.argv[:1] == ["-m"]:
    try:
        from ondevice.base.process import signals

        if signals.is_verb(sys.orig_argv):
            signals.install()
    except KeyboardInterrupt:
        os._exit(130)


def __getattr__(name: str) -> Any:
    """`Pipeline` is imported when it is asked for: it takes a second, and not every verb needs it."""
    if name == "Pipeline":
        from ondevice.api import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
