"""Every reader, by name. A new reader of files that nobody vouches for is a `Reader` in one of these modules.

Seeds are made from small data by the same builders that the tests use, which lie in tests/.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.fuzz.reader import Reader

MODULES = tuple(
    f"{__name__}.{name}"
    for name in (
        "weights",
        "adapters",
        "controlnets",
        "tiny",
        "tokenizers",
        "configs",
        "bundles",
        "exports",
        "pipelines",
        "tables",
        "pictures",
        "sessions",
        "requests",
        "graphs",
        "packages",
        "training",
    )
)


def all_readers(*modules: str) -> dict[str, Reader]:
    """Readers by name, of these modules instead of ours where any are named.
    Imports what they read with: call coverage.install first."""
    tests = str(Path(__file__).resolve().parents[3] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    found = [reader for module in modules or MODULES for reader in importlib.import_module(module).READERS]
    return {reader.name: reader for reader in found}
