"""Every error this package raises on purpose, as one tree. Each class has its own exit code.

OnDeviceError            1   base class
├── UsageError           2   a flag or an argument is wrong
├── CheckpointError      3   a weight file or folder is not what it says it is
│   └── WeightsError     4   weights are missing, extra or mis-shaped
├── DownloadError        5   a hub id could not be fetched
├── GraphError           6   a graph breaks a rule, or holds an op we do not support
├── NoKernelError        7   no kernel file fits an op
├── PlanError            8   a plan is unsafe or does not fit the target
├── BundleError          9   a bundle is damaged, foreign or too new
├── NoDeviceError       10   no usable device was found
├── KernelBuildError    11   the driver refused a kernel
├── DeviceError         12   the driver failed at run time
├── NumericError        13   NaN or Inf came out of an op
├── StrictError         14   a fallback was needed, and --strict allows none
└── PeerError           15   another runtime, compared with ours, is missing or failed
"""

from __future__ import annotations


class OnDeviceError(Exception):
    """Says where, what is wrong, and what to do next. The command line prints it without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__((f"{where}: " if where else "") + what + (f" Fix: {fix}." if fix else ""))


class UsageError(OnDeviceError):
    """A flag or an argument is wrong."""

    exit_code = 2


class CheckpointError(OnDeviceError):
    """A weight file or folder is not what it says it is."""

    exit_code = 3


class WeightsError(CheckpointError):
    """Weights are missing, extra or mis-shaped."""

    exit_code = 4


class DownloadError(OnDeviceError):
    """A hub id could not be fetched."""

    exit_code = 5


class GraphError(OnDeviceError):
    """A graph breaks a rule, or holds an op we do not support."""

    exit_code = 6


class NoKernelError(OnDeviceError):
    """No kernel file fits an op."""

    exit_code = 7


class PlanError(OnDeviceError):
    """A plan is unsafe or does not fit the target."""

    exit_code = 8


class BundleError(OnDeviceError):
    """A bundle is damaged, foreign or too new."""

    exit_code = 9


class NoDeviceError(OnDeviceError):
    """No usable device was found."""

    exit_code = 10


class KernelBuildError(OnDeviceError):
    """The driver refused a kernel."""

    exit_code = 11


class DeviceError(OnDeviceError):
    """The driver failed at run time."""

    exit_code = 12


class NumericError(OnDeviceError):
    """NaN or Inf came out of an op."""

    exit_code = 13


class StrictError(OnDeviceError):
    """A fallback was needed, and --strict allows none."""

    exit_code = 14


class PeerError(OnDeviceError):
    """Another runtime, compared with ours, is missing or failed."""

    exit_code = 15
