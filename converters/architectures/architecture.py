"""What a network is to the rest of the converters: one type, which its own file fills in.

A network's file says the keys of its config, its graphs, and where a file in the original layout has its weights.
All else is worked out from these: which weights it has, and what its graphs take and give, come from running the
graphs' builders dry.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.builder import DryBuilder, Shape, shape_of
from ondevice.converters.architectures.keys import ITS_CONFIG, REQUIRED, Key, refused
from ondevice.errors import CheckpointError

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bands:
    """A graph in stages, each of which can work on bands of rows,
    for pictures whose activations do not fit into memory at once.

    `count(config, height, width)` says how many stages there are,
    `build(b, config, height=, width=, stage=, rows=)` emits one.
    """

    count: Callable[[Config, int, int], int]
    build: Callable[..., ir.Model]


@dataclass(frozen=True, slots=True)
class Apart:
    """A graph in two, by the names of other graphs of the network: `once` makes what depends on the inputs `of` alone,
    and `rest`, which runs where the whole would, has ports of the names of what `once` makes in their place.

    A family's pipeline runs `once` as often as these inputs change, and not in each step (families/hoisted.py).
    `linear`: zeros for these inputs make zeros.
    """

    once: str
    rest: str
    of: tuple[str, ...]
    linear: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph of a network: `build(b, config, **sizes)` emits it with the builder `b`
    and gives what `b.finish` gives.

    `sizes` are the names of what `build` must be told: "batch", "height" and "width" in latent units, and what other
    networks decide, such as "tokens". `fits` is false of configs whose network has no such graph. `apart`: it can be
    had in two. `unshared` says why so many ranks cannot share it, None where they can; of a graph that each has to
    compute whole there is no such function.
    """

    build: Callable[..., ir.Model]
    sizes: tuple[str, ...] = ("batch", "height", "width")
    fits: Callable[[Config], bool] = lambda _: True
    bands: Bands | None = None
    apart: Apart | None = None
    unshared: Callable[[Config, int], str | None] | None = None

    @property
    def sized(self) -> bool:
        """Whether it has a height and a width."""
        return "height" in self.sizes


@dataclass(frozen=True, slots=True)
class Ports:
    """Inputs and outputs of a graph: shapes by name."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a file in the original layout has a weight: the tensor `name`, or the `part`-th of `parts` equal parts of
    its rows; transposed where the layout holds it so; `swapped` where it has the second half of the rows first."""

    name: str
    part: int = 0
    parts: int = 1
    transposed: bool = False
    swapped: bool = False

    def shape(self, stored: Shape) -> Shape:
        """The shape of the weight in a tensor of shape `stored`;
        that shape itself where it cannot be cut or turned so."""
        if self.parts > 1 and stored and not stored[0] % self.parts:
            return stored[0] // self.parts, *stored[1:]
        return stored[::-1] if self.transposed and len(stored) == 2 else stored

    def values(self, stored: np.ndarray) -> np.ndarray:
        """The weight's values out of the tensor's."""
        shape = self.shape(stored.shape)
        if self.parts > 1 and shape != stored.shape:
            return stored[self.part * shape[0] : (self.part + 1) * shape[0]]
        if self.swapped:
            half = len(stored) // 2
            return np.concatenate([stored[half:], stored[:half]])
        return stored.T if self.transposed and stored.ndim == 2 else stored


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of an original single file, without the prefix of the network: `place(name, config)` of each weight by
    its diffusers name, and whether a name that no weight has is known and `spare`. `absent` gives the values of a
    weight that such files leave out, where there is one: a function that makes them."""

    place: Callable[[str, Config], Stored]
    spare: Callable[[str, Config], bool] = lambda name, config: False
    absent: Callable[[str, Config], Callable[[], np.ndarray] | None] = lambda name, config: None


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """One network.

    Args:
        name, word: as code and as people name it ("autoencoder_kl", "VAE").
        keys: of its config, by name; `check` then looks at them together and raises CheckpointError.
        graphs: by name.
        classes: what a config may give as _class_name; () where it gives none.
        stems: of weight files' names, .safetensors and .bin.
        unwrapped: gives a raw config's own part, where it can be inside another's.
        canonical: gives the on-disk name of diffusers 0.42 and transformers 4 from any spelling of theirs.
        kind: what a raw config is of ("an inpainting model"), where its numbers tell; `kind_of_shapes` the same from
            weights' shapes.
        scale: pixels per latent, of an autoencoder's config.
        first: a weight whose first dimension tells how wide the network is; "" where none does.
        beyond: whether a weight belongs to what the network can have, and its config does not ask for.
        tokenizer: of a text encoder, the folder of models/ that has the vocabulary it was trained with.
        pieces: of how many latents each way a side of its pictures is a multiple.
        vain: whether a weight does nothing in every such network: it is left out, and nothing is said of it.
    """

    name: str
    word: str
    keys: Mapping[str, Key]
    graphs: Mapping[str, Graph]
    check: Callable[[dict[str, Any], str], None]
    classes: tuple[str, ...] = ()
    stems: tuple[str, str] = ("diffusion_pytorch_model", "diffusion_pytorch_model")
    unwrapped: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config
    canonical: Callable[[str], str] = lambda name: name
    kind: Callable[[Config], str | None] = lambda config: None
    kind_of_shapes: Callable[[Mapping[str, Shape]], str | None] = lambda shapes: None
    scale: Callable[[Config], int] = lambda config: 1
    first: str = ""
    beyond: Callable[[str, Config], bool] = lambda name, config: False
    tokenizer: str = "clip_tokenizer"
    pieces: Callable[[Config], int] = lambda config: 1
    vain: Callable[[str, Config], bool] = lambda name, config: False

    def normalize(self, raw: Config, where: str, known: str | None = None) -> dict[str, Any]:
        """`raw` (a parsed config.json) with defaults filled in. Keys we do not know are kept, as diffusers does.

        `known` is the kind of model that is asked for, which goes without saying.
        Raises CheckpointError naming the key, its value and what is supported, and what the model is where
        that is known.
        """
        if self.classes and raw.get("_class_name", self.classes[0]) not in self.classes:
            words = " or ".join(map(repr, self.classes[:1]))
            key = Key(None, lambda _: False, words, fix=f"give the config.json of a {self.word} of that class")
            raise refused("_class_name", raw["_class_name"], key, where)
        unset = raw.get("_use_default_values")  # diffusers' list of keys that it wrote and nobody chose
        config = {key: value for key, value in raw.items() if not (isinstance(unset, list) and key in unset)}
        config = self.unwrapped(config)
        for name, key in self.keys.items():
            if name not in config:
                if key.default is REQUIRED:
                    raise CheckpointError(f"config key {name!r} is missing.", where=where, fix=ITS_CONFIG)
                config[name] = list(key.default) if isinstance(key.default, list) else key.default
            value = key.plain(config[name])
            if not key.test(value):
                kind = self.kind(raw)
                raise refused(name, config[name], key, where, None if kind == known else kind)
            config[name] = value
        self.check(config, where)
        return config

    def weights(self, config: Config) -> dict[str, Shape]:
        """{name: shape} of every weight of a config that `normalize` gave, under the on-disk names of diffusers 0.42
        and transformers 4: all that its graphs ask for."""
        asked: dict[str, Shape] = {}
        for name, graph in self.graphs.items():
            if graph.fits(config):
                sizes = {size: self.pieces(config) if size in ("height", "width") else 1 for size in graph.sizes}
                asked |= self._run_dry(name, config, sizes)[0]
        return asked

    def ports(self, graph: str, config: Config, **sizes: int) -> Ports:
        """What `graph` takes and gives at these sizes."""
        return self._run_dry(graph, config, sizes)[1]

    def _run_dry(self, graph: str, config: Config, sizes: Mapping[str, int]) -> tuple[dict[str, Shape], Ports]:
        read = {key: config[key] for key in self.keys}
        return _dry(self, graph, json.dumps(read, sort_keys=True), tuple(sorted(sizes.items())))


@functools.lru_cache(maxsize=64)
def _dry(
    network: Architecture, graph: str, config: str, sizes: tuple[tuple[str, int], ...]
) -> tuple[dict[str, Shape], Ports]:
    """Weights and ports of one graph. The config is text, which can be a key of a cache."""
    b = DryBuilder(graph)
    model = network.graphs[graph].build(b, json.loads(config), **dict(sizes))
    inputs, outputs = (
        {str(value.name): shape_of(value) for value in values} for values in (model.graph.inputs, model.graph.outputs)
    )
    return b.asked, Ports(inputs, outputs)
