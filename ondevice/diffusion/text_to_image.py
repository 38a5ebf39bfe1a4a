"""Prompt -> picture: the loop that diffusers' StableDiffusionPipeline runs, over any session that can run the three networks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ondevice.diffusion.bands import Stage, decode
from ondevice.diffusion.image import from_pixels, resize, rounded_down, to_pixels
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.samplers import SamplerTable, default_sampler, make_table, run_table
from ondevice.diffusion.samplers.pipeline import as_in_pipeline
from ondevice.errors import NumericError, UsageError, multiples_near

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What is asked of a session."""

    def run(self, component: str, inputs: dict[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]: ...

    def release(self, component: str) -> None: ...


class Tokens(Protocol):
    """What is asked of a tokenizer: int32[77] for a text."""

    def __call__(self, text: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8[height, width, 3]; `latents` float32[1, c, h, w] that were decoded; `start` the noise the run began with, before
    the sampler's scale; `parameters` all that is needed to draw it again, for the file's metadata."""

    pixels: np.ndarray
    latents: np.ndarray
    start: np.ndarray
    parameters: dict[str, Any]


class TextToImage:
    """Draws pictures. Call it with a prompt.

    `scheduler_config` is scheduler_config.json's content, used as StableDiffusionPipeline uses it (`as_in_pipeline`); `scaling_factor` and
    `latent_channels` are the autoencoder's; `scale` is pixels a latent (8 for Stable Diffusion); `size` is (width, height) in pixels where
    a call names none.
    """

    def __init__(
        self,
        session: Runner,
        tokenizer: Tokens,
        scheduler_config: Mapping[str, Any],
        scaling_factor: float = 0.18215,
        *,
        latent_channels: int = 4,
        scale: int = 8,
        size: tuple[int, int] = (512, 512),
    ) -> None:
        self._session, self._tokenizer = session, tokenizer
        self._scheduler_config, changed = as_in_pipeline(scheduler_config)  # nothing, in a bundle that has it from `convert`
        for line in changed:
            log.warning("%s", line)
        self._scaling_factor = float(scaling_factor)
        self._channels, self._scale, self._size = latent_channels, scale, size

    def __call__(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        steps: int = 20,
        sampler: str | None = None,
        guidance_scale: float = 7.5,
        seed: int = 0,
        width: int | None = None,
        height: int | None = None,
        latents: np.ndarray | None = None,
        image: np.ndarray | None = None,
        strength: float = 0.8,
        split_guidance: bool = False,
        tile_vae: Sequence[Stage] | None = None,
        unload: bool = False,
        on_step: Callable[[int, int, np.ndarray], None] | None = None,
        **sampler_options: Any,
    ) -> Picture:
        """Draws one picture.

        `sampler` None: the one the checkpoint was published with. `guidance_scale` at most 1: no guidance, and `negative_prompt` is
        not used. `latents` float32[1, c, height/scale, width/scale]: the noise to begin with, instead of the seed's. `image`
        uint8[h, w, 3] and `strength`: begin from a picture; strength 1 leaves nothing of it. For less memory: `split_guidance`: two
        passes of batch 1 instead of one of batch 2. `tile_vae`: the stages of a decoder that works in bands (`bands.stage_of`), which
        gives the same picture but for rounding. `unload`: components are released after their last use. `on_step(calls done, calls in
        all, latents)` after each pass of the network.
        `sampler_options`: `eta` and keys of scheduler_config.json, as in `make_table`.

        Raises UsageError for arguments that cannot be used, NumericError where a step's result is not finite.
        """
        if image is not None and latents is not None:
            raise UsageError("both given (got latents and an image, expected one)", where="latents", fix="leave one out")
        width, height = self._sizes(width, height, image)
        if not math.isfinite(guidance_scale):
            raise UsageError(f"not a number (got {guidance_scale}, expected a finite one)", where="guidance_scale", fix="use 7.5")
        sampler = sampler or default_sampler(self._scheduler_config)
        options = {"strength": strength, **sampler_options} if image is not None else sampler_options
        table = make_table(sampler, steps, self._scheduler_config, **options)
        stream = Noise(seed)
        guided = guidance_scale > 1
        texts = [negative_prompt, prompt] if guided else [prompt]
        states = np.concatenate([self._encode(text) for text in texts])

        shape = (1, self._channels, height // self._scale, width // self._scale)
        clean = None if image is None else self._encode_image(resize(image, width, height), stream)
        noise = stream.randn(shape) if latents is None else self._given(latents, shape)
        self._release(unload, "text_encoder", *["vae_encoder"] * (image is not None))
        final = self._sample(
            table,
            table.start(noise, clean),
            lambda x, t: self._predict(x, t, states, guidance_scale, split_guidance),
            lambda _: stream.randn(shape),
            on_step,
        )
        self._release(unload, "unet")
        decoded = self._decode(final / np.float32(self._scaling_factor), tile_vae)
        self._release(unload, "vae_decoder")
        _check_finite(decoded, "the decoder's output")
        parameters = {
            "prompt": prompt,
            "negative_prompt": negative_prompt if guided else "",
            "steps": steps,
            "sampler": sampler,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "width": width,
            "height": height,
            **options,
        }
        return Picture(to_pixels(decoded)[0], final, noise, parameters)

    def _release(self, unload: bool, *components: str) -> None:
        for component in components if unload else ():
            self._session.release(component)

    def _decode(self, latents: np.ndarray, stages: Sequence[Stage] | None) -> np.ndarray:
        if stages is not None:
            return decode(self._session, stages, latents)
        _, _, height, width = latents.shape
        return self._session.run("vae_decoder", {"latent_sample": latents}, batch=1, height=height, width=width)["sample"]

    def _sizes(self, width: int | None, height: int | None, image: np.ndarray | None) -> tuple[int, int]:
        """Pixels, each a multiple of `scale`: as asked, else the image's (rounded down, as diffusers does), else the usual."""
        usual = self._size
        if image is not None:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UsageError(
                    f"not pixels (got {image.dtype}{list(image.shape)}, expected uint8[h, w, 3])", where="image", fix="use read_image"
                )
            usual = rounded_down(image, self._scale)
        sizes = (usual[0] if width is None else width, usual[1] if height is None else height)
        for name, value in zip(("width", "height"), sizes, strict=True):
            if value < self._scale or value % self._scale:
                what = f"not a size the model can draw (got {value}, expected a multiple of {self._scale})"
                raise UsageError(what, where=name, fix=f"use {multiples_near(value, self._scale)}")
        return sizes

    def _given(self, latents: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if latents.shape != shape or latents.dtype.kind != "f":
            raise UsageError(
                f"wrong array (got {latents.dtype}{list(latents.shape)}, expected float32{list(shape)})",
                where="latents",
                fix="give latents of the picture's size divided by " + str(self._scale),
            )
        if not np.isfinite(latents).all():
            raise UsageError("some values are not finite (expected normal noise)", where="latents", fix="save them again")
        return latents.astype(np.float32)

    def _encode(self, text: str) -> np.ndarray:
        """float32[1, 77, d]. One text a run, so that a bundle holds one plan for it."""
        ids = self._tokenizer(text)[np.newaxis].astype(np.int32)
        states = self._session.run("text_encoder", {"input_ids": ids}, batch=1)["last_hidden_state"]
        _check_finite(states, "the text encoder's output")
        return states

    def _encode_image(self, pixels: np.ndarray, stream: Noise) -> np.ndarray:
        """Latents of a picture, drawn from the encoder's normal distribution with the first numbers of the stream."""
        height, width = (side // self._scale for side in pixels.shape[:2])
        moments = self._session.run("vae_encoder", {"sample": from_pixels(pixels)}, batch=1, height=height, width=width)[
            "latent_parameters"
        ]
        _check_finite(moments, "the image encoder's output")
        mean, log_variance = np.split(moments.astype(np.float32), 2, axis=1)
        deviation = np.exp(np.float32(0.5) * log_variance.clip(-30, 20))
        return np.float32(self._scaling_factor) * (mean + deviation * stream.randn(mean.shape))

    def _predict(self, x: np.ndarray, timestep: float, states: np.ndarray, guidance: float, split: bool) -> np.ndarray:
        """The network's output for one sample, guided where `states` holds two texts: [negative, prompt], as in diffusers."""
        time = np.array([timestep], np.float32)
        groups = [states[i : i + 1] for i in range(len(states))] if split else [states]
        outputs = [
            self._session.run(
                "unet",
                {"sample": np.repeat(x, len(group), axis=0), "timestep": time, "encoder_hidden_states": group},
                batch=len(group),
                height=x.shape[2],
                width=x.shape[3],
            )["out_sample"]
            for group in groups
        ]
        output = np.concatenate(outputs)
        if len(output) == 1:
            return output
        return output[:1] + np.float32(guidance) * (output[1:] - output[:1])

    @staticmethod
    def _sample(
        table: SamplerTable,
        start: np.ndarray,
        predict: Callable[[np.ndarray, float], np.ndarray],
        noise: Callable[[int], np.ndarray],
        on_step: Callable[[int, int, np.ndarray], None] | None,
    ) -> np.ndarray:
        def after(call: int, x: np.ndarray) -> None:
            _check_finite(x, f"step {call + 1} of {len(table.calls)} (timestep {table.calls[call].timestep:g})")
            if on_step is not None:
                on_step(call + 1, len(table.calls), x)

        return run_table(table, predict, start, noise, after)


def _check_finite(values: np.ndarray, where: str) -> None:
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise NumericError(
            f"{bad} of {values.size} values are NaN or infinite",
            where=where,
            fix="find the op with --check, or convert with --dtype fp32",
        )
