"""Inversions: latents from which a pipeline draws a given picture again; and texts between two (docs/morph.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.before import encode_texts, run_before
from ondevice.diffusion.guidance import is_guided
from ondevice.diffusion.interpolation import lerp
from ondevice.diffusion.loop import OnStep, run_loop
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.request import InvertOptions, Request, request_of
from ondevice.diffusion.request_checks import pictures_begun_from
from ondevice.diffusion.roles import Entered
from ondevice.diffusion.samplers import WITHOUT_BETAS
from ondevice.diffusion.samplers.inverse import INVERSIONS, inverse_table
from ondevice.diffusion.samplers.table import SamplerTable
from ondevice.diffusion.series import Series
from ondevice.diffusion.values import Runner
from ondevice.errors import UsageError

_FIX = "use a bundle of Stable Diffusion 1.x, 2.x or XL that draws from a text"
_WHERE = "inversion"


@dataclass(frozen=True, slots=True)
class Inversion:
    """How a picture is inverted: `way`, one of INVERSIONS, and how often each step is refined (`inverse_table`)."""

    way: str = INVERSIONS[0]
    refine: int = 0

    def table(self, spec: PipelineSpec, config: Mapping[str, Any], request: Request) -> SamplerTable:
        """The steps of a request. Raises UsageError where they cannot be had."""
        steps = spec.steps if request.num_inference_steps is None else request.num_inference_steps
        own = request.sampler or spec.sampler
        return inverse_table(self.way, steps, config, own=own, refine=self.refine, **request.sampler_options)


class Inverting(ABC):
    """What a pipeline does beside drawing."""

    _spec: PipelineSpec
    _session: Runner
    _scheduler_config: dict[str, Any]

    @abstractmethod
    def _entered(self, request: Request, series: Series) -> Entered: ...

    @abstractmethod
    def _release(self, way: Way, done: str) -> None: ...

    def invert(self, image: np.ndarray, prompt: str = "", **options: Unpack[InvertOptions]) -> np.ndarray:
        """Latents from which the picture is drawn again, float32 [1, channels, height / scale, width / scale]: by the
        same prompt, with `sampler="ddim"`, as many steps and a guidance of 1.

            latents = pipe.invert(picture, "a red circle", num_inference_steps=50)
            pipe("a red circle", latents=latents, sampler="ddim", num_inference_steps=50, guidance_scale=1.0)

        Args:
            image: uint8 [height, width, 3].
            options: `inversion`, one of `ondevice.diffusion.samplers.inverse.INVERSIONS`; `refine`, how often each step
                is refined; and those fields of `Request` that are not the noise's.

        Raises:
            OnDeviceError: as `invert_request`.
        """
        kind = Inversion(options.pop("inversion", Inversion().way), options.pop("refine", 0))
        fields: dict[str, Any] = {"prompt": prompt, "image": image, **options}
        return self.invert_request(request_of(fields), kind)

    def invert_request(
        self, request: Request, inversion: Inversion, way: Way | None = None, on_step: OnStep | None = None
    ) -> np.ndarray:
        """As `invert`: of the mean of what the encoder makes of the request's image, without guidance.

        Raises:
            UsageError: the model inverts no pictures, or something that is asked for cannot be had.
            NumericError: a step's result is not finite.
            OnDeviceError: the bundle or the device failed.
        """
        way, spec = way or Way(), self._spec
        request, series = _to_invert(spec, request), Series(spec)
        table = inversion.table(spec, self._scheduler_config, request)
        entered = self._entered(request, series)
        roles, stream = entered.roles, entered.stream
        _check_unguided(spec, entered.numbers)
        stream.draws_encodings = False
        start = run_before(roles, None, stream, series)
        assert spec.latents.begin is not None
        clean = roles.on_host(roles.values.get(spec.latents.begin)).reshape(start.shape)
        self._release(way, "before")
        inverted = run_loop(roles, table, clean, stream, on_step=on_step)
        self._release(way, "denoise")
        return inverted

    def encode(self, request: Request) -> Series:
        """A series that has what the model's text encoders make of a request's texts.
        Raises OnDeviceError as `draw`."""
        series = Series(self._spec)
        encode_texts(self._entered(request, series).roles, series)
        return series

    def between(self, one: Series, other: Series, part: float) -> Series:
        """Texts on the way from those of one series of `encode` (a `part` of 0) to another's (1): their states, and
        what is pooled of them, on a line. What is drawn by it is said by the first one's request, but for its noise.

        Raises:
            UsageError: the texts are not read in the same parts and chunks.
        """

        def mix(ours: Any, theirs: Any) -> Any:
            first, last = (self._session.read(value) for value in (ours, theirs))
            if first.shape != last.shape:
                what = "texts of different numbers of chunks have no way between them."
                raise UsageError(what, where="prompt", fix="write two of about the same length, or use --long truncate")
            return self._session.put(lerp(first, last, part).astype(first.dtype))

        return one.between(other, mix)


def _to_invert(spec: PipelineSpec, request: Request) -> Request:
    """The request, without guidance, of a pipeline that can invert its picture.

    Raises:
        UsageError: the pipeline cannot invert pictures, or other pictures were given than the one.
    """
    if spec.latents.begin is None or spec.gives != "picture":
        raise UsageError("this model begins from no picture, so that none can be inverted.", where=_WHERE, fix=_FIX)
    if spec.sampler in WITHOUT_BETAS:
        what = f"this model is drawn by {spec.sampler}, whose steps DDIM does not have."
        raise UsageError(what, where=_WHERE, fix=_FIX)
    if len(spec.denoise) > 1:
        raise UsageError("this model has other networks for other parts of the schedule.", where=_WHERE, fix=_FIX)
    needed = {name for name, given in spec.pictures.items() if not (given.optional or given.of)}
    if more := sorted(needed - pictures_begun_from(spec)):
        what = f"this model draws nothing without {' and '.join(more)}, and has no other way back to the noise."
        raise UsageError(what, where=_WHERE, fix=_FIX)
    given = request.given_pictures()
    if given.keys() != {"image"}:
        what = f"one picture is inverted (got {', '.join(given) or 'none'}, expected image)."
        raise UsageError(what, where=_WHERE, fix="give it as `image`, and no other")
    guidance = 1.0 if "guidance_scale" in spec.numbers else None
    return replace(request, guidance_scale=guidance, strength=None)


def _check_unguided(spec: PipelineSpec, numbers: Mapping[str, Any]) -> None:
    """Raises UsageError where a pipeline takes several passes even without guidance."""
    if is_guided(spec, numbers):
        raise UsageError("this model is always guided, and an inversion is not.", where=_WHERE, fix=_FIX)
