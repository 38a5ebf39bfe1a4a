"""Makes OpenCL drivers visible before pyopencl is imported:
the embedded CPU runtime of the extra `cpu` beside the system's own.

The runtime's wheel holds an .icd file with a path that does not exist, so one that does is written; its math libraries
lie where the dynamic linker does not look, so they are loaded first. The OpenCL loader reads one folder only, hence the
copies of the system's files.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ondevice.base.paths import cache_dir
from ondevice.base.publish import published_file

log = logging.getLogger(__name__)

PACKAGES = ("intel-opencl-rt", "intel-cmplr-lib-rt", "tbb")
DRIVER = "libintelocl.so"
# in the order of their needs
NEEDED = ("libintlc.so.5", "libirng.so", "libsvml.so", "libimf.so", "libtbb.so.12", "libtbbmalloc.so.2")
SYSTEM = Path("/etc/OpenCL/vendors")
VARIABLE = "OCL_ICD_VENDORS"
# of folders that we write: a child process inherits the variable, and must not take it for the user's
PREFIX = "ondevice-vendors-"
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
    """What the packages say they installed (right for venv, --user and --target),
    then the folder where their wheels put it."""
    for package in PACKAGES:
        try:
            yield from (Path(str(file.locate())) for file in importlib.metadata.files(package) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
    yield from (Path(sys.prefix, "lib", name) for name in (DRIVER, *NEEDED))


def prepare() -> str | None:
    """Point the loader at every driver. Returns why the embedded one is not among them, or None."""
    if given := users_choice():
        return f"{VARIABLE}={given} is set, and only that is used"
    libraries = embedded_libraries()
    if DRIVER not in libraries:
        os.environ.pop(VARIABLE, None)  # a parent's, with another installation's driver
        return NOT_INSTALLED
    if why := _misplaced(libraries[DRIVER]):
        os.environ.pop(VARIABLE, None)
        return why
    if why := _load(libraries):
        return why
    os.environ[VARIABLE] = _visible(libraries[DRIVER])
    return None


def users_choice() -> str | None:
    """OCL_ICD_VENDORS where a user set it; None where it is not set, or by us in a parent process."""
    given = os.environ.get(VARIABLE, "")
    name = Path(given).name
    return None if not given or name.startswith(PREFIX) or name == DRIVER else given


def remedy() -> str | None:
    """What makes drivers visible that are on this machine; None where nothing hides them."""
    if users_choice():
        return f"unset {VARIABLE}"
    libraries = embedded_libraries()
    if DRIVER in libraries and _misplaced(libraries[DRIVER]):
        return "make the virtual environment in a folder whose path has no space"
    if DRIVER in libraries and (_load(libraries) or _refusal(str(libraries[DRIVER]))):
        again = f"run pip install --force-reinstall {' '.join(PACKAGES)}"
        return f"unset LD_LIBRARY_PATH, or {again}" if os.environ.get("LD_LIBRARY_PATH") else again
    return None


def broken() -> list[str]:
    """What is wrong with the drivers that the loader was pointed at: it says nothing of those it cannot load."""
    place = Path(os.environ.get(VARIABLE) or SYSTEM)
    remarks = []
    for path in sorted(place.glob("*.icd")) if place.is_dir() else []:
        with contextlib.suppress(OSError):
            if not (named := os.fsdecode(path.read_bytes()).strip()):
                continue
            if why := _refusal(named):
                shown = SYSTEM / path.name if (SYSTEM / path.name).exists() else path
                remarks.append(f"{shown} names {named}, which cannot be loaded ({why})")
    return remarks


def _misplaced(driver: Path) -> str | None:
    """Why the driver cannot work where it lies; None if it can. It reads its own path from /proc/self/maps, up to the
    first white space, and then finds neither its configuration nor its built-in functions: no context can be made."""
    return (
        f"{driver.parent} has a space in it, where it does not find its own files"
        if len(str(driver).split()) > 1
        else None
    )


def _load(libraries: dict[str, Path]) -> str | None:
    """Load what the driver needs, in order. Returns what is wrong with it, or None."""
    for name in NEEDED:
        if name in libraries and (why := _refusal(str(libraries[name]), ctypes.RTLD_GLOBAL)):
            return f"{name} cannot be loaded: {why}"
    return None


def _refusal(library: str, mode: int = ctypes.DEFAULT_MODE) -> str | None:
    """Load a library. Returns why the system cannot, or None."""
    try:
        ctypes.CDLL(library, mode)
    except OSError as error:
        return str(error)
    except UnicodeDecodeError:  # of the system's own words, which have the path in them
        return "it is not there, or is no library"
    return None


def _visible(driver: Path) -> str:
    """A value of the variable that shows `driver` and the system's."""
    wanted = {"ondevice-embedded.icd": os.fsencode(driver) + b"\n"}  # bytes: a path need not be text
    for path in sorted(SYSTEM.glob("*.icd")) if SYSTEM.is_dir() else []:
        try:
            wanted.setdefault(path.name, path.read_bytes())
        except OSError as error:
            log.warning("%s cannot be read, so its driver is not used: %s", path, error)
    try:
        return f"{_vendors(wanted)}{os.sep}"  # without the last slash the loader takes it for a file
    except OSError as error:  # not even a temporary folder: the loader takes one library by name, too
        if len(wanted) > 1:
            others = ", ".join(name for name in wanted if name != "ondevice-embedded.icd")
            log.warning(
                "%s: not used, as no folder can be written (%s); set ONDEVICE_CACHE to one that can be", others, error
            )
        return str(driver)


def _vendors(wanted: Mapping[str, bytes]) -> Path:
    """A folder with these files. Its name is a hash of its content, so that it is never rewritten. Raises OSError."""
    digest = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:16]
    if base := cache_dir():
        folder = base / f"{PREFIX}{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fill(folder, wanted)
            return folder
        except OSError as error:
            log.debug("%s cannot be written (%s); using a temporary folder", folder, error)
    _temporary.append(tempfile.TemporaryDirectory(prefix=PREFIX))
    folder = Path(_temporary[-1].name)
    _fill(folder, wanted)
    return folder


def _fill(folder: Path, wanted: Mapping[str, bytes]) -> None:
    for name, data in wanted.items():
        target = folder / name
        if not target.exists() or target.read_bytes() != data:
            with published_file(target) as file:
                file.write(data)
