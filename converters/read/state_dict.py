"""Find the weights in what a trainer pickled: under which keys they lie, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.converters.component import listed
from ondevice.converters.read.inert_values import ARRAYS, Inert, TensorRef

# Where trainers keep the weights, in the order in which they are looked for, and where the moving averages of them.
_LAST = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights", "generator", "g_ema",
)  # fmt: skip
_AVERAGES = (
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema",
    "params_ema",
    "averaged_model",
    "shadow_params",
)
_DEEPEST = 4
# values that are looked at where no state dict is found: a whole model that was pickled as an object has about 60,000
_MOST = 200_000
_LONGEST = 512  # characters of a path
# torch keeps a module's tensors and parts there, and leaves the words out of names
_MODULE = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True, slots=True)
class State:
    """Tensors by name; `averaged` where they are moving averages.
    `odd` are the makers of what is an array and no tensor, by name."""

    tensors: dict[str, TensorRef]
    notes: tuple[str, ...]
    averaged: bool
    odd: dict[str, str]


def find_state(value: Any, *, averaged: bool) -> State:
    """The tensors in `value`, which may have none: those of its state dict, or else all there are, by dotted path.

    `averaged=True` prefers moving averages where both are there.
    """
    path: list[str] = []
    level, beside = _items(value), []
    unused: tuple[str, ...] = ()
    known: dict[tuple[int, int], bool] = {}
    while level is not None and len(path) < _DEEPEST:
        order = (*_AVERAGES, *_LAST) if averaged else (*_LAST, *_AVERAGES)
        there = [key for key in order if _leads_to_tensors(level.get(key), _DEEPEST - len(path) - 1, known)]
        if not there:
            break
        unused = unused or tuple(key for key in there[1:] if key in _AVERAGES and there[0] not in _AVERAGES)
        beside += [key for key in level if key != there[0] and key not in unused]
        path.append(there[0])
        level = _items(level[there[0]])
    tensors = _named(level)
    if not tensors:
        found = dict(_walk(value))
        tensors = {name: leaf for name, leaf in found.items() if isinstance(leaf, TensorRef)}
        return State(tensors, (), False, {} if tensors else _odd(found))
    values = level or {}
    ignored = [_word(name) for name in (*beside, *(name for name in values if name not in tensors))]
    notes = [f"entries that are no tensors were ignored: {listed(ignored, most=3)}"] if ignored else []
    took = any(key in _AVERAGES for key in path)
    if unused:
        notes.append(f"averaged weights (under {unused[0]}) were ignored; --ema takes them instead")
    elif took:
        notes.append(f"the averaged weights (under {'.'.join(path)}) were taken")
    return State(tensors, tuple(notes), took, _odd(values))


def _items(value: Any) -> dict[Any, Any] | None:
    return value if isinstance(value, dict) else value.items if isinstance(value, Inert) else None


def _named(level: dict[Any, Any] | None) -> dict[str, TensorRef]:
    return {name: leaf for name, leaf in (level or {}).items() if isinstance(name, str) and isinstance(leaf, TensorRef)}


def _leads_to_tensors(value: Any, depth: int, known: dict[tuple[int, int], bool]) -> bool:
    """Whether there are named tensors in `value`, or under those keys in it.
    `known` keeps answers: what is shared is looked at once."""
    level = _items(value)
    if level is None:
        return False
    if (id(level), depth) not in known:
        known[id(level), depth] = bool(_named(level)) or (
            depth > 0
            and any(_leads_to_tensors(level[key], depth - 1, known) for key in (*_LAST, *_AVERAGES) if key in level)
        )
    return known[id(level), depth]


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Tensors and arrays in dictionaries, objects, lists and tuples, by dotted path;
    each container once, at most _MOST values."""
    waiting, seen, left = [("", value)], set(), _MOST
    while waiting and left:
        path, at = waiting.pop()
        left -= 1
        if isinstance(at, TensorRef) or (isinstance(at, Inert) and ARRAYS.fullmatch(at.name)):
            yield path, at
        if len(path) > _LONGEST or id(at) in seen:
            continue
        level = _items(at)
        children = level.items() if level is not None else enumerate(at) if isinstance(at, list | tuple) else ()
        if children:
            seen.add(id(at))
        for key, child in reversed(list(children)[:left]):
            unnamed = isinstance(at, Inert) and key in _MODULE
            waiting.append((path if unnamed else f"{path}.{_word(key)}" if path else _word(key), child))


def _odd(values: Mapping[Any, Any]) -> dict[str, str]:
    makers = {name: leaf.name for name, leaf in values.items() if isinstance(name, str) and isinstance(leaf, Inert)}
    return {name: maker for name, maker in makers.items() if ARRAYS.fullmatch(maker)}


def _word(key: Any) -> str:
    return key[:200] if isinstance(key, str) else str(key) if isinstance(key, int) else type(key).__name__
