"""Keys of a network's config: their defaults, and what values of them are supported.

A key that changes the network in a way our graphs do not build is refused by name; a key that only steers training or
the reference implementation (dropout, upcast_attention, ...) passes through. Defaults are those of diffusers 0.42
(UNet2DConditionModel, AutoencoderKL) and transformers 5 (CLIPTextConfig); configs written by older versions leave many
keys out. A value that diffusers treats as another one (a list of equal entries as the entry, 1 as 1.0) is brought to
one spelling; one that diffusers itself fails on (4.0 channels) is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ondevice.errors import CheckpointError

REQUIRED = object()
ITS_CONFIG = "use the config.json that came with the weights"
_NOT_BUILT = "use another checkpoint; with this setting it is another network, which ondevice does not build"
WIDEST = 1 << 20
DEEPEST = 256


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Key:
    """One config key: its default, a test, and the test in words. `default=REQUIRED` means that the key must be there.

    `plain` gives a value the spelling that is tested and kept; diffusers must treat both alike. `fix` is what helps
    where it is refused.
    """

    default: Any
    test: Callable[[Any], bool]
    words: str
    plain: Callable[[Any], Any] = _as_it_is
    fix: str = _NOT_BUILT


def is_count(value: Any, top: int = WIDEST) -> bool:
    """Whether it is a whole number from 1 to `top`."""
    return type(value) is int and 1 <= value <= top


def count(default: Any, top: int = WIDEST) -> Key:
    return Key(default, lambda v: is_count(v, top), f"a whole number from 1 to {top}", fix=ITS_CONFIG)


def counts(default: Any, most: int = 16, top: int = WIDEST) -> Key:
    return Key(
        default,
        lambda v: isinstance(v, list) and 1 <= len(v) <= most and all(is_count(x, top) for x in v),
        f"a list of 1 to {most} whole numbers from 1 to {top}",
        fix=ITS_CONFIG,
    )


def one_of_equals(value: Any) -> Any:
    """The entry of a list, one per level, whose entries are all the same."""
    same = isinstance(value, list) and value and all(type(x) is type(value[0]) and x == value[0] for x in value)
    return value[0] if same else value


def per_level(key: Key) -> Key:
    """A key that diffusers also takes as a list of one entry per level; here the levels must agree."""
    return replace(key, words=f"{key.words}, the same at every level", plain=one_of_equals)


def count_or_counts(default: Any, top: int = WIDEST) -> Key:
    one, many = count(default, top), counts(default, top=top)
    return Key(default, lambda v: one.test(v) or many.test(v), f"{one.words}, or {many.words}", fix=ITS_CONFIG)


def only(*values: Any) -> Key:
    # `type` too, because 1 == True in Python and a config that says 1 for true is damaged.
    return Key(values[0], lambda v: any(v == x and type(v) is type(x) for x in values), " or ".join(map(repr, values)))


def switch(default: bool, *values: bool) -> Key:
    """true or false; diffusers takes null for false."""
    return replace(only(default, *values), plain=lambda v: False if v is None else v)


def number(default: Any, low: float = 0.0) -> Key:
    """A float, which some write as a whole number where it is one."""

    def plain(value: Any) -> Any:
        return float(value) if type(value) is int and abs(value) < 1e6 else value

    return Key(
        default,
        lambda v: type(v) is float and low < v < 1e6,
        f"a number above {low:g} and below 1e6",
        plain,
        ITS_CONFIG,
    )


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


SILU = Key("silu", lambda v: v in ("silu", "swish"), "'silu' or 'swish'", _lower)


def each(default: Any, *values: str) -> Key:
    return Key(
        default,
        lambda v: isinstance(v, list) and 1 <= len(v) <= 16 and all(isinstance(x, str) and x in values for x in v),
        "a list of 1 to 16 out of " + ", ".join(values),
    )


def is_size(value: Any) -> bool:
    """Whether it is null, a whole number, or two: [height, width]."""
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return value is None or all(is_count(side) for side in sides)


def refused(name: str, value: Any, key: Key, where: str, kind: str | None = None) -> CheckpointError:
    """The error for `value`; `kind` is what the model is where that is known."""
    # diffusers fails on these, too, and deep inside torch
    if type(value) is float and value.is_integer() and key.test(int(value)):
        fix, kind = f"write {int(value)} there", None
    else:
        fix = key.fix
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    what = f"config key {name!r} is not supported (got {shown}, expected {key.words})" + (
        f": this is {kind}." if kind else "."
    )
    return CheckpointError(what, where=where, fix=fix)


def divides(part: str, small: int, whole: str, big: int, where: str) -> None:
    """Raise CheckpointError unless `big` is a multiple of `small`."""
    if big % small:
        raise CheckpointError(f"{whole} {big} is not a multiple of {part} {small}.", where=where, fix=ITS_CONFIG)


def same_length(config: dict[str, Any], where: str, *names: str) -> None:
    """Raise CheckpointError unless each of these lists has one entry per level."""
    levels = len(config["block_out_channels"])
    for name in names:
        if len(config[name]) != levels:
            what = f"config key {name!r} has {len(config[name])} entries and block_out_channels has {levels}."
            raise CheckpointError(what, where=where, fix=ITS_CONFIG)
