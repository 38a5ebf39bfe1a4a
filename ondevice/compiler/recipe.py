"""How a model is compiled: everything that every plan of a bundle has in common, as one value."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from ondevice.compiler.jobs import Frames
from ondevice.converters import Model
from ondevice.target import FP32, Target, load_target


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the flags of `ondevice.flags.add_plan_arguments` say, and what is passed on whole.

    dtype: storage of every component but text encoders, "f16" or "f32".
    weights: "i8", "i4": the larger weights of products and convolutions in so many bits; "": as `dtype`.
    target: which methods are taken, and which tunables the kernels get.
    others: targets for which a bundle has plans, too, after `target`'s; `set_name` is what they are called together.
    without: families of fusion rules and methods to leave out (`ondevice.rewrite.CHOICES`).
    tile_vae: add plans that decode in bands of at most so many rows of pixels; 0: where one piece would be large.
    chunks: texts may be so many times as long as a text encoder takes at once; 1: plans are for that length alone.
    film: how many frames films have, and how many are decoded at once.
    math: what the products of every component but text encoders are multiplied in (`ondevice.target.MATHS`), where the
        target has kernels for that; all other arithmetic is float32.
    weights_of: the components whose weights are in that few bits; (): all.
    ranks: plans for so many devices that share each step are added; 1: none.
    """

    dtype: str = "f16"
    weights: str = ""
    target: Target = field(default_factory=lambda: load_target("host"))
    without: Collection[str] = ()
    tile_vae: int = 0
    chunks: int = 1
    film: Frames = field(default_factory=Frames)
    others: Sequence[Target] = ()
    set_name: str = ""
    math: str = FP32
    weights_of: Collection[str] = ()
    ranks: int = 1

    @property
    def name(self) -> str:
        """What a bundle is for: a target's name, or that of a set."""
        return self.set_name or self.target.name

    def each(self) -> list[Recipe]:
        """A recipe for each of its targets."""
        return [replace(self, target=target, others=()) for target in (self.target, *self.others)]

    def storage(self, model: Model, component: str) -> str:
        """How a component is stored: as `dtype`, but for those whose rounding would reach every step
        (a text encoder), in float32."""
        return "f32" if model.precise(component) else self.dtype

    def few_bits(self, component: str) -> str:
        """`weights` of a component."""
        return self.weights if not self.weights_of or component in self.weights_of else ""

    def multiplied_in(self, model: Model, component: str) -> str:
        """What a component's products are in: `math`, but for those whose rounding would reach every step."""
        return FP32 if model.precise(component) else self.math
