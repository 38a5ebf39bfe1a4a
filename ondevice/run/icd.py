"""Makes OpenCL drivers visible before pyopencl is imported: the embedded CPU runtime of the extra `cpu` beside the system's own.

The runtime's wheel holds an .icd file with a path that does not exist, so one that does is written; its math libraries lie where the
dynamic linker does not look, so they are loaded first. The OpenCL loader reads one folder only, hence the copies of the system's files.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ondevice.paths import cache_dir
from ondevice.publish import published_file

log = logging.getLogger(__name__)

PACKAGES = ("intel-opencl-rt", "intel-cmplr-lib-rt", "tbb")
DRIVER = "libintelocl.so"
NEEDED = ("libintlc.so.5", "libirng.so", "libsvml.so", "libimf.so", "libtbb.so.12", "libtbbmalloc.so.2")  # in the order of their needs
SYSTEM = Path("/etc/OpenCL/vendors")
VARIABLE = "OCL_ICD_VENDORS"
PREFIX = "ondevice-vendors-"  # of folders that we write: a child process inherits the variable, and must not take it for the user's
NOT_INSTALLED = 'not installed (pip install "ondevice[cpu]")'

_temporary: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def embedded_libraries() -> dict[str, Path]:
    """Shared libraries of the extra `cpu` by file name; empty where it is not installed."""
    found: dict[str, Path] = {}
    for path in _candidates():
        if path.name in (DRIVER, *NEEDED) and path.name not in found and path.exists():
            found[path.name] = path.resolve()
    return found


def _candidates() -> Iterator[Path]:
    """What the packages say they installed (right for venv, --user and --target), then the folder where their wheels put it."""
    for package in PACKAGES:
        try:
            yield from (Path(str(file.locate())) for file in importlib.metadata.files(package) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
    yield from (Path(sys.prefix, "lib", name) for name in (DRIVER, *NEEDED))


def prepare() -> str | None:
    """Point the loader at every driver. Returns why the embedded one is not among them, or None."""
    given = os.environ.get(VARIABLE)
    if given and not Path(given).name.startswith(PREFIX):
        return f"{VARIABLE}={given} is set, and only that is used"
    libraries = embedded_libraries()
    if DRIVER not in libraries:
        os.environ.pop(VARIABLE, None)  # a parent's, with another installation's driver
        return NOT_INSTALLED
    for name in NEEDED:
        if name in libraries:
            try:
                ctypes.CDLL(str(libraries[name]), ctypes.RTLD_GLOBAL)
            except OSError as error:
                return f"{name} cannot be loaded: {error}"
    os.environ[VARIABLE] = f"{_vendors(libraries[DRIVER])}{os.sep}"  # without the last slash the loader takes it for a file
    return None


def _vendors(driver: Path) -> Path:
    """A folder with an .icd for `driver` and copies of the system's. Its name is a hash of its content, so that it is never rewritten."""
    wanted = {"ondevice-embedded.icd": f"{driver}\n"}
    for path in sorted(SYSTEM.glob("*.icd")) if SYSTEM.is_dir() else []:
        try:
            wanted.setdefault(path.name, path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read, so its driver is not used: %s", path, error)
    digest = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:16]
    folder = cache_dir() / f"{PREFIX}{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fill(folder, wanted)
    except OSError as error:
        log.debug("%s cannot be written (%s); using a temporary folder", folder, error)
        _temporary.append(tempfile.TemporaryDirectory(prefix=PREFIX))
        folder = Path(_temporary[-1].name)
        _fill(folder, wanted)
    return folder


def _fill(folder: Path, wanted: dict[str, str]) -> None:
    for name, text in wanted.items():
        target = folder / name
        if not target.exists() or target.read_text() != text:
            with published_file(target) as file:
                file.write(text.encode())
