"""Weights whose making is said so that a reader overflows, and adapters that do not fit (docs/adapters.md)."""

from __future__ import annotations

from typing import Any

from bundle.setting import setting
from player.hostile import MANIFEST, Hostile, edited

ADAPTERS = "adapters"
MOST = 2**31 - 1
TERM = ("adapters", "first", "changes", "unet/q.weight")
UP, DOWN = (f"adapters/first/unet/q.weight:0:{word}" for word in ("up", "down"))


def made(what: str, key: str, to: Any) -> Hostile:
    return edited(f"made: {what}", ADAPTERS, MANIFEST, setting("weights", key, "made", to=to))


def leaf(*shape: int, name: str = "unet/other.weight") -> dict[str, Any]:
    return {"weight": name, "shape": list(shape)}


def op(name: str, *of: Any, **told: Any) -> dict[str, Any]:
    return {"op": name, **told, "of": list(of)}


def nested(depth: int) -> dict[str, Any]:
    return op("scale", nested(depth - 1), by=1) if depth else leaf(5, 3, 3, 3, name="unet/conv.weight")


def adapters() -> list[Hostile]:
    few, scales = "tiny/fused.int8", "tiny/fused.int8 scales"
    term = {"up": UP, "down": DOWN, "scale": 1.0}
    found = [
        made("30 steps deep", "tiny/plain", nested(30)),
        made("13 steps deep", "tiny/plain", nested(13)),
        made("a product of 2^64", "tiny/norm", op("reshape", leaf(1), shape=[65536] * 4)),
        made("a leaf of 2^93", "tiny/norm", op("reshape", leaf(*[MOST] * 3), shape=[1, 9])),
        made("columns up to 2^31, twice", "tiny/rows", op("pad", op("transpose", op("pad", leaf(8, 2), columns=MOST),
             perm=[1, 0]), columns=MOST)),
        made("panels as wide as may be", "tiny/fused", op("panels", leaf(MOST, 1), width=65536, halves=1)),
        made("panels of nothing", "tiny/fused", op("panels", leaf(40, 16), width=0, halves=1)),
        made("panels of eight axes", "tiny/fused", op("panels", leaf(*[1] * 8), width=16, halves=1)),
        made("a sum of 2^32", "tiny/norm", op("concat", *[leaf(MOST)] * 3, axis=0)),
        made("4,097 weights in all", "tiny/norm", op("concat", *[op("concat", *[leaf(1)] * 241, axis=0)] * 17, axis=0)),
        made("an axis of 2^64", "tiny/norm", op("concat", leaf(9), axis=2**64)),
        made("an order of 40 digits", "tiny/norm", op("transpose", leaf(1, 9), perm=[0, 10**39])),
        made("an order of more axes", "tiny/norm", op("transpose", leaf(9), perm=[0, 1])),
        made("a factor past float64", "tiny/norm", op("scale", leaf(1, 9), by=10**400)),
        made("no matrix in few bits", few, op("int8", leaf(2, 40, 16))),
        made("scales of 2^31 rows that are not there", scales, op("panels", op("int8_scales", leaf(MOST, 20)),
             width=16, halves=1)),
        made("numbers of 8 bits in pairs", "tiny/fused.int4", op("pairs", op("panels", op("int8", leaf(40, 20)),
             width=16, halves=1))),
        made("numbers in few bits moved about", few, op("transpose", op("int8", leaf(16, 40)), perm=[1, 0])),
        made("a name with an escape sequence", "tiny/plain", leaf(5, 3, 3, 3, name="\x1b[2J")),
        made("a name of 513 letters", "tiny/plain", leaf(5, 3, 3, 3, name="a" * 513)),
        made("its own op", "tiny/plain", op("weight", leaf(5, 3, 3, 3))),
        edited("made: scales of 4 bits for numbers of 8", ADAPTERS, MANIFEST,
               setting("weights", scales, "made", "of", 0, "op", to="int4_scales")),
        edited("made: of a factor", ADAPTERS, MANIFEST, setting("weights", UP, "made", to=leaf(6, 2))),
        edited("adapters: 257", ADAPTERS, MANIFEST,
               setting("adapters", to={f"a{i}": {"scale": 1, "changes": {}} for i in range(257)})),
        edited("adapters: a name that is a way", ADAPTERS, MANIFEST,
               setting("adapters", "a/../b", to={"scale": 1, "changes": {}})),
        edited("adapters: 17 terms", ADAPTERS, MANIFEST, setting(*TERM, to=[term] * 17)),
        edited("adapters: a scale of 1e39", ADAPTERS, MANIFEST, setting(*TERM, 0, "scale", to=1e39)),
        edited("adapters: up in the place of down", ADAPTERS, MANIFEST, setting(*TERM, to=[term | {"up": DOWN}])),
        edited("adapters: a factor that plans read", ADAPTERS, MANIFEST,
               setting(*TERM, to=[term | {"up": "tiny/rows"}])),
        edited("adapters: a factor in whole numbers", ADAPTERS, MANIFEST, setting(*TERM, to=[term | {"up": few}])),
        edited("adapters: a factor of a path", ADAPTERS, MANIFEST, setting(*TERM, to=[term | {"down": "../down"}])),
        edited("adapters: a part of a factor", ADAPTERS, MANIFEST, setting(*TERM, to=[{"up": UP, "scale": 1}])),
        edited("adapters: a change of no weight", ADAPTERS, MANIFEST,
               setting("adapters", "first", "changes", "unet/alone.weight", to=[term])),
        edited("adapters: 65,537 layers", ADAPTERS, MANIFEST,
               setting("modules", "unet", to={f"l{i}": {"shape": [1]} for i in range(65_537)})),
        edited("adapters: 17 parts", ADAPTERS, MANIFEST, setting("modules", to={f"p{i}": {} for i in range(17)})),
    ]  # fmt: skip
    return found
