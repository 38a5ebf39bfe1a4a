"""The state of one lowering: tensors made so far, which value lives in which tensor, casts between storage types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx_ir as ir

from ondevice.errors import GraphError, NoKernelError, PlanError
from ondevice.graph.ops import find, traffic
from ondevice.graph.verify import INTEGERS, static_shape
from ondevice.lower.images import imaged
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.places import Rows, bytes_of, joined, row_of
from ondevice.lower.program import DTYPES, MATH_DEFINE, Call, MethodUse, Program, Tensor
from ondevice.lower.select import Way, select
from ondevice.lower.strides import arguments, contiguous
from ondevice.lower.tunables import over_limits, tunables, used
from ondevice.target import METHODS, Target

# A part of every row of a tensor: (tensor, first element, elements from row to row).
Strided = tuple[str, int, int]
# Plan inputs and outputs are always float32 or int32, whatever the storage inside: a player needs no half arithmetic.
BOUNDARY = "f32"
_INDEX_LIMIT = 2**31  # kernels index with 32-bit integers


@dataclass(frozen=True, slots=True)
class Build:
    """What a call is built with beside what follows from its op and its sizes.

    `tuning` has values in place of the call's tunables, `touched` the bytes of tensors that it reads or writes in part,
    `kernel` is one of a way that was chosen before, and `scratch` a tensor that it works in, its last output.
    """

    defines: Mapping[str, int] = field(default_factory=dict)
    tuning: Mapping[str, int] = field(default_factory=dict)
    touched: Mapping[str, int] = field(default_factory=dict)
    kernel: KernelFile | None = None
    scratch: str = ""


class Lowering:
    """Collects calls. One instance lowers one graph; rules (rules.py) drive it node by node."""

    def __init__(
        self,
        graph: ir.Graph,
        component: str,
        storage: str,
        kernels: Mapping[str, KernelFile],
        exact: frozenset[str],
        target: Target,
        weights: str = "",
        without: Collection[str] = (),
    ) -> None:
        """`exact` names the values that stay float32 whatever `storage` is; `weights` says in which bits those of
        products are (`lower`); `without` has the methods to leave out."""
        self.graph, self.component, self.storage = graph, component, storage
        self.kernels, self.exact, self.target = kernels, exact, target
        self.weights, self.without, self.math = weights, without, target.math
        self.rooms: Mapping[str, int] = {}  # node name -> bytes of scratch, where it may have more than others
        # node -> kernels that its target's device computes wrongly as they would be built for it, and why: those that
        # another way must be found around, and those that were met
        self.around: Mapping[str, Mapping[str, str]] = {}
        self.met: dict[str, dict[str, str]] = {}
        methods = {method: MethodUse() for method in METHODS}
        self.program = Program(component, {}, [], (), (), methods=methods, math=target.math)
        self._home: dict[str, str] = {}  # value name -> name of the tensor that holds it (views share their source's)
        self._cast: dict[tuple[str, str], str] = {}
        # values that are columns of a wider tensor, or rows of a longer one, until somebody needs them dense
        self._parts: dict[str, Rows] = {}
        self._places = joined(graph, exact)

    def room(self, node: ir.Node) -> int:
        """Bytes that a method may use between its own kernels at this node."""
        return max(self.target.scratch, self.rooms.get(str(node.name), 0))

    @property
    def panels(self) -> bool:
        """Whether the weights of products are stored in panels: where the target wants that, and where some are in few
        bits, which kernels read in panels only."""
        return self.target.panels or bool(self.weights)

    # Values -------------------------------------------------------------------------------------------------------

    def dtype_of(self, value: ir.Value) -> str:
        """Storage type in which `value` is kept."""
        if value.dtype in INTEGERS:
            return "i32"
        return "f32" if value.name in self.exact else self.storage

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The value as an array if it is known now, else None."""
        if value is None or value.const_value is None:
            return None
        return value.const_value.numpy()

    def add_input(self, value: ir.Value) -> None:
        """Declare a graph input; its storage is the boundary type."""
        dtype = self._boundary(value, self.dtype_of(value))
        name = self._tensor(str(value.name), static_shape(value), dtype)
        self._home[str(value.name)] = name

    def operand(self, value: ir.Value, dtype: str) -> str:
        """Name of a tensor that holds `value` in storage `dtype`, cast or loaded from the weights if need be."""
        name = str(value.name)
        if name in self._parts and name not in self._home:
            self._home[name] = self._dense(value)
        if name not in self._home:
            if value.const_value is None:
                raise GraphError("it is used before it is made.", where=f"value {name}")
            return self.weight(name, value.const_value, dtype)
        home = self._home[name]
        have = self.program.tensors[home].dtype
        if have == dtype:
            return home
        if "i32" in (have, dtype):
            what = f"it is {have} where {dtype} is needed."
            raise GraphError(what, where=f"value {name}", fix="cast it in the graph")
        if (home, dtype) not in self._cast:
            self._cast[home, dtype] = self._emit_cast(home, f"{home}:{dtype}", dtype)
        return self._cast[home, dtype]

    def weight(self, name: str, values: ir.TensorProtocol, dtype: str) -> str:
        """A tensor filled from the bundle's weights, stored as `dtype`. One tensor for each name and storage type."""
        key = name if dtype in (self.storage, "i32") else f"{name}:{dtype}"
        if key not in self.program.tensors:
            self._tensor(key, tuple(values.shape.numpy()), dtype)
            self.program.weights[key] = values
        return key

    def part(self, result: ir.Value, source: ir.Value, first: int) -> None:
        """`result` is columns of `source` from `first` on; not copied as long as kernels can read it where it is."""
        held = self.rows(source, self.dtype_of(result))
        self._parts[str(result.name)] = replace(held, first=held.first + first)

    def cut(self, result: ir.Value, source: ir.Value, first: int) -> None:
        """`result` is rows of each item of `source`, from number `first` on: as `part`."""
        held = self.rows(source, self.dtype_of(result))
        self._parts[str(result.name)] = held.cut(static_shape(source), first)

    def rows(self, value: ir.Value, dtype: str) -> Rows:
        """Where the rows of `value` are, for a kernel that reads parts of rows, and items that stand apart."""
        held = self._parts.get(str(value.name))
        if held is not None and self.program.tensors[held.tensor].dtype == dtype:
            return held
        return Rows(self.operand(value, dtype), 0, row_of(value))

    def strided(self, value: ir.Value, dtype: str) -> Strided:
        """The same for a kernel that reads parts of rows, one after another."""
        held = self.rows(value, dtype)
        return (self.operand(value, dtype), 0, row_of(value)) if held.item else (held.tensor, held.first, held.row)

    def place(self, value: ir.Value) -> Rows | None:
        """Where in a longer tensor the rows of a node's output go; None where they have a tensor of their own."""
        return self._places[str(value.name)].within("") if str(value.name) in self._places else None

    def view(self, result: ir.Value, source: ir.Value) -> None:
        """`result` is `source` under another shape: no call, no copy."""
        name = str(source.name)
        held = self._parts.get(name)
        if held is not None and not held.item and held.row in (0, static_shape(source)[-1]):  # dense, however it is cut
            self._parts[str(result.name)] = replace(held, row=row_of(result))
            return
        if name in self._parts:
            self.operand(source, self.dtype_of(source))
        if name in self._home:
            self._home[str(result.name)] = self._home[name]
        elif source.const_value is not None:
            self._home[str(result.name)] = self.operand(source, self.dtype_of(result))
        else:
            raise GraphError("it is used before it is made.", where=f"value {name}")

    def result(self, value: ir.Value) -> str:
        """A fresh tensor for a node's output, or the one that others write with it."""
        name = str(value.name)
        if (place := self._places.get(name)) is not None:
            self._parts[name] = place.within(self.whole(place.whole))
            return self._parts[name].tensor
        dtype = self.dtype_of(value)
        self._home[name] = self._tensor(self._inner(value, dtype), static_shape(value), dtype)
        return self._home[name]

    def whole(self, value: ir.Value) -> str:
        """The tensor of an output that several nodes may write, made by the first of them."""
        return self._home.get(str(value.name)) or self.result(value)

    def scratch(self, name: str, shape: Sequence[int], dtype: str) -> str:
        """A fresh tensor that no graph value names."""
        self.program.scratch.add(name)
        return self._tensor(name, tuple(shape), dtype)

    # Calls --------------------------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        node: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        dims: Mapping[str, int | float],
        flops: int = 0,
        build: Build = Build(),
    ) -> None:
        """Append a call of the kernel that was chosen before, or of the one that is selected for `op` at `dims`.

        Raises:
            NoKernelError: no kernel fits, with each one's reason; or what a rule asks for exceeds the target's limits.
        """
        tensors = self.program.tensors
        stored = outputs if "W4" in build.defines else (*inputs, *outputs)  # whose scales are half in any storage
        half = int(any(tensors[name].dtype == "f16" for name in stored))
        kernel = build.kernel or self.choose(op, node, dims, half).first
        assert (len(inputs), len(outputs)) == (len(kernel.header["in"]), len(kernel.header["out"])), (
            f"operands of {kernel.name}"
        )
        tuned = tunables(kernel, {**dims, **build.defines, "F16": half}, self.target)
        self.program.tuned[tuned.source] += 1
        if tuned.cut:
            self.program.fallbacks.append(f"{self.component}: {node} runs {kernel.name} smaller: {tuned.cut}")
        tuning = tuned.values | dict(build.tuning)
        grid, group = kernel.launch(dims, tuning)
        built = {"F16": half} | ({f"OP_{op}": 1} if f"OP_{op}" in kernel.text else {})
        built |= {f"{MATH_DEFINE}{self.math}": 1} if kernel.maths else {}
        built |= used(kernel, self.target, bool(half)) | tuning | dict(build.defines)
        read = imaged(kernel, [tensors[name] for name in inputs], {**dims, **built}, self.target)
        built |= read.defines
        if reason := over_limits(kernel, built, self.target):
            raise NoKernelError(
                f"{kernel.name} does not run on {self.target.name}: {reason}.",
                where=f"{self.component}: {node}",
                fix="choose another --target, or smaller tunables",
            )
        self.program.fallbacks += [f"{self.component}: {node} {fallback}" for fallback in read.fallbacks]
        self.program.needs |= kernel.built_on(built)
        self._meet(kernel, built, node)
        inplace = kernel.inplace(dims, built)
        if any(number == inplace for number, *_ in read.images):
            inplace = None  # a stand-in is read as no image
        # An input that stands in two places is read once.
        sizes = {name: tensors[name].nbytes for name in (*inputs, *outputs)} | dict(build.touched)
        reads, writes = traffic(op, [sizes[name] for name in dict.fromkeys(inputs)], [sizes[name] for name in outputs])
        self.program.calls.append(
            Call(
                kernel=kernel.name,
                defines=tuple(sorted(built.items())),
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                scalars=kernel.scalars(dims),
                grid=grid,
                group=group,
                node=node,
                op=op,
                flops=flops,
                reads=reads,
                writes=writes,
                inplace=inplace,
                images=read.images,
            )
        )

    def choose(self, op: str, node: str, dims: Mapping[str, int | float], half: int) -> Way:
        """How `op` is computed at `dims` in storage of half or single precision; what became of methods is noted.

        Raises:
            NoKernelError: no way fits; with each one's reason.
        """
        around = self.around.get(node)
        choice = select(op, {**dims, "F16": half}, self.target, self.kernels, self.without, around)
        if choice.fallback:
            self.program.fallbacks.append(f"{self.component}: {node} {choice.fallback}")
        if method := choice.way.first.method:
            self.program.methods[method].applied += 1
        self.program.in_math.applied += self.math in choice.way.first.maths
        if choice.unmet:
            self.program.in_math.skipped[f"{op}: {choice.unmet}"] += 1
        for loser, reason in choice.methods.items():
            if loser != method:
                self.program.methods[loser].skipped[reason] += 1
        return choice.way

    def _meet(self, kernel: KernelFile, defines: Mapping[str, int], node: str) -> None:
        """Note a program that is wrong on the target's device. Raises NoKernelError where there is no way around it."""
        reasons = (avoided.reason(kernel.name, kernel.text, defines) for avoided in self.target.avoided)
        if (why := next(filter(None, reasons), None)) is None:
            return
        if kernel.name in self.around.get(node, {}):
            raise NoKernelError(
                f"no kernel fits ({kernel.name}: {why}).",
                where=f"{self.component}: {node}",
                fix="convert with another --target or --dtype, or without --avoid",
            )
        self.met.setdefault(node, {})[kernel.name] = why

    def tuning(self, kernel: str, sizes: Mapping[str, int | float] | None = None, dtype: str = "f32") -> dict[str, int]:
        """The tunables that a call of `kernel` gets on this target, for rules that must know them before they emit it.

        Args:
            sizes: the call's dims and defines as `emit` will get them, but for those that follow from the tunables.
            dtype: its storage.
        """
        return tunables(
            self.kernels[kernel], None if sizes is None else {**sizes, "F16": int(dtype == "f16")}, self.target
        ).values

    def emit_node(
        self,
        node: ir.Node,
        inputs: Sequence[str],
        dims: Mapping[str, int | float],
        op: str | None = None,
        build: Build = Build(),
    ) -> None:
        """`emit` for a node with one output, its FLOPs from the op table; `op` where headers name another."""
        shapes = [static_shape(v) for v in node.inputs if v is not None and v.shape is not None]
        row = find(node.domain, node.op_type)
        assert row is not None, "verify_graph let it through"
        flops = row.flops(shapes, [static_shape(node.outputs[0])])
        outputs = [self.result(node.outputs[0]), *[build.scratch] * bool(build.scratch)]
        if self.place(node.outputs[0]) is not None:
            own = bytes_of(node.outputs[0], self.program.tensors[outputs[0]].dtype)
            build = replace(build, touched={**build.touched, outputs[0]: own})
        if build.scratch:  # written and read by one work-item: it is not traffic
            build = replace(build, touched={**build.touched, build.scratch: 0})
        self.emit(op or node.op_type, str(node.name), inputs, outputs, dims, flops, build)

    def finish(self) -> Program:
        """Bring every graph output into its own tensor at the boundary type."""
        program = self.program
        for value in self.graph.outputs:
            name = str(value.name)
            # a part of rows
            home = self._home[name] if name in self._home else self.operand(value, self.dtype_of(value))
            have = program.tensors[home]
            boundary = self._boundary(value, have.dtype)
            if home == name and home not in program.inputs and home not in program.weights:
                continue
            if have.dtype != boundary:
                self._emit_cast(home, name, boundary, static_shape(value))
            else:
                walk = contiguous(have.shape)
                dims = arguments(have.shape, s=walk, d=walk)
                assert dims is not None, "a contiguous walk collapses to one dimension"
                target = self._tensor(name, static_shape(value), boundary)  # a view has its own shape
                self.emit("Identity", name, [home], [target], dims | {"s_offset": 0, "d_offset": 0})
        program.outputs = tuple(str(value.name) for value in self.graph.outputs)
        return program

    def _dense(self, value: ir.Value) -> str:
        """A copy of a part of rows, for a kernel that reads dense tensors only."""
        held, shape = self._parts[str(value.name)], static_shape(value)
        dims = arguments(shape, s=held.steps(shape), d=contiguous(shape))
        if dims is None:
            raise GraphError("its rows are spread over too many dimensions.", where=f"value {value.name}")
        dtype = self.program.tensors[held.tensor].dtype
        target = self._tensor(self._inner(value, dtype), shape, dtype)
        self.emit("Identity", str(value.name), [held.tensor], [target], dims | {"s_offset": held.first, "d_offset": 0})
        return target

    def _emit_cast(self, source: str, name: str, dtype: str, shape: tuple[int, ...] | None = None) -> str:
        have = self.program.tensors[source]
        target = self._tensor(name, shape or have.shape, dtype)
        defines = {"SRC_F16": int(have.dtype == "f16"), "DST_F16": int(dtype == "f16")}
        self.emit("Cast", name, [source], [target], {"n": have.size}, build=Build(defines))
        return target

    def _inner(self, value: ir.Value, dtype: str) -> str:
        """A graph output computed in another type than the boundary's
        is kept under another name until its final cast."""
        name = str(value.name)
        return f"{name}:{dtype}" if value in self.graph.outputs and dtype != self._boundary(value, dtype) else name

    @staticmethod
    def _boundary(value: ir.Value, dtype: str) -> str:
        """How a graph input or output is passed: halves where the graph itself says so,
        as between the stages of a decoder in bands."""
        return "i32" if dtype == "i32" else "f16" if value.dtype == ir.DataType.FLOAT16 else BOUNDARY

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        if name in self.program.tensors:
            raise GraphError("the name is used twice.", where=f"tensor {name}")
        if dtype not in DTYPES:
            raise GraphError(
                f"storage type {dtype} is unknown (expected one of {', '.join(DTYPES)}).", where=f"tensor {name}"
            )
        if prod(shape) >= _INDEX_LIMIT:
            raise PlanError(
                f"it has {prod(shape)} elements (expected under {_INDEX_LIMIT}: kernels index with 32 bits).",
                where=f"{self.component}: tensor {name} {shape}",
                fix="use a smaller --size",
            )
        self.program.tensors[name] = Tensor(name, shape, dtype)
        return name
