"""Hand-made plans and a bundle that lives in memory, for tests of the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ondevice.plan.plan import ALIGN, Dispatch, Kernel, Operand, Plan

PRELUDE = """\
#define KERNEL(name) __kernel void name
#define IN(T, x) __global const T* restrict x
#define OUT(T, x) __global T* restrict x
"""
KERNELS = {
    "affine": "KERNEL(affine)(IN(float, x), IN(float, w), OUT(float, y), const int n, const float factor) {\n"
    "  const int i = get_global_id(0);\n  if (i < n) y[i] = factor * x[i] + w[i % WEIGHTS];\n}\n",
    "root": "KERNEL(root)(IN(float, x), OUT(float, y), const int n) {\n"
    "  const int i = get_global_id(0);\n  if (i < n) y[i] = sqrt(x[i]);\n}\n",
    "part": "KERNEL(part)(IN(float, x), OUT(float, y), const int n, const int at) {\n"
    "  const int i = get_global_id(0);\n  if (i < n) y[at + i] = x[i];\n}\n",
    "wrong": "KERNEL(wrong)(IN(float, x), OUT(float, y), const int n) {\n  y[0] = missing;\n}\n",
}
WEIGHTS = np.array([1.0, -2.0, 0.5, 4.0], np.float32)
MASK = np.array([0.0, -np.inf, 0.0, -np.inf], np.float32)
GROUP = 4


class FakeBundle:
    """A bundle of the given plans; `mask` and `bias` lie 512 bytes apart in one shard."""

    def __init__(self, *plans: Plan) -> None:
        self.plans = plans
        self.unmapped: list[str] = []
        self.data = np.zeros(2 * ALIGN, np.uint8)
        self.data[:16], self.data[ALIGN : ALIGN + 16] = WEIGHTS.view(np.uint8), MASK.view(np.uint8)
        self.data.flags.writeable = False

    def plan(self, component: str, **sizes: int) -> Plan:
        return next(plan for plan in self.plans if plan.component == component and plan.sizes == sizes)

    def weight(self, key: str) -> tuple[str, int, int]:
        return "weights/0.bin", {"bias": 0, "mask": ALIGN}[key], 16

    def shard(self, name: str) -> np.ndarray:
        assert name == "weights/0.bin"
        return self.data

    def unmap(self, name: str) -> None:
        self.unmapped.append(name)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        pass

    expect = drop = fetch

    def source(self, file: str, dialect: str, defines: Mapping[str, int] | tuple[tuple[str, int], ...]) -> str:
        assert dialect == "opencl"
        flags = "".join(f"#define {name} {value}\n" for name, value in sorted(dict(defines).items()))
        return f'{flags}{PRELUDE}#line 1 "{file}.cl"\n{KERNELS[file]}'


def make_plan(
    n: int, steps: list[tuple[str, tuple[str, ...], str, tuple[int | float, ...]]], component: str = "net"
) -> Plan:
    """A plan over f32[n] tensors, each with a place of its own: x is the input, y the output;
    `bias` and `mask` are weights f32[4].

    Args:
        steps: (kernel, inputs, output, scalars after n).
    """
    names = dict.fromkeys(["x", *(name for _, inputs, output, _ in steps for name in (*inputs, output))])
    size = -(-4 * n // ALIGN) * ALIGN
    operands, offset = [], 0
    for name in names:
        if name in ("bias", "mask"):
            operands.append(Operand(name, "f32", (4,), 16, weight=name))
        else:
            operands.append(Operand(name, "f32", (n,), 4 * n, offset=offset))
            offset += size
    index = {name: number for number, name in enumerate(names)}
    kernels = tuple(
        Kernel(file, (("WEIGHTS", 4),) if file == "affine" else ()) for file in dict.fromkeys(step[0] for step in steps)
    )
    files = [kernel.file for kernel in kernels]
    dispatches = tuple(
        Dispatch(
            kernel=files.index(file),
            operands=tuple(index[name] for name in (*inputs, output)),
            outputs=1,
            scalars=(n, *scalars),
            grid=(-(-n // GROUP) * GROUP, 1, 1),
            group=(GROUP, 1, 1),
            node=f"/{number}/{file}",
            op=file.title(),
            flops=2 * n,
            reads=4 * n,
            writes=4 * n,
        )
        for number, (file, inputs, output, scalars) in enumerate(steps)
    )
    return Plan(
        component, {"width": n}, "f32", offset, tuple(operands), (index["x"],), (index["y"],), kernels, dispatches
    )


def three_steps(n: int, component: str = "net") -> Plan:
    """y = 2 * sqrt(2 * x + bias) - bias' with bias repeated every 4 elements; see `three_steps_answer`."""
    steps = [("affine", ("x", "bias"), "a", (2.0,)), ("root", ("a",), "b", ()), ("affine", ("b", "bias"), "y", (-3.0,))]
    return make_plan(n, steps, component)


def three_steps_answer(x: np.ndarray) -> np.ndarray:
    bias = np.resize(WEIGHTS.astype(np.float64), x.size)
    return -3.0 * np.sqrt(2.0 * x.astype(np.float64) + bias) + bias


def with_arena(plan: Plan, nbytes: int) -> Plan:
    """The same plan in a larger arena."""
    return replace(plan, arena=nbytes)
