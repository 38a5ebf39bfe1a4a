"""A device on which networks are short formulas: what the verbs do around them, without the time that drawing takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from diffusion.fake_networks import HostSession

from ondevice.drawing import engine
from ondevice.run.profile import Profile

FACTS = {"kind": "cpu", "global_bytes": 1 << 40, "maps_weights": True, "name": "made up", "driver": "1"}
TRANSFORMERS = 7  # of the demo model's UNet
DEVICE = SimpleNamespace(name="made up", dialect="opencl", facts=lambda: FACTS)


class Networks(HostSession):
    """Takes the ports of Stable Diffusion 1.x's family. `on_pass` is called before each pass of the UNet."""

    on_pass: Callable[[], object] = staticmethod(lambda: None)
    passes = 0
    has_mended = False

    def __init__(self, *_: object, **__: object) -> None:
        self.profile = Profile({}, launches=[])

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        if component.startswith("text_encoder"):
            ids = inputs["input_ids"][:, :, None].astype(np.float32) / 100
            return {"last_hidden_state": np.repeat(ids, 3, axis=2)}
        if component == "keys_values":
            return {f"keys_values_{number}": inputs["encoder_hidden_states"] for number in range(TRANSFORMERS)}
        if component == "guidance":
            return {"guidance": np.repeat(inputs["guidance_scale"], 8, axis=1)}
        if component == "unet":
            Networks.on_pass()
            Networks.passes += 1
            more = sum(float(np.mean(value)) for name, value in sorted(inputs.items()) if name != "sample")
            states = inputs["keys_values_0"].mean(axis=(1, 2))[:, None, None, None]
            return {
                "out_sample": np.tanh(inputs["sample"][:, :4] * np.float32(0.7) + states + np.float32(np.sin(more)))
            }
        if component == "vae_encoder":
            return {"latent_parameters": np.repeat(inputs["sample"][:, :1, ::8, ::8], 8, 1)}
        return {"sample": np.tanh(np.repeat(np.repeat(inputs["latent_sample"][:, :3], 8, 2), 8, 3))}

    def release_all(self) -> None: ...

    def change_weights(self, changed: object) -> None: ...

    def stream_weights(self, nbytes: int | None) -> None: ...


def install(patch: Any) -> None:
    """Put it in the place of what draws; `patch` as pytest's monkeypatch."""
    patch.setattr(engine, "choose_device", lambda _: DEVICE)
    patch.setattr(engine, "GuardedSession", Networks)
