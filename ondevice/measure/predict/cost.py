"""What a dispatch takes on a device that is known by its roofline.

    seconds = max(FLOPs / arithmetic rate, bytes / memory rate) + launch

The rates are the target's peaks (`[roofline]` in its file) times what part of them kernels reach. Arithmetic is at the
peak of half precision for products whose kernel multiplies in half, at that of single precision for everything else.
A launch's own time is added: the next command waits for this one's results, and starts once it is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ondevice.graph.epilogue import CONV, LINEAR, NORMS, read
from ondevice.measure.predict.constants import Efficiencies
from ondevice.plan.plan import Dispatch, Plan, home
from ondevice.target import Roofline

PRODUCTS, CONVOLUTIONS, ATTENTION = "products", "convolutions", "attention"
WINOGRAD, TRANSFORMS = "Winograd's products", "Winograd's transforms"
NORMALIZATION, REST = "norms", "element-wise, moves"
CLASSES = (PRODUCTS, CONVOLUTIONS, WINOGRAD, TRANSFORMS, ATTENTION, NORMALIZATION, REST)  # as tables list them
MULTIPLIES = {PRODUCTS, CONVOLUTIONS, WINOGRAD, ATTENTION}  # classes whose arithmetic may be in half precision
OF_OP = {
    **dict.fromkeys(("MatMul", "Gemm", *LINEAR), PRODUCTS),
    **dict.fromkeys(("Conv", *CONV), CONVOLUTIONS),
    **dict.fromkeys(("Attention", "MaskedAttention", "Softmax"), ATTENTION),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", *NORMS), NORMALIZATION),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a dispatch is predicted to take, in seconds, and what of. `weights`: bytes of those that it reads."""

    op_class: str
    flops: int
    moved: int
    weights: int
    arithmetic: float
    memory: float
    launch: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.memory) + self.launch

    @property
    def for_bytes(self) -> float:
        """Seconds of `memory` where they decide, else 0."""
        return self.memory if self.memory > self.arithmetic else 0.0


def costs(plan: Plan, roofline: Roofline, efficiencies: Efficiencies) -> Iterator[Cost]:
    """What each dispatch of a plan takes, in order."""
    conv_nodes = {call.node for call in plan.dispatches if class_of(call.op) == CONVOLUTIONS}
    # A convolution that is made of products is Winograd's; its other commands are the transforms.
    winograd = {call.node for call in plan.dispatches if call.op == "MatMul" and call.node in conv_nodes}
    for call in plan.dispatches:
        op_class = class_of(call.op)
        if call.node in winograd:
            op_class = WINOGRAD if op_class == PRODUCTS else TRANSFORMS
        half = op_class in MULTIPLIES and dict(plan.kernels[call.kernel].defines).get("HALF") == 1
        peak = (roofline.fp16_tflops if half else roofline.fp32_tflops) * 1e12
        moved = call.reads + call.writes
        yield Cost(
            op_class,
            call.flops,
            moved,
            weight_bytes(plan, call),
            arithmetic=call.flops / (peak * efficiencies.arithmetic),
            memory=moved / (roofline.gb_per_s * 1e9 * efficiencies.memory),
            launch=roofline.launch_us / 1e6,
        )


def class_of(op: str) -> str:
    """One of CLASSES for an op, with whatever steps; those of Winograd are told by the node alone."""
    stepped = read(op)
    return OF_OP.get(stepped.base if stepped else op, REST)


def weight_bytes(plan: Plan, call: Dispatch) -> int:
    """Bytes of the weights that a dispatch reads."""
    inputs = call.operands[: len(call.operands) - call.outputs]
    homes = {home(plan.operands, number) for number in inputs}
    return sum(plan.operands[number].nbytes for number in homes if plan.operands[number].weight is not None)
