"""Replay of a bundle's pipeline: texts, pictures and numbers -> a picture.
It knows no family of models and no GPU (docs/pipeline.md)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, Unpack

import numpy as np

from ondevice.bundle.pipeline import LATENTS, TIMESTEP, InitialNoise, Loop, PipelineSpec, Role, Sample
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.bands import Stage, decode
from ondevice.diffusion.guidance import combined, is_guided, passes_in_use
from ondevice.diffusion.image import drawn, rounded_down, to_pixels
from ondevice.diffusion.memory_budget import Way, decoder_stages, default_size, plan_sizes
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.request import Options, Picture, Request
from ondevice.diffusion.samplers import SamplerTable, make_table, run_table
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.diffusion.values import PREPARED, Runner, Tokens, Values, resolved
from ondevice.errors import BundleError, NumericError, UsageError, multiples_near

OnStep = Callable[[int, int, float, np.ndarray], np.ndarray | None]
"""Called after each pass of the network: calls done, calls in all, timestep, latents.
What it returns takes the latents' place."""


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
        tokenizers: Mapping[str, Tokens],
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
        """Draw one picture; what comes back has `.images`, as in diffusers.

        Args:
            options: the fields of `Request`, and diffusers' `generator` (its seed is taken, and the numbers are those
                of torch's CPU generator) and `callback_on_step_end(pipeline, step, timestep, {"latents"})`. Where the
                callback gives other latents back, these are gone on with.

        Raises:
            OnDeviceError: as `draw`.
        """
        callback, generator = options.pop("callback_on_step_end", None), options.pop("generator", None)
        fields: dict[str, Any] = {"prompt": prompt, **options} | (
            {} if generator is None else {"seed": generator.initial_seed()}
        )

        def on_step(done: int, calls: int, timestep: float, latents: np.ndarray) -> np.ndarray | None:
            assert callback is not None
            given = callback(self, done - 1, timestep, {"latents": latents})
            return (given or {}).get("latents")

        return self.draw(Request(**fields), on_step=None if callback is None else on_step)

    def draw(self, request: Request, way: Way | None = None, on_step: OnStep | None = None) -> Picture:
        """Draw one picture. `pipeline(prompt, ...)` does the same in diffusers' words.

        Args:
            way: with how much memory: guidance in one pass or two, a decoder in bands, giving weights back.

        Raises:
            UsageError: something that is asked for cannot be had.
            NumericError: a step's result is not finite.
            OnDeviceError: the bundle or the device failed.
        """
        way = way or Way()
        width, height = size = self._sizes(request)
        spec, scale = self._spec, self._spec.latents.scale
        self._check_given(request)
        numbers = self._numbers(request, size)
        table, options = self._table(request, numbers)
        stream = Noise(request.seed)
        pictures = {} if request.image is None else {"image": request.image}
        values = Values(spec, self._tokenizers, request.texts(), pictures, numbers, size, stream)
        place = {"height": height // scale, "width": width // scale}
        start = self._before(request, values, place, stream)
        self._release(way, "before")
        clean = None if spec.latents.begin is None else values.get(spec.latents.begin)
        final = self._sample(table, table.start(start, clean), values, place, way, stream, on_step)
        self._release(way, "denoise")
        pixels = self._after(final, values, place, way)
        self._release(way, "after")
        parameters = {
            "prompt": request.prompt,
            "negative_prompt": (request.negative_prompt or "") if is_guided(spec, numbers) else "",
            "steps": table.steps,
            "sampler": table.sampler,
            "guidance_scale": numbers.get("guidance_scale", 1.0),
            "seed": request.seed,
            "width": width,
            "height": height,
            **options,
            **request.numbers,
        }
        return Picture(to_pixels(pixels)[0], final, start, parameters)

    def _check_given(self, request: Request) -> None:
        """Refuse a picture that the pipeline does not take, and a text or a picture that is missing."""
        spec = self._spec
        if request.image is not None and "image" not in spec.pictures:
            raise UsageError("this model begins from no picture", where="image", fix="leave it out")
        texts, pictures = request.texts(), {"image": request.image}
        for name in (name for name, optional in spec.texts.items() if not optional and texts[name] is None):
            raise UsageError("this model draws nothing without this text", where=name, fix="give one; it may be empty")
        for name in (name for name, given in spec.pictures.items() if not given.optional and pictures[name] is None):
            raise UsageError("this model draws nothing without a picture", where=name, fix="give one")

    def _numbers(self, request: Request, size: tuple[int, int]) -> dict[str, float]:
        """Every number of the pipeline. Raises UsageError for one that it does not have."""
        strength = self._spec.latents.strength or "strength"
        given = {"guidance_scale": request.guidance_scale, strength: request.strength}
        return resolved(
            self._spec, {**request.numbers, **{name: value for name, value in given.items() if value is not None}}, size
        )

    def _table(self, request: Request, numbers: Mapping[str, float]) -> tuple[SamplerTable, dict[str, Any]]:
        """The sampler's table, and the options that it was made with."""
        spec, options = self._spec, dict(request.sampler_options)
        if request.image is not None and spec.latents.strength is not None:
            options["strength"] = numbers[spec.latents.strength]
        steps = spec.steps if request.num_inference_steps is None else request.num_inference_steps
        return make_table(request.sampler or spec.sampler, steps, self._scheduler_config, **options), options

    def _before(self, request: Request, values: Values, place: Mapping[str, int], stream: Noise) -> np.ndarray:
        """All that comes before the loop; gives the initial noise."""
        base = self._spec.latents
        shape = (1, base.channels, place["height"], place["width"])
        passes = (one for loop in self._spec.denoise for one in passes_in_use(loop, values.numbers))
        texts = dict.fromkeys(one.text for one in passes if one.text is not None)
        start = None
        for step in self._spec.before:
            if isinstance(step, InitialNoise):
                start = stream.randn(shape) if request.latents is None else self._given(request.latents, shape)
            elif isinstance(step, Sample):
                if (moments := values.get(step.moments)) is not None:
                    clean = drawn(self._session.read(moments), stream if step.draw else None)
                    values.keep(
                        step.keep, np.float32(base.scaling) * (clean - np.float32(base.shift)) if step.scaled else clean
                    )
            elif not values.runs(step):
                continue
            elif step.every == "text":
                self._for_texts(step, values, list(texts), place)
            else:
                self._run(step, values, None, place)
        return self._given(request.latents, shape) if start is None else start

    def _for_texts(self, role: Role, values: Values, texts: list[str], place: Mapping[str, int]) -> None:
        """Run a role for each text; what it would make of a text that was not given may be zeros."""
        absent = [text for text in texts if values.stands_for_zeros(role, text)]
        given = [text for text in texts if text not in absent]
        for text in given:
            self._run(role, values, text, place)
        for name in role.keep.values():
            for text in absent:
                values.keep(name, self._zeros(values.get(name, given[0])), text)

    def _run(self, role: Role, values: Values, text: str | None, place: Mapping[str, int]) -> None:
        feeds = values.feeds(role, text)
        outputs = self._session.run_on(role.component, feeds, **self._plan_sizes(role.component, 1, place))
        for port, name in role.keep.items():
            _check_finite(self._session.read(outputs[port]), f"{role.component}'s {port}")
            values.keep(name, outputs[port], text)

    def _sample(
        self,
        table: SamplerTable,
        start: np.ndarray,
        values: Values,
        place: Mapping[str, int],
        way: Way,
        stream: Noise,
        on_step: OnStep | None,
    ) -> np.ndarray:
        calls = len(table.calls)

        numbers = itertools.count()

        def predict(x: np.ndarray, timestep: float) -> np.ndarray:
            call = next(numbers)
            values.enter_call(call, calls)
            values.keep(LATENTS, x)
            values.keep(TIMESTEP, np.array([timestep], np.float32))
            return self._predict(self._loop(call / calls, values), values, place, way)

        def after(call: int, x: np.ndarray) -> np.ndarray | None:
            timestep = table.calls[call].timestep
            _check_finite(x, f"step {call + 1} of {calls} (timestep {timestep:g})")
            return on_step(call + 1, calls, timestep, x) if on_step is not None else None

        return run_table(table, predict, start, lambda _: stream.randn(start.shape), after)

    def _loop(self, part: float, values: Values) -> Loop:
        """The loop of a part of the schedule, 0 to 1."""
        for loop in self._spec.denoise:
            if values.number(loop.start) <= part < values.number(loop.end):
                return loop
        raise UsageError(
            f"no part of the pipeline runs at {part:g} of the schedule",
            where="pipeline",
            fix="choose other parts, from 0 to 1",
        )

    def _predict(self, loop: Loop, values: Values, place: Mapping[str, int], way: Way) -> np.ndarray:
        """What the sampler takes as the model's output: all passes at once, or one after another."""
        passes = passes_in_use(loop, values.numbers)
        at_once = all(
            self._plan_sizes(role.component, len(passes), place) in self._plans.get(role.component, ())
            for role in loop.roles
        )
        groups = [passes] if at_once and not way.split else [(one,) for one in passes]
        outputs: list[np.ndarray] = []
        for group in groups:
            for role in loop.roles:
                sizes = self._plan_sizes(role.component, len(group), place)
                feeds = values.feeds_of_passes(role, group, self._zeros)
                if role is loop.roles[-1]:
                    predicted = self._session.run(role.component, feeds, **sizes)
                    port = next(port for port, name in role.keep.items() if name == loop.prediction)
                    outputs += np.split(predicted[port], len(group))
                    continue
                kept = self._session.run_on(role.component, feeds, **sizes)
                for port, name in role.keep.items():
                    values.keep(name, kept[port])
        return combined(loop, outputs, values.numbers)

    def _zeros(self, value: Any) -> Any:
        """Zeros like a value, and where it is."""
        return (
            np.zeros_like(value)
            if isinstance(value, np.ndarray)
            else self._session.put(np.zeros_like(self._session.read(value)))
        )

    def _after(self, final: np.ndarray, values: Values, place: Mapping[str, int], way: Way) -> np.ndarray:
        base, decoder = self._spec.latents, self._spec.decoder
        values.keep(LATENTS, final / np.float32(base.scaling) + np.float32(base.shift))
        for role in self._spec.after[:-1]:
            if values.runs(role):
                self._run(role, values, None, place)
        bands = self._stages(place["width"], place["height"], way.rows) if self._stages is not None else []
        if bands:
            pixels = decode(self._session, bands, values.latents)
        else:
            outputs = self._session.run(
                decoder.component, values.feeds(decoder), **self._plan_sizes(decoder.component, 1, place)
            )
            pixels = outputs[next(port for port, name in decoder.keep.items() if name == self._spec.gives)]
        _check_finite(pixels, "the decoder's output")
        return pixels

    def _plan_sizes(self, component: str, batch: int, place: Mapping[str, int]) -> dict[str, int]:
        """The sizes of the plan to run."""
        names = self._plans[component][0] if component in self._plans else place
        return {name: size for name, size in {"batch": batch, **place}.items() if name in names}

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

    def _sizes(self, request: Request) -> tuple[int, int]:
        """Pixels, each a multiple of `scale`: as asked, else the image's
        (rounded down, as diffusers does), else the usual."""
        scale = self._spec.latents.scale
        usual = self._size if request.image is None else rounded_down(request.image, scale)
        sizes = (
            usual[0] if request.width is None else request.width,
            usual[1] if request.height is None else request.height,
        )
        for name, value in zip(("width", "height"), sizes, strict=True):
            if value < scale or value % scale:
                what = f"not a size the model can draw (got {value}, expected a multiple of {scale})"
                raise UsageError(what, where=name, fix=f"use {multiples_near(value, scale)}")
        return sizes

    def _given(self, latents: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        if latents is None:
            raise UsageError(
                "this model goes on from latents, and none were given",
                where="latents",
                fix="give those of the model before it",
            )
        if latents.shape != shape or latents.dtype.kind != "f":
            raise UsageError(
                f"wrong array (got {latents.dtype}{list(latents.shape)}, expected float32{list(shape)})",
                where="latents",
                fix=f"give latents of the picture's size divided by {self._spec.latents.scale}",
            )
        if not np.isfinite(latents).all():
            raise UsageError(
                "some values are not finite (expected normal noise)", where="latents", fix="save them again"
            )
        return latents.astype(np.float32)


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


def _check_finite(values: np.ndarray, where: str) -> None:
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise NumericError(
            f"{bad} of {values.size} values are NaN or infinite",
            where=where,
            fix="find the op with --check, or convert with --dtype fp32",
        )
