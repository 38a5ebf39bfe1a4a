"""Replay of a bundle's pipeline: texts, pictures and numbers -> a picture.
It knows no family of models and no GPU (docs/pipeline.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, Unpack

import numpy as np

from ondevice.bundle.pipeline import TIMESTEP, PipelineSpec, Role
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.after import run_after
from ondevice.diffusion.bands import Stage
from ondevice.diffusion.before import run_before
from ondevice.diffusion.guidance import is_guided, passes_in_use, texts_in_use
from ondevice.diffusion.image import to_pixels
from ondevice.diffusion.loop import OnStep, run_loop
from ondevice.diffusion.memory_budget import Way, decoder_stages, default_size, plan_sizes
from ondevice.diffusion.request import Options, Picture, Request
from ondevice.diffusion.request_checks import check_given, picture_size
from ondevice.diffusion.roles import Roles
from ondevice.diffusion.samplers import SamplerTable, make_table
from ondevice.diffusion.series import Series, series_of
from ondevice.diffusion.text.chunks import Pieces
from ondevice.diffusion.text.texts import Texts, check_parts, most_chunks
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.diffusion.values import PREPARED, Runner, Values, resolved
from ondevice.errors import BundleError


class Pipeline:
    """Draws pictures with one bundle on one session.

    Args:
        spec: the bundle's pipeline.
        tokenizers: by the names that it calls them.
        scheduler_config: scheduler_config.json's content, as diffusers' pipeline has it once loaded.
        plans: sizes of the plans of each component: `batch`, and `height` and `width` where it works on something as
            large as a picture.
        size: (width, height) in pixels where a request names none.
        stages: the decoder's stages for a size in latent units (width, height) and rows of a band, 0 rows where it
            does not matter; none for a decoder in one piece.

    Raises:
        BundleError: the pipeline asks for what is not here.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        session: Runner,
        tokenizers: Mapping[str, Pieces],
        scheduler_config: Mapping[str, Any],
        *,
        plans: Mapping[str, Sequence[Mapping[str, int]]],
        size: tuple[int, int] = (512, 512),
        stages: Callable[[int, int, int], list[Stage]] | None = None,
    ) -> None:
        _check_supported(spec)
        self._spec, self._session, self._tokenizers, self._size, self._stages = spec, session, tokenizers, size, stages
        self._scheduler_config, self._plans = dict(scheduler_config), plans

    @classmethod
    def of(cls, bundle: Bundle, session: Runner) -> Self:
        """The pipeline that a bundle describes, on a session that runs it.
        Raises OnDeviceError for what cannot be read."""
        return cls(
            bundle.pipeline,
            session,
            _tokenizers(bundle),
            bundle.scheduler,
            plans=plan_sizes(bundle),
            size=default_size(bundle),
            stages=lambda width, height, rows: decoder_stages(bundle, width, height, rows),
        )

    def __call__(self, prompt: str, **options: Unpack[Options]) -> Picture:
        """Draw one picture, or several; what comes back has `.images`, as in diffusers.

        Args:
            options: the fields of `Request`; and diffusers' `num_images_per_prompt`, `generator` (its seed is taken,
                and the `seed_mode` "cuda" of one on a CUDA device) and `callback_on_step_end(pipeline, step, timestep,
                {"latents"})`. Where the callback gives other latents back, these are gone on with. Of several pictures
                the seeds are s, s + 1..., and each is what its seed gives alone: diffusers' where `generator` is a list
                of generators with these seeds. (One generator draws all of them from one stream there, so that only
                the first has noise that its seed gives alone.)

        Raises:
            OnDeviceError: as `draw`.
        """
        callback, generator = options.pop("callback_on_step_end", None), options.pop("generator", None)
        count = options.pop("num_images_per_prompt", 1)
        fields: dict[str, Any] = {"prompt": prompt, **options} | ({} if generator is None else _seed_of(generator))

        def on_step(done: int, calls: int, timestep: float, latents: np.ndarray) -> np.ndarray | None:
            assert callback is not None
            given = callback(self, done - 1, timestep, {"latents": latents})
            return (given or {}).get("latents")

        requests = series_of(Request(**fields), count)
        first, *others = self.draw_series(requests, on_step=None if callback is None else on_step)
        return replace(first, others=tuple(others))

    def draw_series(
        self, requests: Iterable[Request], way: Way | None = None, on_step: OnStep | None = None
    ) -> Iterator[Picture]:
        """Draw a picture per request, each as `draw` does, when it is asked for. Of those that differ in their noise
        alone (`series_of`) texts are encoded once, and pictures, too, where nothing is drawn for that."""
        series = Series(self._spec)
        return (self.draw(request, way, on_step, series) for request in requests)

    def draw(
        self, request: Request, way: Way | None = None, on_step: OnStep | None = None, series: Series | None = None
    ) -> Picture:
        """Draw one picture. `pipeline(prompt, ...)` does the same in diffusers' words.

        Args:
            way: with how much memory: guidance in one pass or two, a decoder in bands, giving weights back.
            series: what earlier pictures leave for this one.

        Raises:
            UsageError: something that is asked for cannot be had.
            NumericError: a step's result is not finite.
            OnDeviceError: the bundle or the device failed.
        """
        way, series = way or Way(), series or Series(self._spec)
        series.enter(request)
        width, height = size = picture_size(self._spec, request, self._size)
        spec, scale = self._spec, self._spec.latents.scale
        check_given(spec, request)
        numbers = self._numbers(request, size)
        table, options = self._table(request, numbers)
        stream = request.noise()
        pictures = {} if request.image is None else {"image": request.image}
        place = {"height": height // scale, "width": width // scale}
        texts = self._texts(request, numbers, place)
        values = Values(spec, self._tokenizers, texts, pictures, numbers, size, stream)
        roles = Roles(spec, self._session, self._plans, values, place)
        start = run_before(roles, request.latents, stream, series)
        self._release(way, "before")
        clean = None if spec.latents.begin is None else values.get(spec.latents.begin)
        final = run_loop(roles, table, table.start(start, clean), stream, split=way.split, on_step=on_step)
        self._release(way, "denoise")
        pixels = None
        if request.denoising_end is None:
            stages = self._stages(place["width"], place["height"], way.rows) if self._stages is not None else []
            pixels = to_pixels(run_after(roles, final, stages))[0]
            self._release(way, "after")
        parameters = {
            "prompt": request.prompt,
            "negative_prompt": (request.negative_prompt or "") if is_guided(spec, numbers) else "",
            "steps": table.steps,
            "sampler": table.sampler,
            "guidance_scale": numbers.get("guidance_scale", 1.0),
            **request.noise_parameters(),
            "width": width,
            "height": height,
            **texts.parameters(texts_in_use(spec, numbers)),
            **options,
            **request.numbers,
        }
        return Picture(pixels, final, start, parameters)

    def _texts(self, request: Request, numbers: Mapping[str, float], place: Mapping[str, int]) -> Texts:
        """What the texts say. Raises UsageError where they cannot be drawn so."""
        most = most_chunks(self._plans, place, self._tokenizers)
        texts = Texts(
            self._spec, self._tokenizers, request.texts(), emphasis=request.emphasis, long=request.long, most=most
        )
        for loop in self._spec.denoise:
            check_parts(loop, passes_in_use(loop, numbers), texts)
        return texts

    def _numbers(self, request: Request, size: tuple[int, int]) -> dict[str, float]:
        """Every number of the pipeline. Raises UsageError for one that it does not have."""
        strength = self._spec.latents.strength or "strength"
        given = {"guidance_scale": request.guidance_scale, strength: request.strength}
        return resolved(
            self._spec, {**request.numbers, **{name: value for name, value in given.items() if value is not None}}, size
        )

    def _table(self, request: Request, numbers: Mapping[str, float]) -> tuple[SamplerTable, dict[str, Any]]:
        """The sampler's table, and the options that it was made with."""
        spec, options = self._spec, request.parts() | dict(request.sampler_options)
        if request.image is not None and spec.latents.strength is not None:
            options["strength"] = numbers[spec.latents.strength]
        steps = spec.steps if request.num_inference_steps is None else request.num_inference_steps
        return make_table(request.sampler or spec.sampler, steps, self._scheduler_config, **options), options

    def _release(self, way: Way, done: str) -> None:
        """Give weights back that no later part needs."""
        parts = {
            "before": [step.component for step in self._spec.before if isinstance(step, Role)],
            "denoise": [role.component for role in self._spec.loop_roles()],
            "after": [role.component for role in self._spec.after],
        }
        later = [name for part in list(parts)[list(parts).index(done) + 1 :] for name in parts[part]]
        for component in dict.fromkeys(parts[done]) if way.unload else ():
            if component not in later:
                self._session.release(component)


def _seed_of(generator: Any) -> dict[str, Any]:
    """The fields of a Request for a torch.Generator."""
    mode = {"seed_mode": "cuda"} if generator.device.type == "cuda" else {}
    return {"seed": generator.initial_seed()} | mode


def _tokenizers(bundle: Bundle) -> dict[str, Tokenizer]:
    for name, entry in bundle.manifest.tokenizers.items():
        if entry.kind != "bpe":
            what = f'is of the kind "{entry.kind}" (T5\'s), which this version does not read.'
            raise BundleError(what, where=f"tokenizers/{name}", fix="install a newer ondevice")
    return {name: Tokenizer.from_files(bundle.tokenizer_files(name)) for name in bundle.manifest.tokenizers}


def _check_supported(spec: PipelineSpec) -> None:
    """Refuse words of docs/pipeline.md that are not here yet."""
    missing = [
        f"pictures prepared by {given.prepare}" for given in spec.pictures.values() if given.prepare not in PREPARED
    ]
    missing += [f"a picture {name}" for name in spec.pictures if name != "image"]
    missing += [f"a text {name}" for name in spec.texts if name not in Request(prompt="").texts()]
    missing += ["frames"] * (spec.gives != "picture")
    missing += ["a number per frame" for number in spec.numbers.values() if number.ramp is not None]
    kept = {TIMESTEP, *(name for role in spec.loop_roles() for name in role.keep.values())}
    missing += ["zeros for what a call makes" for loop in spec.denoise for one in loop.passes if kept & set(one.zeros)]
    feeds = [feed for role in spec.roles() for feed in role.feed.values()]
    missing += [
        "zeros for a value that was not made" for feed in feeds if feed.kind == "value" and feed.absent is not None
    ]
    if missing:
        what = f"its pipeline asks for {missing[0]}, which this version does not do."
        raise BundleError(what, where="pipeline", fix="install a newer ondevice")
