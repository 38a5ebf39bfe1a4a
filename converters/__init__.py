"""Weights and graphs: a checkpoint becomes one ONNX graph per role of its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Bands, Graph
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import Family, family_of
from ondevice.converters.families.controlled import controlled, nets_of
from ondevice.converters.families.hoisted import hoisted
from ondevice.converters.families.published import as_published
from ondevice.converters.families.ranked import ranked
from ondevice.converters.families.tiny import FLAG, TAESD, as_opened
from ondevice.errors import GraphError, UsageError


@dataclass(frozen=True, slots=True)
class Model:
    """Graphs of a checkpoint, made for a size when asked for: every later stage decides by sizes.

    Args:
        family: says which graphs there are: the checkpoint's, or what `as_published` or `hoisted` made of it.
    """

    checkpoint: Checkpoint
    family: Family

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of its graphs."""
        return tuple(self.family.roles)

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The normalized config of each network."""
        return {name: component.config for name, component in self.checkpoint.components.items()}

    def pipeline(self) -> dict[str, Any]:
        """How its graphs make a picture, as docs/pipeline.md writes it, without a sampler."""
        return self.family.pipeline(self.family, self.configs)

    def config(self, role: str) -> dict[str, Any]:
        """The config of the network that a role is a graph of."""
        return self.configs[self.family.roles[role].part]

    def precise(self, role: str) -> bool:
        """Whether the graph is stored in float32 whatever --dtype says."""
        return self.family.roles[role].precise

    def between(self, role: str) -> tuple[str, ...]:
        """The ports by which a graph that is there in two passes what the first part makes, as it is stored."""
        return self.family.roles[role].between

    def sized(self, role: str) -> bool:
        """Whether the graph has a height and a width. Raises UsageError for an unknown role."""
        return self._graph(role).sized

    def framed(self, role: str) -> bool:
        """Whether the graph has a number of frames. Raises UsageError for an unknown role."""
        return "frames" in self._graph(role).sizes

    def shares(self, role: str) -> tuple[str, ...]:
        """The graphs of the ranks that share a role, in their order; none where nobody shares it."""
        return tuple(name for name, other in self.family.roles.items() if other.shares == role)

    def tokens(self, role: str) -> int:
        """How many states of a text the graph reads; 0 where it reads none."""
        return self.family.roles[role].joined(self.configs).get("tokens", 0)

    def graph(
        self,
        role: str,
        *,
        batch: int = 1,
        height: int = 0,
        width: int = 0,
        tokens: int = 0,
        frames: int = 0,
        **band: int,
    ) -> ir.Model:
        """A role's graph in plain primitives (opset 18), static shapes, lazy float32 weights.

        Args:
            role: one of `roles`, such as "unet" or "vae_decoder"; inputs and outputs are named as optimum does.
            height, width: in latent units; a text encoder has none.
            tokens: of a graph that reads a text's states, how many; 0: those of one text encoder's run.
            frames: of a graph that has some.
            band: `stage` and `rows`, one stage of a graph that works in bands.

        Raises:
            UsageError: an unknown role, or a size that is not positive.
            GraphError: a weight is missing; or the checkpoint holds graphs, and none of this role or size.
        """
        graph, graphs = self._graph(role), self.checkpoint.graphs
        sizes = {"batch": batch} | ({"height": height, "width": width} if graph.sized else {})
        sizes |= {"frames": frames} if self.framed(role) else {}
        if min(sizes.values()) < 1:
            listed = ", ".join(f"{name} {size}" for name, size in {**sizes, "height": height, "width": width}.items())
            raise UsageError(f"{listed} must be positive.", where=role)
        name = self.family.roles[role].part
        part = self.checkpoint.components[name]
        if band:
            bands = self._bands(role)
            return bands.build(GraphBuilder(role, part.weights, name), part.config, height=height, width=width, **band)
        if graphs:
            if role not in graphs:
                raise GraphError(
                    f"there is no {role}/model.onnx.", where=self.checkpoint.source, fix="export that component, too"
                )
            return graphs[role].graph(**sizes)
        sizes |= self.family.roles[role].joined(self.configs) | ({"tokens": tokens} if tokens else {})
        b = GraphBuilder(role, part.weights, name, self.family.roles[role].rank)
        return graph.build(b, part.config, **sizes)

    def stages(self, height: int, width: int, role: str) -> int:
        """How many stages a role has in bands.
        Raises UsageError where the checkpoint is a folder of exported graphs."""
        if self.checkpoint.graphs:
            raise UsageError(
                "an exported graph is not cut into stages.",
                where="--tile-vae",
                fix="convert from weights, or leave it out",
            )
        return self._bands(role).count(self.config(role), height, width)

    def in_bands(self, role: str) -> bool:
        """Whether a role's graph can work in bands."""
        return self._graph(role).bands is not None

    def lacks(self, role: str, **sizes: int) -> str | None:
        """Why there is no graph of `role` at these sizes; None if there is.
        Weights make every size, exported graphs may not."""
        graphs = self.checkpoint.graphs
        if not graphs:
            return None
        return graphs[role].misfit(**sizes) if role in graphs else f"there is no {role}/model.onnx"

    def _graph(self, role: str) -> Graph:
        if role not in self.family.roles:
            raise UsageError(f"component {role!r} is unknown (expected one of {', '.join(self.roles)}).")
        return self.family.graph(role)

    def _bands(self, role: str) -> Bands:
        if (bands := self._graph(role).bands) is None:
            raise UsageError(f"{role} does not work in bands.", where="--tile-vae", fix="leave it out")
        return bands


def build(checkpoint: Checkpoint, *, published: bool = False, whole: bool = False, ranks: int = 1) -> Model:
    """The model of a checkpoint. Nothing is read but configs until a graph's weights are.

    Args:
        whole: what runs in each step has all of its network in it, as other runtimes are given it: nothing that depends
            on the text alone is apart (families/hoisted.py). So it always is in published and exported graphs.
        published: its graphs have the ports that other tools look for (families/published.py). Those of a folder of
            exported graphs have the family's own, whatever is asked for.
        ranks: how many devices are to share its steps, each with graphs of its own (families/ranked.py).

    Raises:
        UsageError: published graphs are asked of a model that has none, or has a tiny autoencoder beside its own; so
            many devices cannot share its steps.
    """
    configs = {name: component.config for name, component in checkpoint.components.items()}
    family = controlled(as_opened(family_of(checkpoint.family), configs), nets_of(configs))
    if published and not family.exports:
        what = f"{family.title} is not written in other formats than bundles."
        raise UsageError(what, where="--format", fix="leave --format out")
    if published and TAESD in configs:
        what = "graphs in other formats have one decoder."
        raise UsageError(what, where=FLAG, fix=f"leave {FLAG} out, or write a bundle")
    if published and not checkpoint.graphs:
        family = as_published(family, configs)
    elif not (whole or checkpoint.graphs):
        family = hoisted(family, configs)
    if ranks > 1:
        if checkpoint.graphs:
            fix = "convert from weights, or leave it out"
            raise UsageError("an exported graph is not shared by several devices.", where="--parallel", fix=fix)
        family = ranked(family, configs, ranks)
    return Model(checkpoint, family)
