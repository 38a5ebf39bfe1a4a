"""Where the package's data folders are, in a checkout, an editable install and a wheel; and where caches go."""

from __future__ import annotations

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# In a checkout `shaders/` stands beside the package; in a wheel it is installed inside it.
SHADERS = next((p for p in (_HERE / "shaders", _HERE.parent / "shaders") if p.is_dir()), _HERE / "shaders")
TUNING = SHADERS / "tuning"
TARGETS = _HERE / "targets"
MODELS = _HERE / "models"


def cache_dir() -> Path:
    """Folder for compiled kernels. `ONDEVICE_CACHE` overrides `$XDG_CACHE_HOME/ondevice`."""
    if given := os.environ.get("ONDEVICE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ondevice"
