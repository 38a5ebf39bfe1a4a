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
├── PeerError           15   another runtime, compared with ours, is missing or failed
├── OutputError         16   stdout cannot take the result; what was written to files is whole
├── BatchError          17   some lines of a batch were not drawn; the others are
└── ProcessError        18   another process of a training run has ended
"""

from __future__ import annotations


class OnDeviceError(Exception):
    """Says where, what is wrong, and what to do next. The command line prints it without a traceback.

    What comes from files is in it, so that it is made fit to print: one line (but where `multiline`), control
    characters and halves of surrogate pairs escaped, at most `limit` characters. The fix is what a reader needs most,
    and is cut last. `what`, `where` and `fix` are the parts as they are shown.
    """

    exit_code = 1
    limit = 500
    multiline = False

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        what, where, fix = (printable(part, multiline=self.multiline) for part in (what, where, fix))
        self.fix = _cut(fix, self.limit // 2)
        self.where = _cut(where, self.limit // 3, keep_end=True)  # a path's end says more than its start
        before, after = f"{self.where}: " if where else "", f" Fix: {self.fix}." if fix else ""
        if after and not what.endswith((".", "?", "!")):
            what += "."
        self.what = _cut(what, self.limit - len(before) - len(after))
        super().__init__(before + self.what + after)


def multiples_near(value: int, step: int) -> str:
    """The multiples of `step` on both sides of `value`, for a fix: "16 or 24";
    only the upper one of a value below the first."""
    low = max(value // step, 1) * step
    return f"{low} or {low + step}" if value > low else str(low)


def printable(text: str, *, multiline: bool = False) -> str:
    """`text` as a terminal may get it: an escape in a name would be obeyed,
    and half of a surrogate pair cannot be encoded."""
    if text.isprintable():
        return text
    lines = text.replace("\t", " ").splitlines()
    shown = ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in lines]
    return ("\n" if multiline else " ").join(shown)


def _cut(text: str, most: int, *, keep_end: bool = False) -> str:
    if len(text) <= most:
        return text
    start = (most - 3) // 3 if keep_end else most - 3
    return text[:start] + "..." + (text[start - most + 3 :] if keep_end else "")


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
    """The driver refused a kernel. Its log is part of the message, line by line."""

    exit_code = 11
    limit = 4000
    multiline = True


class DeviceError(OnDeviceError):
    """The driver failed at run time."""

    exit_code = 12


class NumericError(OnDeviceError):
    """NaN or Inf came out of an op."""

    exit_code = 13


class StrictError(OnDeviceError):
    """A fallback was needed, and --strict allows none. The message lists them."""

    exit_code = 14
    limit = 4000


class PeerError(OnDeviceError):
    """Another runtime, compared with ours, is missing or failed."""

    exit_code = 15


class OutputError(OnDeviceError):
    """stdout cannot take the result."""

    exit_code = 16


class BatchError(OnDeviceError):
    """Some lines of a batch were not drawn. The others are."""

    exit_code = 17


class ProcessError(OnDeviceError):
    """Another process of a training run has ended, or cannot be reached."""

    exit_code = 18
