"""Graph -> program: the kernel calls of every node, in the graph's order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ondevice.errors import GraphError, UsageError

# A player imports this package for its types alone. What lowers graphs, onnx_ir first, takes it a second to import,
# so that waits.
if TYPE_CHECKING:
    import onnx_ir as ir

    from ondevice.lower.kernel_file import KernelFile
    from ondevice.lower.program import Program
    from ondevice.target import Target

STORAGE = ("f32", "f16")
WEIGHTS = ("", "i8", "i4")  # as `storage`, or in fewer bits: lower/quantize.py


def lower(
    model: ir.Model,
    component: str,
    *,
    storage: str = "f32",
    kernels: Mapping[str, KernelFile] | None = None,
    target: Target | None = None,
    weights: str = "",
    without: Collection[str] = (),
    rooms: Mapping[str, int] | None = None,
) -> Program:
    """Lower a graph of primitives to kernel calls.

    Args:
        model: a graph with static shapes (`ondevice.graph.verify.verify_graph` says what is legal).
        component: its name in errors and in weight keys, such as "unet".
        storage: "f32" or "f16", the type in which float tensors are kept.
        kernels: kernel files by name; all of shaders/ by default.
        target: which kernels and methods are taken, their tunables, and what products are multiplied in where it has
            kernels for that (`Target.asked`), all else being in float32; "host" by default.
        weights: how the larger constant weights of products and convolutions are stored: "i8" as int8 with a scale per
            column, "i4" in 4 bits with one per column and 32 rows; "": as `storage`.
        without: methods (`ondevice.target.METHODS`) to leave out; "all" leaves out every one. The names of fusions
            mean nothing here.
        rooms: bytes of scratch by node name, for those that may have more than the target says.

    Raises:
        GraphError: an op or a form of it that is not supported, by node.
        NoKernelError: no kernel fits, with each candidate's reason.
        PlanError: a tensor is too large to index.
    """
    from ondevice.graph.verify import verify_graph
    from ondevice.lower.kernel_file import load_all
    from ondevice.lower.lowering import Lowering
    from ondevice.lower.rules import rule_of
    from ondevice.target import MATHS, load_target

    if storage not in STORAGE:
        raise UsageError(f"storage {storage!r} is unknown (expected one of {', '.join(STORAGE)}).", where=component)
    if weights not in WEIGHTS:
        raise UsageError(
            f"weights {weights!r} are unknown (expected one of {', '.join(map(repr, WEIGHTS))}).", where=component
        )
    chosen = target or load_target("host")
    if chosen.math not in MATHS:
        raise UsageError(f"math {chosen.math!r} is unknown (expected one of {', '.join(MATHS)}).", where=component)
    verify_graph(model)
    graph = model.graph
    known, exact = load_all() if kernels is None else kernels, exact_values(graph)
    around: dict[str, dict[str, str]] = {}
    while True:
        low = Lowering(graph, component, storage, known, exact, chosen, weights, without)
        low.rooms, low.around = rooms or {}, around
        for value in graph.inputs:
            if value.const_value is None:
                low.add_input(value)
        low.program.inputs = tuple(low.program.tensors)
        for node in graph:
            if node.op_type == "Constant":
                raise GraphError(
                    "constants must be initializers here.",
                    where=f"node {node.name}",
                    fix="lift constants before lowering",
                )
            rule_of(node.op_type)(low, node)
        program = low.finish()
        # What a program is built with is known once it is chosen, so what is wrong on the device is met, and then
        # another way is chosen: each time round leaves out more kernels.
        if not low.met:
            break
        around = {name: {**around.get(name, {}), **low.met.get(name, {})} for name in {**around, **low.met}}
    program.fallbacks += [
        f"{component}: {name} avoids {kernel}: {why}"
        for name, kernels in around.items()
        for kernel, why in kernels.items()
    ]
    return program


def exact_values(graph: ir.Graph) -> frozenset[str]:
    """Names of the values that stay float32: the arguments of sine and cosine, and all they are computed from.

    A timestep of 981 times a frequency near 1 is off by a quarter radian once rounded to half precision; diffusers,
    too, embeds timesteps in float32 whatever the model's type.
    """
    from ondevice.graph.verify import INTEGERS

    exact: set[str] = set()
    for node in reversed(list(graph)):
        if node.op_type in ("Sin", "Cos", "SinCos", "CosSin") or any(value.name in exact for value in node.outputs):
            values = [*node.inputs, *node.outputs]
            exact.update(str(value.name) for value in values if value is not None and value.dtype not in INTEGERS)
    return frozenset(exact)
