"""What there is to tune: the distinct calls of a model's plans, each with the graph node that it came from.

A call with other tunables is made by lowering that node again: whatever follows from a tunable (how a weight is stored,
the launch, defines) is then as it would be in a plan, and nothing here knows any kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import Model
from ondevice.errors import OnDeviceError
from ondevice.graph.verify import static_shape
from ondevice.lower import lower
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import Call, Tensor
from ondevice.measure import Say
from ondevice.target import Target
from ondevice.target.tuning import KernelTuning, Row, Tuning

# what only says where in a wider row an input is, or how it is seen
PARTS = {"Split", "Reshape", "Unsqueeze", "Squeeze", "Flatten"}
STEPS = 20  # how often a picture runs the denoiser with guidance, its largest batch
DENOISERS = ("unet", "transformer")
RARE = {"vae_encoder": 0.1}  # of the pictures that begin from another one
# per second, and seconds: to tell what is worth a measurement, not to predict
FLOPS, BYTES, LAUNCH = 100e9, 10e9, 10e-6
Key = tuple[str, frozenset[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Made:
    """One call with some tunables: what a runner needs to run it."""

    call: Call
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, ir.TensorProtocol]


@dataclass(slots=True)
class Case:
    """A kernel at sizes that plans dispatch, `runs` times per picture; `guess` is about how many seconds one takes."""

    kernel: KernelFile
    at: Mapping[str, int]
    component: str
    storage: str
    node: ir.Node
    target: Target
    weights_as: str = ""  # as `lower` takes it
    runs: float = 0.0
    guess: float = 0.0
    _alone: ir.Model | None = None

    @property
    def weight(self) -> float:
        """About how many seconds of a picture it takes."""
        return self.runs * self.guess

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.kernel.name, frozenset(self.at.items())

    @property
    def weight_at(self) -> dict[str, int]:
        """Sizes of the weight that it reads, if tunables say how that is stored."""
        return self.kernel.weight_at(self.at)

    def __str__(self) -> str:
        return f"{self.kernel.name} {' '.join(f'{name}={value}' for name, value in self.at.items())}"

    def default(self) -> dict[str, int]:
        """The tunables it has where nothing was measured."""
        return self.kernel.tuning(self.at, **self.target.tune.get(self.kernel.name, {}))

    def make(self, choice: Mapping[str, int], kernels: Mapping[str, KernelFile]) -> Made | None:
        """The call with the tunables `choice`; None where the node then becomes another kernel's,
        or cannot be lowered."""
        if self._alone is None:
            self._alone = alone(self.node)
        rows = [Row(at, choice) for at in (self.weight_at, self.at) if at]
        trial = Tuning("trial", {}, {}, {self.kernel.name: KernelTuning({}, (), rows)})
        try:
            target = replace(self.target, tuning=(trial,))
            program = lower(
                self._alone,
                self.component,
                storage=self.storage,
                kernels=kernels,
                target=target,
                weights=self.weights_as,
            )
        except OnDeviceError:
            return None
        calls = (call for call in program.calls if call.kernel == self.kernel.name)
        call = next((call for call in calls if key_of(self.kernel, dict(call.defines), call.scalars) == self.key), None)
        return None if call is None else Made(call, program.tensors, program.weights)


def key_of(kernel: KernelFile, defines: Mapping[str, int], scalars: Sequence[int | float]) -> Key:
    """The kernel and the sizes by which the tunables of a call, or of a plan's dispatch, are looked up."""
    return kernel.name, frozenset(kernel.at({**dict(zip(kernel.arg_types, scalars, strict=True)), **defines}).items())


def cases_of(
    model: Model,
    todo: Iterable[tuple[Job, str]],
    kernels: Mapping[str, KernelFile],
    recipe: Recipe,
    *,
    only: Collection[str] = (),
    say: Say | None = None,
) -> list[Case]:
    """Every distinct (kernel, sizes) of these jobs, each with its storage;
    those that take most of a picture's time first.

    Args:
        recipe: how they are compiled; the storage takes its `dtype`'s place.
        only: names of kernels to leave all others out.
    """
    found: dict[Key, Case] = {}
    todo = list(todo)
    largest = max((job.sizes["batch"] for job, _ in todo if job.component in DENOISERS), default=1)
    for job, storage in todo:
        if say:
            say(f"planning {job.component} {' '.join(f'{name}={size}' for name, size in job.sizes.items())} {storage}")
        (compiled,) = programs(model, replace(recipe, dtype=storage), [job], kernels)
        nodes = {node.name: node for node in compiled.fused.graph.graph}
        often = job.component in DENOISERS and job.sizes["batch"] == largest
        weight = STEPS if often else RARE.get(job.component, 1.0)
        for call in compiled.program.calls:
            kernel = kernels[call.kernel]
            if call.node not in nodes or (only and kernel.name not in only):
                continue  # a cast or a copy at the borders: no node's
            key = key_of(kernel, dict(call.defines), call.scalars)
            at, node = dict(sorted(key[1])), nodes[call.node]
            how = (recipe.target.asked(compiled.program.math), recipe.weights)
            case = found.setdefault(key, Case(kernel, at, job.component, compiled.storage, node, *how))
            case.runs += weight
            case.guess = max(case.guess, max(call.flops / FLOPS, (call.reads + call.writes) / BYTES) + LAUNCH)
    return sorted(found.values(), key=lambda case: (-case.weight, str(case)))


def alone(node: ir.Node) -> ir.Model:
    """A graph of this node, with what only says where its inputs stand;
    weights in it are made up, and of the same shapes."""
    taken, pending = [node], [node]
    while pending:
        for value in pending.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.op_type in PARTS and producer not in taken:
                taken.append(producer)
                pending.append(producer)
    values: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    weights: list[ir.Value] = []

    def of(value: ir.Value | None) -> ir.Value | None:
        if value is None:
            return None
        if value not in values:
            const = made_up(value) if value.const_value is not None else None
            values[value] = ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=const)
            producer = value.producer()
            if const is not None:
                weights.append(values[value])
            elif producer is None or producer not in taken:
                inputs.append(values[value])
        return values[value]

    nodes = []
    for old in reversed(taken):  # producers first
        ins, outs = [of(value) for value in old.inputs], [of(value) for value in old.outputs]
        nodes.append(
            ir.Node(
                old.domain,
                old.op_type,
                ins,
                list(old.attributes.values()),
                outputs=[v for v in outs if v is not None],
                name=old.name,
            )
        )
    graph = ir.Graph(
        inputs, [values[value] for value in node.outputs], nodes=nodes, initializers=weights, opset_imports={"": 18}
    )
    return ir.Model(graph, ir_version=10)


def made_up(value: ir.Value) -> ir.TensorProtocol:
    """Numbers in place of a weight's, so that none is read; whole numbers (shapes, axes) and single ones stay."""
    tensor = value.const_value
    assert tensor is not None, "asked of constants only"
    shape = static_shape(value)
    if tensor.dtype != ir.DataType.FLOAT or int(np.prod(shape)) <= 1:
        return tensor
    fill = partial(normal, shape, 0.1)
    return ir.LazyTensor(
        lambda: ir.Tensor(fill()), dtype=ir.DataType.FLOAT, shape=ir.Shape(list(shape)), name=value.name
    )


def normal(shape: tuple[int, ...], scale: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
    """Normally distributed numbers, the same each time;
    few are drawn and repeated, at a period that no row is a multiple of."""
    block = np.random.default_rng(0).normal(0.0, scale, 65_537).astype(dtype)
    return np.resize(block, shape)
