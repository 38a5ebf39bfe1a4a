"""A model's programs: each job's graph is built, rewritten and lowered as a recipe says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir

from ondevice.compiler.fallbacks import of_math, of_methods, of_rules, rewritten
from ondevice.compiler.jobs import Job
from ondevice.compiler.recipe import Recipe
from ondevice.converters import Model
from ondevice.converters.architectures.unet_residuals import is_residual
from ondevice.graph.verify import static_shape
from ondevice.lower import lower
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.program import Program
from ondevice.plan import Placed, numbered, placed
from ondevice.plan.plan import Plan
from ondevice.rewrite.statistics import given_statistics

# Of what is idle in an arena, how much scratch may have: tried in turn, as with other sizes tensors fit otherwise.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
MORE = 1.05  # times the arena that the target's own scratch leads to: what fewer bands may cost


@dataclass(frozen=True, slots=True)
class Fused:
    """A job's graph after the rules. `rewrite` is what became of them, as bundles record it (docs/bundle.md)."""

    job: Job
    graph: ir.Model
    rewrite: dict[str, Any]

    @property
    def fallbacks(self) -> list[str]:
        """The matches that a rule left alone."""
        return of_rules(self.job.component, self.rewrite)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A job's program, and the fused graph that it was lowered from. `rewrite` is what became of rules and methods,
    `where` the program's place, if that was asked for already."""

    fused: Fused
    program: Program
    storage: str  # "f16" or "f32"
    rewrite: dict[str, Any]
    where: Placed | None = None

    @property
    def job(self) -> Job:
        return self.fused.job

    @property
    def fallbacks(self) -> list[str]:
        """The matches that a rule left alone, and the nodes that run on general kernels."""
        return self.fused.fallbacks + self.program.fallbacks

    def plan(self) -> Plan:
        """The program with a place for every tensor. Raises PlanError as `ondevice.plan.plan` does."""
        return numbered(self.where or placed(self.program), self.storage)

    def tuned(self) -> str:
        """Where the program's calls have their tunables from, most of them first."""
        counts = sorted(self.program.tuned.items(), key=lambda item: (-item[1], item[0]))
        sources = ", ".join(f"{count} from {source}" for source, count in counts)
        return f"tunables of {len(self.program.calls)} dispatches: {sources or 'none'}"


def fused_graphs(model: Model, recipe: Recipe, jobs: Iterable[Job]) -> Iterator[Fused]:
    """The graph of each job after the rules, one at a time. Raises OnDeviceError as the model and the rules do."""
    for job in jobs:
        graph = model.graph(job.component, **job.sizes)
        yield Fused(job, graph, rewritten(graph, recipe.without))


def programs(
    model: Model, recipe: Recipe, jobs: Iterable[Job], kernels: Mapping[str, KernelFile] | None = None
) -> Iterator[Compiled]:
    """The program of each job, one at a time.

    Args:
        kernels: kernel files by name; all of shaders/ by default.

    Raises:
        OnDeviceError: a graph cannot be built, a rule is unknown, or a node cannot be lowered.
    """
    kernels = load_all() if kernels is None else kernels
    for fused in fused_graphs(model, recipe, jobs):
        job, graph, storage = fused.job, fused.graph, recipe.storage(model, fused.job.component)
        if "stage" in job.sizes:
            given_statistics(graph)
        _between_plans(graph, storage, "stage" in job.sizes, model.between(job.component))
        lowered = partial(
            _lowered,
            graph,
            job,
            storage=storage,
            kernels=kernels,
            target=recipe.target.asked(recipe.multiplied_in(model, job.component)),
            weights=recipe.few_bits(job.component),
            without=recipe.without,
        )
        program, where = lowered(), None
        # A CPU's scratch stays in its cache: there more of it is no gain.
        if recipe.target.kernel_class == "mobile" and program.scratch:
            program, where = _roomier(program, lowered)
        rules = [*fused.rewrite["rules"], *of_methods(program, recipe.without), *of_math(program)]
        yield Compiled(fused, program, storage, fused.rewrite | {"rules": rules}, where)


def _lowered(graph: ir.Model, job: Job, **options: Any) -> Program:
    """The program of a job's graph. `options` and errors: `ondevice.lower.lower`'s."""
    program = lower(graph, job.component, **options)
    program.sizes = dict(job.sizes)
    return program


def _roomier(program: Program, lowered: Callable[..., Program]) -> tuple[Program, Placed]:
    """The program with as few bands as an arena of about its own allows, and its place: scratch may have what is idle
    there while a node runs.

    Args:
        lowered: lowers the same graph; `rooms` as `ondevice.lower.lower` has it.
    """
    own = placed(program)
    most = int(MORE * own.arena)
    rooms = own.idle(most)
    for share in SHARES:
        other = lowered(rooms={node: int(share * room) for node, room in rooms.items()})
        where = placed(other)
        if where.arena <= most:
            return other, where
    return program, own


def _between_plans(graph: ir.Model, storage: str, staged: bool, between: Collection[str]) -> None:
    """Pictures that go from stage to stage, residuals from ControlNet to UNet, and what runs once in the place of a
    part of each step, are passed as they are stored: what a player keeps of them would be twice as large.

    Args:
        between: the names of the last.
    """
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        name = str(value.name)
        picture = staged and len(static_shape(value)) == 4 and name not in ("latent_sample", "sample")
        if storage == "f16" and (picture or is_residual(name) or name in between):
            value.type = ir.TensorType(ir.DataType.FLOAT16)
