"""An environment of its own for what ours cannot hold: another version of a package, or gigabytes that few need."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of the environment at `folder`, with torch and `packages`; it is made where it is not there."""
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists() or made.read_text().split("\n") != [*packages]:
        venv.create(folder, with_pip=True, clear=True)
        for some in ((TORCH,), packages):  # torch first and alone: see the Makefile
            subprocess.run([python, "-m", "pip", "install", "--quiet", *some], check=True)
        made.write_text("\n".join(packages))
    return python
