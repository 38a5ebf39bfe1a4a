"""Weights and graphs: a checkpoint becomes one ONNX graph a component."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.architectures.autoencoder_kl import vae_decoder, vae_encoder
from ondevice.converters.architectures.clip_text import text_encoder
from ondevice.converters.architectures.unet import unet
from ondevice.converters.architectures.vae_bands import decoder_stage, decoder_stages
from ondevice.converters.component import Checkpoint
from ondevice.errors import GraphError, UsageError

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@dataclass(frozen=True, slots=True)
class Model:
    """Graphs of a checkpoint, made for a size when asked for: every later stage decides by sizes."""

    checkpoint: Checkpoint

    def graph(self, component: str, *, batch: int = 1, height: int = 0, width: int = 0, **band: int) -> ir.Model:
        """A component's graph in plain primitives (opset 18), static shapes, lazy float32 weights.

        Args:
            component: "text_encoder", "unet", "vae_decoder" or "vae_encoder"; their inputs and outputs are named as optimum does.
            height, width: in latent units; the text encoder has none.
            band: `stage` and `rows`, one stage of the decoder in bands (components/vae_bands.py).

        Raises:
            UsageError: an unknown component, or a size that is not positive.
            GraphError: a weight is missing; or the checkpoint holds graphs, and none of this component or size.
        """
        if component not in COMPONENTS:
            raise UsageError(f"component {component!r} is unknown (expected one of {', '.join(COMPONENTS)}).")
        parts, graphs = self.checkpoint.components, self.checkpoint.graphs
        sized = component != "text_encoder"
        if sized and min(batch, height, width) < 1:
            raise UsageError(f"batch {batch}, height {height}, width {width} must be positive.", where=component)
        if band:
            return decoder_stage(parts["vae"].config, parts["vae"].weights, height=height, width=width, **band)
        if graphs:
            if component not in graphs:
                raise GraphError(f"there is no {component}/model.onnx.", where=self.checkpoint.source, fix="export that component, too")
            return graphs[component].graph(**({"batch": batch, "height": height, "width": width} if sized else {"batch": batch}))
        if not sized:
            return text_encoder(parts["text_encoder"].config, parts["text_encoder"].weights, batch=batch)
        if component == "unet":
            tokens = parts["text_encoder"].config["max_position_embeddings"]
            return unet(parts["unet"].config, parts["unet"].weights, batch=batch, height=height, width=width, tokens=tokens)
        make = vae_decoder if component == "vae_decoder" else vae_encoder
        return make(parts["vae"].config, parts["vae"].weights, batch=batch, height=height, width=width)

    def stages(self, height: int, width: int) -> int:
        """How many stages the decoder has in bands. Raises UsageError where the checkpoint is a folder of exported graphs."""
        if self.checkpoint.graphs:
            raise UsageError("an exported graph is not cut into stages.", where="--tile-vae", fix="convert from weights, or leave it out")
        return len(decoder_stages(self.checkpoint.components["vae"].config, height, width)) + 1

    def lacks(self, component: str, **sizes: int) -> str | None:
        """Why there is no graph of `component` at these sizes; None if there is. Weights make every size, exported graphs may not."""
        graphs = self.checkpoint.graphs
        if not graphs:
            return None
        return graphs[component].misfit(**sizes) if component in graphs else f"there is no {component}/model.onnx"


def build(checkpoint: Checkpoint) -> Model:
    """The model of a checkpoint. Nothing is read but configs until a graph's weights are."""
    return Model(checkpoint)
