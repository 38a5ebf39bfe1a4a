"""A model or a bundle stage by stage: what each component holds, moves and computes. No weight is read.

At the stages `graph` and `rewrite` bytes are what the nodes would move if each were a kernel at the storage type asked
for; from `lower` on they are those of the kernel calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import onnx_ir as ir

from ondevice.base.columns import columns
from ondevice.bundle.manifest import PlanEntry
from ondevice.bundle.reader import Bundle
from ondevice.compiler.fallbacks import of_products, of_rules
from ondevice.compiler.jobs import Job, largest_jobs, only
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import fused_graphs, programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.errors import BundleError, UsageError
from ondevice.graph.ops import find, traffic
from ondevice.graph.ranks import is_share
from ondevice.graph.verify import INTEGERS, static_shape, verify_graph
from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import Program, Tensor, math_of
from ondevice.lower.select import general
from ondevice.plan.plan import Plan
from ondevice.target import FP32

STAGES = ("graph", "rewrite", "lower", "plan")
IN_BUNDLES = ("lower", "plan")
VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}  # another shape of the same bytes
LARGEST = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A node of a graph, or a kernel call."""

    name: str
    op: str
    kernel: str  # "" for a node
    inputs: tuple[str, ...]  # such as "f16[2,320,64,64]"
    outputs: tuple[str, ...]
    grid: tuple[int, ...]
    group: tuple[int, ...]
    flops: int
    reads: int  # bytes
    writes: int
    math: str = FP32  # what a kernel multiplies in


@dataclass(frozen=True, slots=True)
class Report:
    """One component at one stage. `tensors` are those that are made on the way, not the weights."""

    component: str
    after: str
    sizes: Mapping[str, int]
    dtype: str
    rows: Sequence[Row]
    weights: int  # bytes
    tensors: Sequence[Tensor]
    arena: int | None = None  # bytes; only a plan has one
    fallbacks: Sequence[str] = field(default_factory=tuple)
    tuned: str = field(default="", compare=False)  # where the calls have their tunables from; a bundle does not tell
    math: str = ""  # what products are in that were asked for in another math than float32

    def total(self, what: str) -> int:
        """The sum of a number over all rows: "flops", "reads" or "writes"."""
        return sum(getattr(row, what) for row in self.rows)

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.total("reads") + self.total("writes")

    def histogram(self) -> list[dict[str, Any]]:
        """Sums by op, kernel and math, most bytes first."""
        sums: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in self.rows:
            names = {"op": row.op, "kernel": row.kernel, "math": row.math}
            entry = sums.setdefault(tuple(names.values()), {**names, "count": 0, "flops": 0, "bytes": 0})
            entry["count"] += 1
            entry["flops"] += row.flops
            entry["bytes"] += row.reads + row.writes
        return sorted(sums.values(), key=lambda entry: (-entry["bytes"], entry["op"], entry["kernel"]))

    def largest(self) -> list[Tensor]:
        """The largest tensors that are made on the way."""
        return sorted(self.tensors, key=lambda tensor: (-tensor.nbytes, tensor.name))[:LARGEST]

    def to_json(self, *, rows: bool = False) -> dict[str, Any]:
        """Everything as plain data; each row only with `rows`."""
        table = {
            "component": self.component,
            "after": self.after,
            "sizes": dict(self.sizes),
            "dtype": self.dtype,
            "count": len(self.rows),
        }
        table |= {name: self.total(name) for name in ("flops", "reads", "writes")} | {
            "weights": self.weights,
            "arena": self.arena,
        }
        table |= {
            "ops": self.histogram(),
            "largest": [asdict(tensor) | {"bytes": tensor.nbytes} for tensor in self.largest()],
        }
        return table | ({"rows": [asdict(row) for row in self.rows]} if rows else {})


# From a model -------------------------------------------------------------------------------------------------------


def of_model(
    checkpoint: Checkpoint,
    after: str,
    recipe: Recipe,
    *,
    size: tuple[int, int] | None = None,
    component: str | None = None,
) -> list[Report]:
    """A report per component, the UNet as guidance runs it.

    Args:
        after: one of STAGES.
        size: (width, height) in pixels; the training size by default.
        component: only this one.

    Raises:
        UsageError: the size or the component cannot be had.
    """
    model = build(checkpoint)
    todo = only(largest_jobs(model, size), component)
    if after == "graph":
        return [
            of_graph(model.graph(job.component, **job.sizes), job, recipe.storage(model, job.component), after)
            for job in todo
        ]
    if after == "rewrite":
        fused_ones = fused_graphs(model, recipe, todo)
        return [
            of_graph(fused.graph, fused.job, recipe.storage(model, fused.job.component), after, fused.fallbacks)
            for fused in fused_ones
        ]
    reports = []
    for compiled in programs(model, recipe, todo):
        fallbacks = compiled.fallbacks
        lowered = after == "lower"
        report = (
            of_program(compiled.program, compiled.storage, fallbacks)
            if lowered
            else of_plan(compiled.plan(), fallbacks)
        )
        reports.append(replace(report, tuned=compiled.tuned(), math=of_products(compiled.rewrite)))
    return reports


def of_graph(graph: ir.Model, job: Job, storage: str, after: str, fallbacks: Sequence[str] = ()) -> Report:
    """The report of a graph of known ops with static shapes. Raises GraphError for any other."""
    verify_graph(graph)
    rows = []
    for node in graph.graph:
        row = find(node.domain, node.op_type)
        assert row is not None, "verify_graph let it through"
        ins, outs = (
            [_tensor(v, storage) for v in node.inputs if v is not None and _is_data(v)],
            [_tensor(v, storage) for v in node.outputs],
        )
        shapes = [static_shape(v) for v in node.inputs if v is not None and v.shape is not None]
        distinct = {tensor.name: tensor.nbytes for tensor in ins}
        moved = (
            (0, 0)
            if node.op_type in VIEWS
            else traffic(node.op_type, list(distinct.values()), [tensor.nbytes for tensor in outs])
        )
        flops = row.flops(shapes, [tensor.shape for tensor in outs])
        rows.append(Row(str(node.name), node.op_type, "", _texts(ins), _texts(outs), (), (), flops, *moved))
    weights = sum(_tensor(value, storage).nbytes for value in graph.graph.initializers.values() if _is_data(value))
    tensors = [_tensor(value, storage) for node in graph.graph for value in node.outputs if node.op_type not in VIEWS]
    return Report(job.component, after, job.sizes, storage, rows, weights, tensors, fallbacks=fallbacks)


def _is_data(value: ir.Value) -> bool:
    """Not a shape, an axis or another list of integers that is known now."""
    return value.const_value is None or value.dtype not in INTEGERS


def _tensor(value: ir.Value, storage: str) -> Tensor:
    return Tensor(str(value.name), static_shape(value), "i32" if value.dtype in INTEGERS else storage)


def _texts(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(f"{tensor.dtype}[{','.join(map(str, tensor.shape))}]" for tensor in tensors)


def of_program(program: Program, storage: str, fallbacks: Sequence[str] = ()) -> Report:
    """The report of kernel calls that have no place in memory yet."""
    rows = []
    for call in program.calls:
        ins, outs = ([program.tensors[name] for name in names] for names in (call.inputs, call.outputs))
        where = (call.node, call.op, call.kernel, _texts(ins), _texts(outs), call.grid, call.group)
        rows.append(Row(*where, call.flops, call.reads, call.writes, math_of(call.defines)))
    weights = sum(program.tensors[name].nbytes for name in program.weights)
    tensors = [tensor for name, tensor in program.tensors.items() if name not in program.weights]
    return Report(program.component, "lower", program.sizes, storage, rows, weights, tensors, fallbacks=fallbacks)


# From a plan ----------------------------------------------------------------------------------------------------------


def of_plan(plan: Plan, fallbacks: Sequence[str] = (), after: str = "plan") -> Report:
    """The report of a plan. At the stage `lower` it is told without its arena."""
    rows = []
    tensors = [Tensor(x.name, x.shape, x.dtype) for x in plan.operands]
    for d in plan.dispatches:
        split = len(d.operands) - d.outputs
        ins, outs = ([tensors[index] for index in part] for part in (d.operands[:split], d.operands[split:]))
        kernel = plan.kernels[d.kernel]
        where = (d.node, d.op, kernel.file, _texts(ins), _texts(outs), d.grid, d.group)
        rows.append(Row(*where, d.flops, d.reads, d.writes, math_of(kernel.defines)))
    weights = sum({x.weight: x.nbytes for x in plan.operands if x.weight is not None}.values())
    own = [tensor for tensor, x in zip(tensors, plan.operands, strict=True) if x.offset is not None]
    arena = plan.arena if after == "plan" else None
    return Report(plan.component, after, plan.sizes, plan.dtype, rows, weights, own, arena, fallbacks)


def of_bundle(
    bundle: Bundle, after: str, *, size: tuple[int, int] | None = None, component: str | None = None
) -> list[Report]:
    """A report per component, from the bundle's plans.

    Raises:
        UsageError: a stage that a bundle does not hold, or a component that it has not.
        BundleError: it has no plan of that size, or is damaged.
    """
    if after not in IN_BUNDLES:
        what = f"a bundle holds no graph (got {after}, expected one of {', '.join(IN_BUNDLES)})."
        fix = f"name the model it was made from, such as `ondevice show {bundle.model['family']} --after {after}`"
        raise UsageError(what, where="--after", fix=fix)
    reports, general_ones = [], general(load_all())
    for entry in only(entries(bundle, size), component):
        plan = bundle.plan(entry.component, **entry.sizes)
        slow = [
            f"{entry.component}: {d.node} runs on the general kernel {file}"
            for d, file in _kernels(plan)
            if file in general_ones
        ]
        known = bundle.manifest.rewrites.get(entry.component)
        rules = asdict(known) if known else {"rules": []}
        report = of_plan(plan, [*of_rules(entry.component, rules), *slow], after)
        reports.append(replace(report, math=of_products(rules)))
    return reports


def _kernels(plan: Plan) -> Iterator[tuple[Any, str]]:
    return ((d, plan.kernels[d.kernel].file) for d in plan.dispatches)


def entries(bundle: Bundle, size: tuple[int, int] | None = None) -> list[PlanEntry]:
    """One plan per component: those of a picture size (the bundle's first by default), each at its largest batch.

    A component that has none of that size is left out: not every bundle can begin from a picture at every size.

    Raises:
        BundleError: there is nothing of that size.
    """
    scale = bundle.manifest.pipeline.latents.scale if bundle.manifest.pipeline else 1
    wanted: dict[str, float] | None = None if size is None else {"width": size[0] / scale, "height": size[1] / scale}
    chosen: dict[str, PlanEntry] = {}
    for entry in bundle.plans:
        own_size: dict[str, float] = {name: entry.sizes[name] for name in ("width", "height") if name in entry.sizes}
        if wanted is None and own_size:
            wanted = dict(own_size)
        fits = not own_size or own_size == wanted
        if fits and entry.sizes.get("batch", 1) > (
            chosen[entry.component].sizes.get("batch", 1) if entry.component in chosen else 0
        ):
            chosen[entry.component] = entry
    if size is not None and not any("width" in entry.sizes for entry in chosen.values()):
        drawn = [entry.sizes for entry in bundle.plans if {"width", "height"} <= entry.sizes.keys()]
        have = (
            ", ".join(dict.fromkeys(f"{sizes['width'] * scale}x{sizes['height'] * scale}" for sizes in drawn))
            or "no sizes"
        )
        asked = "x".join(map(str, size))
        what, fix = f"has no plan for {asked} (it has {have}).", f"convert the checkpoint again with `--size {asked}`"
        raise BundleError(what, where=bundle.path.name, fix=fix)
    return list(chosen.values())


def picture_memory(reports: Sequence[Report], subject: Checkpoint | Bundle) -> dict[str, dict[str, int]]:
    """Bytes that one picture needs on one device: the largest arena, which all share, and the weights of what it runs;
    by whether it begins from another, where the model leaves that open."""

    def sums(parts: Sequence[Report]) -> dict[str, int]:
        arena, weights = max((part.arena or 0 for part in parts), default=0), sum(part.weights for part in parts)
        return {"arena": arena, "weights": weights, "total": arena + weights}

    spec = subject.pipeline if isinstance(subject, Bundle) else spec_of(build(subject))
    fast, whole = ({role.component for role in roles} for roles in (spec.fast, spec.after))
    alone = [part for part in reports if not is_share(part.component)]
    most = [part for part in alone if part.component not in fast]
    least = [part for part in most if not spec.begins_from_picture(part.component)]
    found = {"a picture": sums(most)}
    if len(least) < len(most):
        found = {"text to image": sums(least), "image to image": sums(most)}
    if fast:
        others = [part for part in alone if part.component not in whole]
        found["with --taesd"] = sums([part for part in others if not spec.begins_from_picture(part.component)])
    return found


# As text --------------------------------------------------------------------------------------------------------------


def to_text(report: Report, *, rows: bool = False) -> str:
    """A paragraph and a table; with `rows` a line for each node or kernel call."""
    sizes = " ".join(f"{name}={value}" for name, value in report.sizes.items())
    unit = "nodes" if report.after in ("graph", "rewrite") else "dispatches"
    counts = [f"{len(report.rows):,} {unit}", f"{report.total('flops') / 1e9:,.1f} GFLOP"]
    counts += [
        f"{report.moved / 1e6:,.1f} MB moved ({report.total('reads') / 1e6:,.1f} read, "
        f"{report.total('writes') / 1e6:,.1f} written)"
    ]
    counts += [f"{report.weights / 1e6:,.1f} MB weights"] + (
        [f"{report.arena / 1e6:,.1f} MB arena"] if report.arena is not None else []
    )
    lines = [f"{report.component} after {report.after}, {sizes}, {report.dtype}", "  " + ", ".join(counts)]
    lines += [f"  {line}" for line in (report.tuned, report.math) if line]
    table = [("op", "kernel", "math", "count", "GFLOP", "MB moved")]
    plain = all(row.math == FP32 for row in report.rows)
    for e in report.histogram():
        names = (e["op"], e["kernel"], "" if plain else e["math"])
        table.append((*names, f"{e['count']:,}", f"{e['flops'] / 1e9:,.2f}", f"{e['bytes'] / 1e6:,.1f}"))
    lines += ["  " + line for line in columns(table, left=3)]
    lines += ["  largest tensors"]
    lines += [
        f"    {tensor.nbytes / 1e6:8,.1f} MB  {_texts([tensor])[0]}  {tensor.name}" for tensor in report.largest()
    ]
    if rows:
        lines += [f"  {number:>5} {_line(row)}" for number, row in enumerate(report.rows)]
    return "\n".join(lines)


def _line(row: Row) -> str:
    shapes = f"{', '.join(row.inputs)} -> {', '.join(row.outputs)}"
    launch = f" {row.kernel} {'x'.join(map(str, row.grid))}/{'x'.join(map(str, row.group))}" if row.kernel else ""
    return f"{row.op}{launch} {shapes} {row.flops:,} flop {row.reads:,} B in {row.writes:,} B out  {row.name}"
