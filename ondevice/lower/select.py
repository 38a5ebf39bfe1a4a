"""Which kernels compute an op: the one place that chooses, for an op of some sizes on a target.

A way to compute an op is one kernel, or several that run one after another (`after` in their headers). Ways are ranked
by what they ask for, as that is what makes them fast: methods before the plain way (where a method pays, the target
says), kernels of the target's own class before portable ones, more needs before fewer. Where a math is asked for, ways
that multiply in it go before all others, and plain ones before methods; but methods that the target says outrun its
matrix unit go first, in that math and then in float32. The first that fits is taken, and each before it says why it
lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ondevice.errors import NoKernelError
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.tunables import over_limits, tunables, whole_numbers
from ondevice.target import ALL, FP32, Target


@dataclass(frozen=True, slots=True)
class Bound:
    """A size from which, or up to which, a target says that a method pays:
    `key` of the target's bounds, about the dim `dim`."""

    key: str
    dim: str
    words: str  # why a size beyond it is none for the method
    most: bool = False
    asked_for: bool = False  # without the bound the method is not taken, rather than always

    def reason(self, dims: Mapping[str, int | float], bounds: Mapping[str, int]) -> str | None:
        """Why the target does not want the method at these sizes; None if it does."""
        limit = bounds.get(self.key)
        if limit is None:
            return "the target does not ask for it" if self.asked_for else None
        beyond = dims[self.dim] > limit if self.most else dims[self.dim] < limit
        return self.words.format(limit) if beyond else None


PAYS: dict[str, tuple[Bound, ...]] = {
    "flash": (
        Bound("max_head", "head", "its heads have more than {} columns", most=True),
        Bound("min_queries", "queries", "it has fewer than {} queries"),
        Bound("min_keys", "keys", "it has fewer than {} keys"),
    ),
    "winograd": (
        Bound("min_channels", "ic", "it has fewer than {} channels"),
        Bound("min_outputs", "oc", "it makes fewer than {} channels"),
        Bound("min_tiles", "tiles", "it has fewer than {} tiles of 4x4"),
    ),
    "two_commands": (Bound("two_commands", "pixels", "it has fewer than {} pixels", asked_for=True),),
}


@dataclass(frozen=True, slots=True)
class Way:
    """Kernels that compute an op together, in order. The first one's header speaks for all."""

    kernels: tuple[KernelFile, ...]

    @property
    def first(self) -> KernelFile:
        return self.kernels[0]

    def multiplies_in(self, math: str) -> bool:
        """Whether its products are in that of `ondevice.target.MATHS`."""
        return math in (self.first.maths or (FP32,))

    @property
    def plain(self) -> bool:
        """Whether it is no method of its own, and runs anywhere."""
        return not self.first.method and self.first.kernel_class == "portable"

    @property
    def needs(self) -> int:
        """How many needs it has, of shapes and of a device."""
        return sum(len(kernel.header["needs"]) + len(kernel.caps) for kernel in self.kernels)

    def misfit(self, dims: Mapping[str, int | float]) -> str | None:
        """Why it does not compute the op at these sizes, however it is tuned; None if it does."""
        found = (kernel.misfit(dims, kernel.header["needs"].keys() - kernel.tuned_needs) for kernel in self.kernels)
        return next(filter(None, found), None)

    def avoided(self, reasons: Mapping[str, str]) -> str | None:
        """Why one of its kernels is to be avoided, by their names; None where none is."""
        return next((reasons[kernel.name] for kernel in self.kernels if kernel.name in reasons), None)

    def untuned(self, dims: Mapping[str, int | float], target: Target) -> str | None:
        """Why it does not compute the op as the target tunes it: such as fewer channels than a vector has, or groups
        that are over the target's limits; None if it does."""
        for kernel in self.kernels:
            values = tunables(kernel, dims, target).values
            if reason := kernel.misfit({**dims, **values}, kernel.tuned_needs):
                return reason
            if reason := over_limits(kernel, {**whole_numbers(dims), **values}, target):
                return reason
        return None


@dataclass(frozen=True, slots=True)
class Choice:
    """The way that is taken. `losers`: why each way before it lost, by its first kernel. `methods`: why methods did
    that could compute the op at these sizes. `unmet`: why no way in the math that was asked for is taken; "" where one
    is, or none computes the op in it."""

    way: Way
    losers: Mapping[str, str]
    methods: Mapping[str, str]
    general: bool  # correct for every shape, and slow: the op fell through what was made for it
    unmet: str = ""

    @property
    def fallback(self) -> str | None:
        """What to tell where a general kernel is taken; None where none is."""
        if not self.general:
            return None
        return (
            f"runs on the general kernel {self.way.first.name}: "
            f"{'; '.join(f'{name}: {why}' for name, why in self.losers.items())}"
        )


def ways(
    op: str, kernels: Mapping[str, KernelFile], math: str | None = None, outruns: Collection[str] = ()
) -> list[Way]:
    """The ways to compute `op`, best first.

    Args:
        math: only those that multiply in it, and behind them those in float32; None: in any.
        outruns: methods that go before the plain way in another math than float32, in that math and in float32.
    """
    ours = [kernel for kernel in kernels.values() if op in kernel.ops]
    later = {kernel.after: kernel for kernel in ours if kernel.after}
    found = []
    for kernel in ours:
        if kernel.after:
            continue
        chain = [kernel]
        while chain[-1].name in later:
            chain.append(later[chain[-1].name])
        found.append(Way(tuple(chain)))
    if math is not None:
        found = [way for way in found if way.multiplies_in(math) or way.multiplies_in(FP32)]

    def order(way: Way) -> tuple[object, ...]:
        method, ahead = way.first.method, math is None or way.first.method in outruns
        after = not ahead and not way.multiplies_in(math or FP32)
        rank = 1 if not method else 0 if ahead or not way.first.maths else 2
        unlike = math not in way.first.maths
        return after, rank, unlike, way.first.kernel_class == "portable", -way.needs, way.first.name

    return sorted(found, key=order)


def general(kernels: Mapping[str, KernelFile]) -> frozenset[str]:
    """Kernels that take every shape of an op which has another plain kernel, faster and with needs.
    --strict refuses them."""
    found = set()
    for op in {op for kernel in kernels.values() for op in kernel.ops}:
        plain = [way for way in ways(op, kernels) if way.plain]
        found |= {way.first.name for way in plain if not way.needs and any(other.needs for other in plain)}
    return frozenset(found)


def select(
    op: str,
    dims: Mapping[str, int | float],
    target: Target,
    kernels: Mapping[str, KernelFile],
    without: Collection[str] = (),
    avoided: Mapping[str, str] | None = None,
) -> Choice:
    """The first way to compute `op` at `dims` (its sizes, and defines such as F16) that the target can run and wants.

    Args:
        target: with the math that products are asked for in; float32 does where no way is in that.
        without: methods to leave out; "all" leaves out every one.
        avoided: kernels that are wrong on the target's device as they would be built here -> why.

    Raises:
        NoKernelError: none fits; with each way's reason.
    """
    losers: dict[str, str] = {}
    methods: dict[str, str] = {}
    plain_losers: dict[str, str] = {}
    ranked = ways(op, kernels, target.math, target.outruns)
    for way in ranked:
        method = way.first.method
        reason = next(filter(None, (target.refuses(kernel.kernel_class, kernel.caps) for kernel in way.kernels)), None)
        reason = reason or target.unwanted(way.first.maths)
        if reason is None and method and (method in without or ALL in without):
            reason = f"--without {method}"
        elif reason is None and (reason := way.misfit(dims)) is None:
            bounds = () if way.first.maths else PAYS.get(method, ())  # measured for kernels in float32
            pays = (bound.reason(dims, target.bounds(method)) for bound in bounds)
            reason = next(filter(None, pays), None) or way.untuned(dims, target) or way.avoided(avoided or {})
            if reason is None:
                general = way.plain and not way.needs and bool(plain_losers)
                unmet = "" if way.multiplies_in(target.math) else _unmet(way, ranked, target.math, losers)
                return Choice(way, plain_losers if general else losers, methods, general, unmet)
            if method:
                methods.setdefault(method, reason)
        losers[way.first.name] = reason
        if way.plain:
            plain_losers[way.first.name] = reason
    why = "; ".join(f"{name}: {reason}" for name, reason in losers.items()) or "no file for this op"
    fix = "convert with another --target or --dtype, or without --avoid" if avoided else "add a fallback kernel"
    raise NoKernelError(f"no kernel fits ({why}).", where=f"{op} {dict(dims)}", fix=fix)


def _unmet(taken: Way, ranked: Sequence[Way], math: str, losers: Mapping[str, str]) -> str:
    """Why the best of the ways in a math is not taken; "" where there is none."""
    wanted = next((way for way in ranked if way.multiplies_in(math)), None)
    if wanted is None:
        return ""
    return losers.get(wanted.first.name) or f"{taken.first.method} in {FP32} is faster on the target"
