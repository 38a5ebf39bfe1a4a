"""How a picture is drawn, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ondevice.bundle.reader import Bundle
from ondevice.plan.blocks import Streaming, window_of
from ondevice.plan.plan import Plan

WINDOW = ""  # in the place of shards, what weights are streamed through


@dataclass(frozen=True, slots=True)
class Way:
    """How a picture is drawn."""

    split: bool = False  # guidance in two passes of batch 1
    rows: int = 0  # of a band of the decoder; 0: in one piece
    unload: bool = False  # weights are given back after a component's last use
    changed: frozenset[str] = frozenset()  # weights that adapters change: they have memory of their own
    fast: bool = False  # the fast decoder in the place of the whole one
    previews: bool = False  # by the fast decoder
    stream: Streaming | None = None  # weights are loaded a block at a time

    def text(self) -> str:
        """What it does differently, for people."""
        done = [
            ["guidance in two passes"] * self.split,
            [f"decoding in bands of {self.rows} rows"] * bool(self.rows),
            ["giving weights back after use"] * self.unload,
            ["by the fast decoder"] * self.fast,
            ["streaming weights"] * (self.stream is not None),
        ]
        return ", ".join(word for words in done for word in words) or "all at once"


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that drawing one picture takes. `arena` is with what stays on the device between components of a call, and
    from before the loop for all calls; `weights` are whole shards, as a device holds them, or the most that are there
    at a time of those that are streamed; `host` is what arrays between the components take beside the device's memory;
    `changed` what weights take that adapters change."""

    way: Way
    arena: int
    weights: int
    device: int  # the most of arena and weights together, at any time
    host: int
    changed: int = 0

    def total(self, *, mapped: bool) -> int:
        """All of it; weights that are mapped from their files as a whole are the system's to drop, and not counted."""
        left_out = mapped and self.way.stream is None
        return (self.arena + self.changed if left_out else self.device) + self.host


@dataclass(slots=True)
class Part:
    """What one component takes: the most of its plans' arenas; whole shards of weights by name, or the WINDOW that they
    are streamed through; weights by key that adapters change; of one that runs in the loop what stays on the device
    beside its arena; and of the decoder the pictures that lie in the host's memory."""

    component: str
    arena: int = 0
    weights: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    host: int = 0

    def add(self, bundle: Bundle, plan: Plan, way: Way) -> None:
        """Count one of its plans. Raises PlanError where its weights are streamed through too small a window."""
        self.arena = max(self.arena, plan.arena)
        changed = {one.weight: one.nbytes for one in plan.operands if one.weight in way.changed}
        self.changed |= {key: size for key, size in changed.items() if key is not None}
        if way.stream is not None:
            window = window_of(plan, way.stream, way.changed)
            add(self.weights, {WINDOW: window.most if way.stream.mapped else window.nbytes})
            return
        shards = {bundle.weight(one.weight)[0] for one in plan.operands if one.weight is not None}
        add(self.weights, {shard: bundle.manifest.files[shard].bytes for shard in shards})

    @property
    def most(self) -> int:
        """All of it."""
        return self.arena + self.kept + sum(self.weights.values()) + sum(self.changed.values())


def add(held: dict[str, int], more: Mapping[str, int]) -> None:
    """Count memory by name: what has one name is one piece, as large as it ever must be."""
    held |= {name: max(size, held.get(name, 0)) for name, size in more.items()}
