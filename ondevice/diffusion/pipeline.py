"""Replay of a model's pipeline: texts, pictures and numbers -> a picture.
It knows no family of models and no GPU (docs/pipeline.md)."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, Unpack, cast

import numpy as np
from PIL import Image

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.bundle.reader import Bundle
from ondevice.diffusion import control, film_words
from ondevice.diffusion.adapters import Adapters, Changing, Loaded, Scale
from ondevice.diffusion.after import run_after
from ondevice.diffusion.bands import Stage
from ondevice.diffusion.before import run_before
from ondevice.diffusion.given_pictures import GivenPictures
from ondevice.diffusion.guidance import is_guided, texts_in_use
from ondevice.diffusion.image import to_pixels
from ondevice.diffusion.inpaint import outside_of, put_back
from ondevice.diffusion.inversion import Inverting
from ondevice.diffusion.loop import OnStep, run_loop
from ondevice.diffusion.loop_state import Keeper
from ondevice.diffusion.memory_budget import Way, decoder_stages, default_size, plan_sizes
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.parallel import check_guided
from ondevice.diffusion.previews import Preview, previewer
from ondevice.diffusion.request import Options, Picture, Request, request_of
from ondevice.diffusion.request_checks import (
    check_chunk,
    check_fast,
    check_frames,
    check_given,
    check_mask,
    picture_size,
)
from ondevice.diffusion.roles import Entered, Plans, Roles, Zeros
from ondevice.diffusion.samplers import SamplerTable, make_table
from ondevice.diffusion.series import Series, series_of
from ondevice.diffusion.text.chunks import Pieces
from ondevice.diffusion.text.texts import Texts, check_parts, most_chunks
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.diffusion.values import Runner, Values, frames_of, resolved
from ondevice.errors import BundleError, UsageError
from ondevice.run.passes_apart import PassesApart
from ondevice.vocabulary.files import UNIGRAM

log = logging.getLogger(__name__)


class Pipeline(Inverting):
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
        zeros: for a port of the plan of a component at some sizes; of a pipeline where they stand for what is absent.

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
        zeros: Zeros | None = None,
    ) -> None:
        _check_supported(spec)
        self._spec, self._session, self._tokenizers, self._size, self._stages = spec, session, tokenizers, size, stages
        self._scheduler_config, self._plans = dict(scheduler_config), Plans(plans, zeros or _no_zeros)
        self._adapters: Adapters | None = None

    @classmethod
    def of(cls, files: ModelFiles, session: Runner) -> Self:
        """The pipeline that a bundle or an export describes, on a session that runs it.
        Raises OnDeviceError for what cannot be read."""
        apart = session if isinstance(session, PassesApart) else None
        made = cls(
            files.pipeline,
            session,
            _tokenizers(files),
            files.scheduler,
            plans=apart.plan_sizes(plan_sizes(files)) if apart else plan_sizes(files),
            size=default_size(files),
            stages=lambda width, height, rows: decoder_stages(files, width, height, rows),
            zeros=apart.zeros if apart else files.port_zeros,
        )
        if isinstance(files, Bundle):
            made._adapters = Adapters(files, cast(Changing, session))
        return made

    @property
    def takes_adapters(self) -> bool:
        """Whether its weights can be changed: a bundle's."""
        return self._adapters is not None

    @property
    def adapters(self) -> Adapters:
        """The adapters on its weights. Raises UsageError where another runtime has these."""
        if self._adapters is None:
            raise UsageError("it changes a bundle's weights.", where="adapters", fix="draw from a bundle, on a device")
        return self._adapters

    def load_lora_weights(self, path: str | os.PathLike[str], adapter_name: str | None = None) -> Loaded:
        """Load an adapter, and use it alone, at scale 1 (one that the bundle carries: at its own).

        Args:
            path: a .safetensors file, or peft's folder of one; or the name of an adapter that the bundle carries.
            adapter_name: what it is called from now on; None: `default_0`, `default_1`...

        Returns:
            What was found; printed it says how many of its modules were applied, and its `rest` which were not.

        Raises:
            UsageError: there is no such thing, or the name is taken.
            CheckpointError: the file is no adapter, or for another model.
        """
        found = self.adapters.open(path, adapter_name)
        log.info("%s", found)
        if found.rest:
            log.warning("%s", found.rest)
        self.adapters.load(found)
        return found

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: Scale | Sequence[Scale | None] | None = None
    ) -> None:
        """Use these adapters from now on, and no others; with no names none.

        Args:
            adapter_weights: a scale for all, or one for each; None: its own. A scale is a number, or a mapping of parts
                ("unet", "text_encoder", ...) to numbers, 1 where it names a part not.

        Raises:
            UsageError: a name or a scale is none.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        every = adapter_weights is None or isinstance(adapter_weights, (int, float, Mapping))
        scales = [adapter_weights] * len(names) if every else list(cast(Sequence[Scale | None], adapter_weights))
        self.adapters.use(names, cast(list[Scale | None], scales))

    def get_active_adapters(self) -> list[str]:
        """The adapters in use."""
        return list(self.adapters.used)

    def unload_lora_weights(self) -> None:
        """Draw with the bundle's own weights again, and forget all adapters."""
        self.adapters.unload()

    def __call__(self, prompt: str = "", **options: Unpack[Options]) -> Picture:
        """Draw one picture, or several; what comes back has `.images`, as in diffusers, and of a film `.frames`.

        Args:
            options: the fields of `Request`; and diffusers' `num_images_per_prompt`, `generator` (its seed is taken,
                and the `seed_mode` "cuda" of one on a CUDA device) and `callback_on_step_end(pipeline, step, timestep,
                {"latents"})`. Where the callback gives other latents back, these are gone on with. Of several pictures
                the seeds are s, s + 1..., and each is what its seed gives alone: diffusers' where `generator` is a list
                of generators with these seeds. (One generator draws all of them from one stream there, so that only
                the first has noise that its seed gives alone.) And those of diffusers' pipelines with ControlNets and
                of films (`in_diffusers_words` of `ondevice.diffusion.control` and of `.film_words`).

        Raises:
            OnDeviceError: as `draw`.
        """
        callback, generator = options.pop("callback_on_step_end", None), options.pop("generator", None)
        count = options.pop("num_images_per_prompt", 1)
        words = film_words.in_diffusers_words(self._spec, control.in_diffusers_words(self._spec, options))
        fields: dict[str, Any] = {"prompt": prompt, **words}
        fields |= {} if generator is None else _seed_of(generator)

        def on_step(done: int, calls: int, timestep: float, latents: np.ndarray) -> np.ndarray | None:
            assert callback is not None
            given = callback(self, done - 1, timestep, {"latents": latents})
            return (given or {}).get("latents")

        requests = series_of(request_of(fields), count)
        first, *others = self.draw_series(requests, on_step=None if callback is None else on_step)
        return replace(first, others=tuple(others))

    def draw_series(
        self,
        requests: Iterable[Request],
        way: Way | None = None,
        on_step: OnStep | None = None,
        keepers: Iterable[Keeper | None] | None = None,
    ) -> Iterator[Picture]:
        """Draw a picture per request, each as `draw` does, when it is asked for; `keepers` are one for each. Of those
        that differ in their noise alone (`series_of`) texts are encoded once, and pictures, too, where nothing is drawn
        for that."""
        series = Series(self._spec)
        both = zip(requests, itertools.repeat(None) if keepers is None else keepers, strict=False)
        return (self.draw(request, way, on_step, series, keeper) for request, keeper in both)

    def draw(
        self,
        request: Request,
        way: Way | None = None,
        on_step: OnStep | None = None,
        series: Series | None = None,
        keeper: Keeper | None = None,
    ) -> Picture:
        """Draw one picture. `pipeline(prompt, ...)` does the same in diffusers' words.

        Args:
            way: with how much memory: guidance in one pass or two, a decoder in bands, giving weights back.
            series: what earlier pictures leave for this one.
            keeper: keeps the loop's state, and may have one to go on from (docs/sessions.md).

        Raises:
            UsageError: something that is asked for cannot be had.
            NumericError: a step's result is not finite.
            OnDeviceError: the bundle or the device failed.
        """
        way, series = way or Way(), series or Series(self._spec)
        entered = self._entered(request, series)
        roles, numbers, masked, stream = entered.roles, entered.numbers, entered.masked, entered.stream
        spec, base, values, place = self._spec, self._spec.latents, roles.values, roles.place
        texts, pictures = values.texts, values.pictures
        begin = base.begin if base.begin is not None and values.is_made(base.begin) else None
        check_mask(spec, masked, begin)
        strength = None if begin is None or base.strength is None else numbers[base.strength]
        if masked and strength is not None and strength >= 1:  # the mask alone keeps what is kept of the picture
            strength = None
        table = self._table(request, {} if strength is None else {"strength": strength, "strength_rounds": base.rounds})
        start = run_before(roles, request.latents, stream, series)
        self._release(way, "before")
        clean = None if begin is None else roles.on_host(values.get(begin))
        back = None
        if masked and base.mask is not None and clean is not None:
            back = put_back(table, pictures.prepared(base.mask.picture), clean, start)
        begun = table.start(start, None if strength is None else clean)
        final = run_loop(roles, table, begun, stream, split=way.split, put_back=back, on_step=on_step, keeper=keeper)
        self._release(way, "denoise")
        pixels = None
        if request.denoising_end is None:
            pixels = to_pixels(self._decoded(roles, final, request, way))
            self._release(way, "after")
            if (outside := spec.outside) is not None and pictures.has(outside.picture) and pictures.has(outside.mask):
                pixels = outside_of(pictures.mask(outside.mask), pictures.fitted(outside.picture), pixels)
        parameters = {
            "prompt": request.prompt,
            "negative_prompt": (request.negative_prompt or "") if is_guided(spec, numbers) else "",
            "steps": table.steps,
            "sampler": table.sampler,
            "guidance_scale": float(np.max(numbers.get("guidance_scale", 1.0))),
            **request.noise_parameters(),
            "width": place["width"] * base.scale,
            "height": place["height"] * base.scale,
            **texts.parameters(texts_in_use(spec, numbers)),
            **request.parts(),
            **request.sampler_options,
            **({"taesd": True} if request.taesd else {}),
            **({} if request.decode_chunk is None else {"decode_chunk": request.decode_chunk}),
            **({"strength": numbers[base.strength]} if base.strength in numbers and "image" in pictures.given else {}),
            **request.numbers,
            **(self._adapters.parameters() if self._adapters else {}),
        }
        first = None if pixels is None else pixels[0]
        return Picture(first, final, start, parameters, pixels if spec.gives == "frames" else None)

    def _entered(self, request: Request, series: Series) -> Entered:
        """What a request asks for, checked, before anything runs. Raises UsageError for what cannot be had."""
        series.enter(request, self._adapters.used if self._adapters else {})
        size = picture_size(self._spec, request, self._size)
        spec, base = self._spec, self._spec.latents
        check_given(spec, request)
        check_fast(spec, request)
        pictures = GivenPictures(spec.pictures, request.given_pictures(), size, base.scale)
        masked = base.mask is not None and pictures.has(base.mask.picture)
        numbers = self._numbers(request, size, masked)
        check_frames(spec, frames_of(spec, numbers), self._plans.sizes)
        if isinstance(self._session, PassesApart):
            check_guided(spec, numbers)
        check_chunk(spec, request, frames_of(spec, numbers), self._plans.sizes)
        stream = request.noise()
        place = {"height": size[1] // base.scale, "width": size[0] // base.scale}
        place |= {} if base.frames is None else {"frames": frames_of(spec, numbers)}
        texts = series.texts = series.texts or self._texts(request, numbers, place)
        values = Values(spec, self._tokenizers, texts, pictures, numbers, stream)
        roles = Roles(spec, self._session, self._plans, values, place, request.decode_chunk)
        return Entered(roles, numbers, masked, stream)

    def previewer(self, by: str | None = None) -> Preview:
        """What shows latents as they are being drawn: float32 [frames, c, h, w] -> uint8 [height, width, 3].

        Args:
            by: "rgb", by a sum of their channels, at the latents' size; "taesd", by the fast decoder; None: the first
                of the two that this model has.

        Raises:
            UsageError: it has no such, or none.
        """
        return previewer(self._spec, self._session, self._plans.sizes, by)

    def preview(self, latents: np.ndarray, by: str | None = None) -> Image.Image:
        """The same of one step's latents, for `callback_on_step_end`. Raises OnDeviceError as `previewer`."""
        return Image.fromarray(self.previewer(by)(latents))

    def _decoded(self, roles: Roles, final: np.ndarray, request: Request, way: Way) -> np.ndarray:
        """What the pipeline gives of the loop's final sample."""
        if request.taesd:
            return run_after(roles, self._spec.fast, final)
        width, height = (roles.place[side] for side in ("width", "height"))
        stages = self._stages(width, height, way.rows) if self._stages is not None else []
        return run_after(roles, self._spec.after, final, stages)

    def _texts(self, request: Request, numbers: Mapping[str, Any], place: Mapping[str, int]) -> Texts:
        """What the texts say. Raises UsageError where they cannot be drawn so."""
        most = most_chunks(self._plans.sizes, place, self._tokenizers)
        texts = Texts(
            self._spec, self._tokenizers, request.texts(), emphasis=request.emphasis, long=request.long, most=most
        )
        check_parts(self._spec, numbers, texts)
        return texts

    def _numbers(self, request: Request, size: tuple[int, int], masked: bool) -> dict[str, Any]:
        """Every number of the pipeline; of a run with a mask, the strength has another default.
        Raises UsageError for one that it does not have."""
        base = self._spec.latents
        strength = base.strength or "strength"
        given = {"guidance_scale": request.guidance_scale, strength: request.strength}
        if masked and base.mask is not None and request.strength is None and strength not in request.numbers:
            given[strength] = base.mask.strength
        return resolved(
            self._spec, {**request.numbers, **{name: value for name, value in given.items() if value is not None}}, size
        )

    def _table(self, request: Request, begin: Mapping[str, float | str]) -> SamplerTable:
        """The sampler's table. `begin`: the options of a run that begins from a picture."""
        steps = self._spec.steps if request.num_inference_steps is None else request.num_inference_steps
        options = {**request.parts(), **request.sampler_options, **begin}
        return make_table(request.sampler or self._spec.sampler, steps, self._scheduler_config, **options)

    def _release(self, way: Way, done: str) -> None:
        """Give weights back that no later part needs."""
        parts = {
            "before": [step.component for step in self._spec.before if isinstance(step, Role)],
            "denoise": [role.component for role in self._spec.loop_roles()],
            "after": [role.component for role in (*self._spec.after, *self._spec.fast)],
        }
        later = [name for part in list(parts)[list(parts).index(done) + 1 :] for name in parts[part]]
        for component in dict.fromkeys(parts[done]) if way.unload else ():
            if component not in later:
                self._session.release(component)


def _seed_of(generator: Any) -> dict[str, Any]:
    """The fields of a Request for a torch.Generator. Raises UsageError for anything else."""
    if not hasattr(generator, "initial_seed"):
        what = f"of another type (got {type(generator).__name__}, expected a torch.Generator)."
        raise UsageError(what, where="generator", fix="give seed=1 instead")
    mode = {"seed_mode": "cuda"} if generator.device.type == "cuda" else {}
    return {"seed": generator.initial_seed()} | mode


def _no_zeros(component: str, sizes: Mapping[str, int], port: str) -> np.ndarray:
    raise BundleError(f"{component}'s {port} has no known shape", where="pipeline", fix="give `zeros`")


def _tokenizers(model: ModelFiles) -> dict[str, Pieces]:
    found: dict[str, Pieces] = {}
    for name, entry in model.tokenizers.items():
        files = model.tokenizer_files(name)
        if entry.kind == "bpe":
            found[name] = Tokenizer.from_files(files, entry.length)
        elif UNIGRAM in files:
            from ondevice.diffusion.unigram import UnigramTokenizer  # few bundles have one: others need not wait for it

            found[name] = UnigramTokenizer.from_files(files, entry.length)
        else:
            what = f"is of the kind {entry.kind!r} and has no {UNIGRAM}."
            raise BundleError(what, where=f"tokenizers/{name}", fix="convert the checkpoint again")
    return found


def _check_supported(spec: PipelineSpec) -> None:
    """Refuse words of docs/pipeline.md that are not here yet."""
    missing = [f"a text {name}" for name in spec.texts if name not in Request(prompt="").texts()]
    if missing:
        what = f"its pipeline asks for {missing[0]}, which this version does not do."
        raise BundleError(what, where="pipeline", fix="install a newer ondevice")
