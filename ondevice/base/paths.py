"""Where the package's data folders are, in a checkout, an editable install and a wheel; and where caches go."""

from __future__ import annotations

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]
# In a checkout `shaders/` stands beside the package; in a wheel it is installed inside it.
SHADERS = next((p for p in (_HERE / "shaders", _HERE.parent / "shaders") if p.is_dir()), _HERE / "shaders")
TUNING = SHADERS / "tuning"
TARGETS = _HERE / "targets"
MODELS = _HERE / "models"


def cache_dir() -> Path | None:
    """Folder for compiled kernels: `ONDEVICE_CACHE`, else `ondevice` in `$XDG_CACHE_HOME` or `~/.cache`;
    None where there is no home."""
    if given := os.environ.get("ONDEVICE_CACHE"):
        try:
            return Path(os.path.abspath(os.path.expanduser(given)))
        except OSError:  # relative to a working directory that has gone
            return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the standard says that a relative one counts for nothing
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ondevice" if os.path.isabs(base) else None


def is_file(path: Path) -> bool:
    """Whether there is such a file; not where the name is none that a file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than names may be; with a null, or what no text is
        return False
