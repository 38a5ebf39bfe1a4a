"""Makes OpenCL drivers visible before pyopencl is imported: the embedded CPU runtime of the extra `cpu` beside the system's own.

The wheel's .icd file names a path that does not exist, so one that does is written; its math libraries lie beside it where the
loader does not look, so they are loaded first.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
import os
import tempfile
from pathlib import Path

from ondevice.paths import cache_dir

log = logging.getLogger(__name__)

PACKAGES = ("intel-opencl-rt", "intel-cmplr-lib-rt", "tbb")
DRIVER = "libintelocl.so"
NEEDED = ("libintlc.so.5", "libirng.so", "libsvml.so", "libimf.so", "libtbb.so.12", "libtbbmalloc.so.2")
SYSTEM = Path("/etc/OpenCL/vendors")
VARIABLE = "OCL_ICD_VENDORS"


def embedded_libraries() -> dict[str, Path]:
    """Shared libraries of the extra `cpu` by file name; empty where it is not installed."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name in (DRIVER, *NEEDED) and (path := Path(str(file.locate()))).exists():
                found.setdefault(file.name, path.resolve())
    return found


def prepare() -> str | None:
    """Point the loader at every driver. Returns why the embedded one is not among them, or None. Does nothing twice."""
    if VARIABLE in os.environ:
        given = os.environ[VARIABLE]
        return None if given == _ours() else f"{VARIABLE}={given} is set, and only that is used"
    libraries = embedded_libraries()
    if DRIVER not in libraries:
        return 'not installed (pip install "ondevice[cpu]")'
    for name in NEEDED:
        if name in libraries:
            try:
                ctypes.CDLL(str(libraries[name]), ctypes.RTLD_GLOBAL)
            except OSError as error:
                return f"{name} cannot be loaded: {error}"
    os.environ[VARIABLE] = _vendors(libraries[DRIVER])
    return None


def _ours() -> str:
    return f"{cache_dir() / 'vendors'}{os.sep}"


def _vendors(driver: Path) -> str:
    """A folder with our .icd and copies of the system's, as the loader reads one folder only; its path ends in a slash, as it must."""
    folder = Path(_ours())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fill(folder, driver)
    except OSError as error:
        log.warning("%s cannot be written (%s); using a temporary folder", folder, error)
        folder = Path(tempfile.mkdtemp(prefix="ondevice-vendors-"))
        _fill(folder, driver)
    return f"{folder}{os.sep}"


def _fill(folder: Path, driver: Path) -> None:
    wanted = {path.name: path.read_text() for path in sorted(SYSTEM.glob("*.icd"))} if SYSTEM.is_dir() else {}
    wanted["ondevice-embedded.icd"] = f"{driver}\n"
    for stale in set(path.name for path in folder.glob("*.icd")) - set(wanted):
        (folder / stale).unlink(missing_ok=True)
    for name, text in wanted.items():
        target = folder / name
        if not target.exists() or target.read_text() != text:
            beside = folder / f".{name}.{os.getpid()}"
            beside.write_text(text)
            beside.replace(target)
