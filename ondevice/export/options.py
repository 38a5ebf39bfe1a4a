"""The formats that a model can be written in beside bundles, and what can be chosen for each: one row a format."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ondevice.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from ondevice.compiler.jobs import Job
    from ondevice.converters import Model
    from ondevice.export.manifest import Entry


@dataclass(frozen=True, slots=True)
class Options:
    """What was chosen.

    Args:
        dtype: "fp32" or "fp16", of what is stored; "": as the format has it where nobody says.
        weights: "int8" and so on, of the larger weights; "": as `dtype` says.
        sampler: what is drawn with by default; None: the checkpoint's own, or the nearest.
        without: fusions to leave out, as `ondevice.rewrite.rewrite` takes them.
        flags: what else was given, by the flag's name without dashes, such as {"dynamic": True}.
    """

    dtype: str = ""
    weights: str = ""
    without: Collection[str] = ()
    sampler: str | None = None
    flags: dict[str, object] = field(default_factory=dict)

    def said(self) -> dict[str, object]:
        """For people."""
        return {"dtype": self.dtype, "weights": self.weights, "without": list(self.without), **self.flags}


class Writer(Protocol):
    """What a format's module has."""

    def write(
        self, graph: ir.Model, job: Job, folder: Path, options: Options, others: Sequence[ir.Model] = ()
    ) -> Entry:
        """Write one component's fused graph into the folder of the export, which holds nothing of it yet; says which
        files it became and what its ports are called there. Raises GraphError for what the format cannot hold.

        Args:
            others: the component's graph at other sizes, where it is to take every size; only of formats with the flag
                "dynamic".
        """
        ...

    def finish(self, model: Model, folder: Path, options: Options) -> None:
        """Write what else the format's own tools look for, once every component is there."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A format.

    Args:
        module: of this package; has what `Writer` says.
        dtypes, weights: what may be chosen, the first of `dtypes` by default.
        without: fusions that its graphs never have.
        packages: that writing it takes, and the extra of ours that installs them.
        flags: of `convert`, beside those of all formats.
        precise: whether graphs that are stored in float32 whatever --dtype says are so here, too.
    """

    name: str
    what: str
    module: str
    dtypes: tuple[str, ...]
    weights: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = ""
    flags: tuple[str, ...] = ()
    precise: bool = True

    def writer(self) -> Writer:
        """Its module.

        Raises:
            UsageError: a package that it takes is not installed.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                what = f"{self.what} are written with {package}, which is not installed."
                raise UsageError(what, where=f"--format {self.name}", fix=f"pip install 'ondevice[{self.extra}]'")
        module: Writer = importlib.import_module(f"ondevice.export.{self.module}")  # type: ignore[assignment]
        return module

    def checked(self, options: Options) -> Options:
        """The options with the format's own where nothing was chosen.

        Raises:
            UsageError: something cannot be had in this format.
        """
        for flag, chosen, known in (
            ("--dtype", options.dtype, self.dtypes),
            ("--weights", options.weights, self.weights),
        ):
            if chosen and chosen not in known:
                have = f"expected one of {', '.join(known)}" if known else "there is no choice"
                what = f"{self.what} cannot have it (got {chosen}, {have})."
                raise UsageError(what, where=flag, fix=f"leave {flag} out, or write a bundle")
        for flag in options.flags:
            if flag not in self.flags:
                what = f"it is not of {self.what}."
                raise UsageError(what, where=f"--{flag}", fix=f"leave --{flag} out")
        return replace(options, dtype=options.dtype or self.dtypes[0])


# What Core ML has no op for: it fuses what follows a product itself, and keeps channels first.
_NOT_IN_COREML = ("projections", "channels_last", "upsample", "time_shift", "epilogue", "residual", "concat")
# ONNX's own convolutions have their channels first. With turned ones in functions' bodies, onnxruntime takes twice the
# time to load a graph and a quarter of its weights' memory more, and no convolution's weight is as a checkpoint has it.
_NOT_IN_ONNX = ("channels_last",)
_ROWS = (
    Format(
        "onnx",
        "ONNX files",
        "onnx.writer",
        dtypes=("fp32", "fp16"),
        weights=("int8",),
        without=_NOT_IN_ONNX,
        flags=("dynamic", "link-weights"),
    ),
    Format(
        "tflite",
        "TFLite files",
        "tflite.writer",
        dtypes=("fp16", "fp32"),
        weights=("int8",),
        packages=("ai_edge_litert", "flatbuffers"),
        extra="tflite",
        flags=("composites",),
    ),
    Format(
        "coreml",
        "Core ML packages",
        "coreml.writer",
        dtypes=("fp16", "fp32"),
        weights=("int8", "int4", "pal4", "pal6", "pal8"),
        without=_NOT_IN_COREML,
        packages=("coremltools",),
        extra="coreml",
        flags=("ios", "split-unet"),
        precise=False,
    ),
)
FORMATS = {row.name: row for row in _ROWS}
