"""What a device is compared with."""

from __future__ import annotations

from collections.abc import Iterable

from ondevice.errors import UsageError
from ondevice.lower.prelude import missing
from ondevice.run.discovery import PLAIN, Found, capabilities, discover, find_device
from ondevice.run.opencl import OpenCLDevice


def reference_for(tested: Found | None, spec: str | None, needs: Iterable[str]) -> tuple[OpenCLDevice, str]:
    """The device that `spec` names, else this machine's best CPU device that is another than `tested` (None: one that
    is not this machine's) and has what plans need, else `tested` itself with its compiler told not to optimize; and
    what to call it.

    Raises:
        UsageError: `spec` names the tested device.
        NoDeviceError: there is none.
    """
    if spec is not None:
        named = find_device(spec)
        if named == tested:
            what = f"it is {named.name}, the device that is looked at."
            raise UsageError(what, where="--reference", fix="name another one, or leave it out")
        return OpenCLDevice(named), _called(named)
    for other in discover()[0]:
        lacks = missing(needs, OpenCLDevice.dialect, capabilities(other.handle))
        if other.kind == "cpu" and other != tested and not lacks and other.refused is None:
            return OpenCLDevice(other), _called(other)
    found = tested or find_device()
    if tested is None:
        return OpenCLDevice(found), _called(found)
    return OpenCLDevice(found, options=PLAIN), f"{_called(found)} without its compiler's optimizer"


def _called(found: Found) -> str:
    return f"{found.name} [{found.platform}]"
