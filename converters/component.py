"""What every reader of checkpoints returns, and the check that its weights are the ones the config asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Stored
from ondevice.converters.architectures.builder import Shape
from ondevice.converters.families import Family, advice
from ondevice.errors import CheckpointError, WeightsError
from ondevice.graph.adapted import Changes
from ondevice.graph.origin import joined, origin_of, reshaped, rows, transposed, with_origin

_ITS_CONFIG = "use the config.json that came with the weights, or other weights"
LISTED = 170  # characters of names in an error message; a wrong file would list a thousand names

FLOATS = frozenset(
    {
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E5M2,
    }
)
WHOLE = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.UINT8, ir.DataType.INT8})


@dataclass(frozen=True, slots=True)
class Component:
    """One network: its normalized config, and its weights by diffusers on-disk name.

    Weights keep the dtype they are stored in, are read on access and are not kept after it.
    """

    config: dict[str, Any]
    weights: Mapping[str, ir.TensorProtocol]


class GraphSource(Protocol):
    """A component that comes as a graph instead of as weights."""

    def misfit(self, **sizes: int) -> str | None:
        """Why there is no graph of these sizes; None if there is."""
        ...

    def graph(self, **sizes: int) -> ir.Model:
        """A fresh graph, as our own builders make them."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole model: the networks of its family by component, the scheduler's config,
    and the files of each tokenizer by its folder.

    `notes` says in sentences what was in the source and not used. `graphs` is by role ("unet", "vae_decoder", ...)
    where the source holds exported graphs; its components have configs then, and no weights. `adapters` says which are
    in the weights, a sentence each. `carried` are those that a bundle of it carries beside them, by name, of which
    `said` says what was found.
    """

    components: dict[str, Component]
    scheduler: dict[str, Any]
    tokenizers: dict[str, dict[str, bytes]]
    family: str
    source: str
    notes: tuple[str, ...] = ()
    graphs: Mapping[str, GraphSource] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    carried: Mapping[str, Changes] = field(default_factory=dict)
    said: tuple[str, ...] = ()


def lazy(read: Callable[[], np.ndarray], dtype: ir.DataType, shape: Iterable[int], name: str) -> ir.LazyTensor:
    """A tensor whose values `read` makes on every access; nothing is cached.
    `read` must return `shape` in `dtype`'s numpy type."""
    fixed = ir.Shape(list(shape))
    return ir.LazyTensor(
        lambda: ir.Tensor(read(), dtype=dtype, shape=fixed, name=name), dtype=dtype, shape=fixed, name=name, cache=False
    )


def shape_of(tensor: ir.TensorProtocol) -> Shape:
    """The static shape as plain integers."""
    return tuple(tensor.shape.numpy())


def renamed(tensor: ir.TensorProtocol, name: str, shape: Shape) -> ir.LazyTensor:
    """`tensor` under another name, and of another shape with as many elements."""
    renamed = lazy(lambda: tensor.numpy().reshape(shape), tensor.dtype, shape, name)
    return with_origin(renamed, reshaped(origin_of(tensor), shape))


def taken(tensor: ir.TensorProtocol, place: Stored, name: str) -> ir.TensorProtocol:
    """The weight `name` out of the tensor that has it at `place`."""
    shape = place.shape(shape_of(tensor))
    if shape == shape_of(tensor) and not (place.transposed or place.swapped):
        return tensor
    weight = lazy(lambda: np.ascontiguousarray(place.values(tensor.numpy())), tensor.dtype, shape, name)
    if place.parts > 1:
        return with_origin(weight, rows(origin_of(tensor), place.part, place.parts))
    if place.swapped:
        return with_origin(weight, joined([rows(origin_of(tensor), half, 2) for half in (1, 0)], 0))
    return with_origin(weight, transposed(origin_of(tensor), (1, 0)) if len(shape) == 2 else None)


def fitted(
    family: Family,
    part: str,
    config: dict[str, Any],
    found: Mapping[str, ir.TensorProtocol],
    where: str,
    fix: str = _ITS_CONFIG,
) -> Component:
    """The family's `part` with exactly the weights that `config` asks for, in the order of `Architecture.weights`.

    `found` is keyed by canonical names (`Architecture.canonical`). A 1x1 convolution where a Linear is expected, as the
    original layout stores the VAE's attention, loses its two last dimensions, and a Linear gets them where a 1x1
    convolution is expected; so do biases, which scripts reshaped with their weights.

    Raises WeightsError listing missing, extra and mis-shaped weights; CheckpointError for a weight that is not
    floating point.
    """
    network = family.parts[part].architecture
    expected = network.weights(config)
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    wrong, weights = [], {}
    for name, shape in expected.items():
        if name not in found:
            continue
        tensor, got = found[name], shape_of(found[name])
        if not _alike(got, shape):
            wrong.append(f"{name} (got {list(got)}, expected {list(shape)})")
        elif tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"the weight {name} holds {tensor.dtype.name}, not floating-point numbers.",
                where=where,
                fix="use a checkpoint that is not quantized",
            )
        else:
            weights[name] = renamed(tensor, name, shape) if got != shape or tensor.name != name else tensor
    kinds = [(word, names) for word, names in (("missing", missing), ("extra", extra), ("mis-shaped", wrong)) if names]
    problems = [f"{len(names)} {word}: {listed(names, room=LISTED // len(kinds))}" for word, names in kinds]
    if problems:
        kind = network.kind_of_shapes({name: shape_of(tensor) for name, tensor in found.items()})
        kind = None if kind in (family.title, network.kind(config)) else kind
        raise WeightsError(
            (f"this is {kind}; " if kind else "")
            + f"the {part}'s weights do not match its config; "
            + "; ".join(problems)
            + ".",
            where=where,
            fix=advice(kind, family, "model") if kind else fix,
        )
    return Component(config, weights)


def _alike(got: Shape, shape: Shape) -> bool:
    """Whether a weight of shape `got` can stand for one of `shape`:
    they are equal, or differ by the two dimensions of a 1x1 kernel."""
    return got == shape or got == (*shape, 1, 1) or (*got, 1, 1) == shape


def listed(names: list[str], most: int = 20, room: int = LISTED) -> str:
    """The first names, at most `most` and as many as `room` characters hold, and how many more there are.
    One is always shown, cut."""
    shown = [names[0] if len(names[0]) <= room else names[0][: room - 3] + "..."]
    for name in names[1:most]:
        if sum(map(len, shown)) + 2 * len(shown) + len(name) > room:
            break
        shown.append(name)
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
