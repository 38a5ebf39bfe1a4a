"""ondevice: Stable Diffusion checkpoints into dispatch plans that phone GPUs replay."""

import os
import sys

__version__ = "0.1.0"

# Python says "-m" here while it looks for the module of `python -m`. What a verb imports takes a second, in which a signal is heard, too.
if sys.argv[:1] == ["-m"]:
    try:
        from ondevice.base.process import signals

        if signals.is_verb(sys.orig_argv):
            signals.install()
    except KeyboardInterrupt:
        os._exit(130)
