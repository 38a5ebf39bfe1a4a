"""An export's components in their runtime against our graphs: how far they are apart, and the first op that deviates.

Ours are the graphs before any fusion, in float32, by onnxruntime. Both get the same noise and tokens. Where a component
is beyond its format's bound, the fused graph's values are compared with the file's one by one, in the graph's order.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import Model, build
from ondevice.converters.component import Checkpoint
from ondevice.converters.onnx_export import save_onnx
from ondevice.errors import BundleError
from ondevice.export.manifest import MANIFEST, Entry
from ondevice.export.names import plain
from ondevice.export.opened import Export
from ondevice.export.options import FORMATS
from ondevice.export.runner import ExportRunner, feeds
from ondevice.export.runtimes import RUNTIMES, runtime_of
from ondevice.graph.inputs import inputs_of
from ondevice.graph.verify import static_shape
from ondevice.rewrite import CHOICES

BOUNDS = {
    "fp32": 1e-5,
    "fp16": 2e-3,
    "int8": 0.1,
    "pal8": 0.1,
    "pal6": 0.3,
    "int4": 1.0,
    "pal4": 1.0,
}
"""Of the largest number of an output: what rounding may make of it. Weights of few bits are rounded far, and only what
is broken is beyond theirs: the demo's decoder is 0.04 off in int8, 0.47 in pal4."""
IN_HALF = 5e-3  # of Core ML, whose arithmetic is float16, too, in text encoders as well
KEPT = 256 << 20  # bytes of values whose counterparts have not come yet
REFERENCE = "our graphs before any fusion by onnxruntime in float32"


@dataclass(frozen=True, slots=True)
class Deviation:
    """An op that gives something else than ours: its value, of which kind it is, and how far that is apart."""

    value: str
    op: str
    error: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A component: the largest difference of an output, in terms of its largest number; the least ratio of that number
    to the root mean square of differences, in decibels; and the bound. `first` is the first op beyond the bound."""

    component: str
    error: float
    psnr: float
    bound: float
    first: Deviation | None = None

    @property
    def holds(self) -> bool:
        """Whether it is within the bound; what is not finite is not."""
        return self.error <= self.bound


def compare(export: Export, checkpoint: Checkpoint, only: str | None = None) -> Iterator[Compared]:
    """Each component of an export, or `only` one, against the checkpoint's.

    Raises:
        UsageError: a package that the runtime or the reference takes is not installed.
        BundleError: the export says of itself what cannot be, or is not of this checkpoint.
        PeerError: a runtime fails.
    """
    runtime_of("onnx").load()
    model, runner = build(checkpoint, published=True), ExportRunner(export, finite=False)
    for entry in export.manifest.entries:
        if only in (None, entry.component):
            yield _compared(export, model, runner, entry)
            runner.release(entry.component)


def _compared(export: Export, model: Model, runner: ExportRunner, entry: Entry) -> Compared:
    job = Job(entry.component, export.usual(entry))
    if entry.component not in model.roles:
        what = f"names {entry.component}, which {model.family.title} has not."
        raise BundleError(what, where=MANIFEST, fix="convert the model again")
    graph = model.graph(job.component, **job.sizes)
    _check_ports(graph, entry)
    inputs = inputs_of(graph)
    with _saved(graph) as (folder, own):
        ours = runtime_of("onnx").load().load(folder, own).run(inputs)
    theirs = runner.run(job.component, inputs, **job.sizes)
    errors = [error_of(theirs[name], ours[name]) for name in entry.outputs]
    psnr = min(psnr_of(theirs[name], ours[name]) for name in entry.outputs)
    bound = bound_of(export, model, entry.component)
    found = Compared(job.component, max(errors, key=lambda error: (math.isnan(error), error)), psnr, bound)
    if found.holds:
        return found
    return Compared(found.component, found.error, psnr, bound, _first(export, model, runner, job, inputs, bound))


def bound_of(export: Export, model: Model, component: str) -> float:
    """What a component may be apart from ours. Raises BundleError where the export does not say how it is stored."""
    format, options = FORMATS[export.kind], export.manifest.options
    dtype, weights = options.get("dtype"), options.get("weights")
    if dtype not in format.dtypes or weights not in ("", *format.weights):
        what = "options say of no dtype or weights of this format how they are stored."
        raise BundleError(what, where=MANIFEST, fix="convert the model again")
    if format.name == "coreml" and dtype == "fp16":
        return max(BOUNDS[weights or dtype], IN_HALF)
    precise = format.precise and model.precise(component)
    return BOUNDS[weights or ("fp32" if precise else dtype)]


def _first(
    export: Export, model: Model, runner: ExportRunner, job: Job, inputs: Mapping[str, np.ndarray], bound: float
) -> Deviation | None:
    """The first op of the fused graph whose value in the file is beyond the bound."""
    chosen = export.manifest.options.get("without")
    if not isinstance(chosen, list) or not set(map(str, chosen)) <= {*CHOICES}:
        what = "options name no list of fusions that were left out."
        raise BundleError(what, where=MANIFEST, fix="convert the model again")
    (fused,) = fused_graphs(model, Recipe(without=[*chosen, *FORMATS[export.kind].without]), [job])
    ops = {str(value.name): node.op_type for node in fused.graph.graph for value in node.outputs}
    names = {plain(name) if export.kind == "coreml" else name: name for name in ops}
    entry = export.entry(job.component, job.sizes)
    theirs = (
        (names[name], array) for name, array in runner.loaded(entry).values(feeds(entry, inputs)) if name in names
    )
    with _saved(fused.graph) as (folder, own):
        ours = runtime_of("onnx").load().load(folder, own).values(inputs)
        for name, got, want in pairs(theirs, ours):
            if got.size == want.size and not (error := error_of(got.reshape(want.shape), want)) <= bound:
                return Deviation(name, ops[name], error)
    return None


def pairs(
    theirs: Iterator[tuple[str, np.ndarray]], ours: Iterator[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Values of the same name in their order, which is ours but for a few. Of ours so many are kept as KEPT holds."""
    waiting: dict[str, np.ndarray] = {}
    passed: set[str] = set()
    for name, got in theirs:
        while name not in passed and (given := next(ours, None)) is not None:
            waiting[given[0]] = given[1]
            passed.add(given[0])
            while sum(array.nbytes for array in waiting.values()) > KEPT and len(waiting) > 1:
                waiting.pop(next(iter(waiting)))
        if name in waiting:
            yield name, got, waiting.pop(name)


def error_of(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, in terms of the largest number that is finite; those that are not must be the same."""
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(np.isfinite(got), finite):
        return math.inf
    if not finite.any():
        return 0.0
    wanted = want[finite].astype(np.float64)
    return float(np.abs(got[finite] - wanted).max() / max(np.abs(wanted).max(), np.finfo(np.float32).tiny))


def psnr_of(got: np.ndarray, want: np.ndarray) -> float:
    """The largest number in terms of the root mean square of differences, in decibels."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return -math.inf
    wanted = want.astype(np.float64)
    noise, peak = float(np.sqrt(np.mean((got - wanted) ** 2))), float(np.abs(wanted).max())
    return math.inf if noise == 0 else 20 * math.log10(peak / noise) if peak else -math.inf


@contextmanager
def _saved(graph: ir.Model) -> Iterator[tuple[Path, Entry]]:
    """A graph of ours in a folder, for as long as it is run."""
    with tempfile.TemporaryDirectory(prefix="ondevice-check-") as place:
        path = save_onnx(graph, Path(place) / "model.onnx")
        yield path.parent, Entry("", (path.name,), {}, {}, {})


def _check_ports(graph: ir.Model, entry: Entry) -> None:
    """Refuse an export of another model. Raises BundleError."""
    for values, ports in ((graph.graph.inputs, entry.inputs), (graph.graph.outputs, entry.outputs)):
        ours = {str(value.name): static_shape(value) for value in values}
        for name in ours.keys() ^ ports.keys():
            what = f"{entry.component} has {', '.join(ports)} (expected {', '.join(ours)}): {name} is not in both."
            raise BundleError(what, where=MANIFEST, fix="name the weights that it was converted from")
        for name, shape in ours.items():
            known = entry.shapes[name]
            if len(known) != len(shape) or any(a not in (b, 0) for a, b in zip(known, shape, strict=True)):
                what = f"{entry.component}'s {name} is {list(known)} (expected {list(shape)} of these weights)."
                raise BundleError(what, where=MANIFEST, fix="name the weights that it was converted from")


def to_text(export: Export, rows: Sequence[Compared]) -> list[str]:
    """For people."""
    from ondevice.base.columns import columns

    head = ("component", "largest error", "PSNR", "bound", "")
    cells = [
        (row.component, f"{row.error:.1e}", f"{row.psnr:.1f} dB", f"{row.bound:.0e}", "ok" if row.holds else "DEVIATES")
        for row in rows
    ]
    found = [f"{FORMATS[export.kind].what} by {RUNTIMES[export.kind].what}, against {REFERENCE}"]
    found += [line.rstrip() for line in columns([head, *cells], left=1)]
    for row in rows:
        if row.first is not None:
            found.append(f"{row.component}: the first op beyond it is {said(row.first)}")
        elif not row.holds:
            found.append(f"{row.component}: no op whose value is in the file by name is beyond it")
    return found


def said(first: Deviation) -> str:
    """A deviation for people."""
    return f"{first.value} ({first.op}), by {first.error:.1e}"


def to_json(export: Export, rows: Sequence[Compared]) -> dict[str, Any]:
    """The same as JSON; what is not finite as a text."""

    def number(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    return {
        "format": export.kind,
        "runtime": RUNTIMES[export.kind].what,
        "reference": REFERENCE,
        "components": [
            {
                "component": row.component,
                "error": number(row.error),
                "psnr": number(row.psnr),
                "bound": row.bound,
                "holds": row.holds,
                "first": None
                if row.first is None
                else {"value": row.first.value, "op": row.first.op, "error": number(row.first.error)},
            }
            for row in rows
        ],
    }
