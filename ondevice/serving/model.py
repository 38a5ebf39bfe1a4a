"""The model that a server draws with: what it takes, and whether a request can be drawn, asked by any thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ondevice.bundle.reader import Bundle
from ondevice.diffusion import memory_budget
from ondevice.diffusion.adapters import Loaded, changed_keys, open_adapter
from ondevice.diffusion.init_image import fitting_size
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.request import Request
from ondevice.diffusion.request_checks import check_given, check_mask, picture_size
from ondevice.diffusion.samplers import SAMPLERS, make_table
from ondevice.drawing.engine import Opened
from ondevice.drawing.pictures import no_such_size
from ondevice.errors import UsageError
from ondevice.serving.adapters import Adapters

LARGEST = 1 << 22
"""Pixels of a picture, where a model draws every size (2048 x 2048)."""


class Served:
    """What is known of the model without drawing.

    Args:
        opened: the model, opened for this alone: reading its plans is not for several threads, so that the thread that
            draws has another one, and here they take turns.
        folder: of LoRA files, if there is one.
    """

    def __init__(self, opened: Opened, folder: Path | None = None) -> None:
        self._opened, self._turn = opened, threading.Lock()
        carried = opened.files.manifest.adapters if isinstance(opened.files, Bundle) else ()
        self.adapters = Adapters(folder, tuple(carried))
        self._loaded: dict[str, tuple[object, Loaded]] = {}  # by name, beside what the file was like
        files = opened.files
        self.name = files.path.name.removesuffix(".ondevice").removesuffix(".odpack")
        self.source = str(files.model.get("source", self.name))
        self.spec, self.scheduler = files.pipeline, files.scheduler
        scale = self.spec.latents.scale
        self.default_size = memory_budget.default_size(files)
        self.any_size = memory_budget.takes_any_size(files)
        self.sizes = [(width * scale, height * scale) for width, height in memory_budget.latent_sizes(files)]
        self._encodes = {
            (width * scale, height * scale)
            for width, height in memory_budget.latent_sizes(files)
            if memory_budget.encodes_pictures(files, width, height)
        }
        self.samplers = [name for name in SAMPLERS if self._draws_with(name)]

    def _draws_with(self, sampler: str) -> bool:
        """Whether the model's schedule is one that a sampler can follow."""
        try:
            make_table(sampler, self.spec.steps, self.scheduler)
        except UsageError:
            return False
        return True

    def takes(self, picture: str) -> bool:
        """Whether the pipeline is given a picture of that name."""
        return picture in self.spec.pictures and not self.spec.pictures[picture].of

    def resizes(self, picture: str) -> bool:
        """Whether a picture of that name is only ever seen at the size that is drawn."""
        users = [one for name, one in self.spec.pictures.items() if picture in (one.of or (name,))]
        return all(one.prepare != "clip_vision" for one in users)

    def fit(self, own: tuple[int, int]) -> tuple[int, int]:
        """The size (width, height) that is drawn from a picture of size `own`, where nobody asks for one."""
        scale = self.spec.latents.scale
        if self.any_size:
            width, height = (max(side - side % scale, scale) for side in own)
            return (width, height) if width * height <= LARGEST else self.default_size
        return fitting_size(own, sorted(self._encodes) or [self.default_size])

    def adapters_of(self, asked: Sequence[tuple[str, float | None]]) -> list[tuple[Loaded, float | None]]:
        """What these names are, with their scales. A file that changed meanwhile is read again.

        Raises:
            UsageError: there is none of that name, one is there twice, or the model takes none.
            CheckpointError: a file is no adapter, or for another model.
        """
        names = [name for name, _ in asked]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"{twice[:100]!r} is there twice.", where="adapters", fix="name each once")
        with self._turn:
            return [(self._adapter(name), scale) for name, scale in asked]

    def _adapter(self, name: str) -> Loaded:
        files, path = self._opened.files, self.adapters.file(name)
        if not isinstance(files, Bundle):
            raise UsageError("they change a bundle's weights.", where="adapters", fix="serve a bundle, on a device")
        info = None if path is None else path.stat()
        state = None if info is None else (info.st_size, info.st_mtime_ns)
        if name not in self._loaded or self._loaded[name][0] != state:
            self._loaded[name] = state, open_adapter(files, name if path is None else path, name)
        return self._loaded[name][1]

    def way(self, request: Request, adapters: Sequence[tuple[Loaded, float | None]] = ()) -> Way:
        """How the picture is drawn in the memory that there is.

        Raises:
            UsageError: the bundle has no such size, the sampler no such settings, the model no such picture.
            PlanError: the picture does not fit; says what it needs and what there is.
        """
        check_given(self.spec, request)
        check_mask(self.spec, request.mask is not None, None if request.image is None else "image")
        size = picture_size(self.spec, request, self.default_size)
        self._check_size(size)
        steps = self.spec.steps if request.num_inference_steps is None else request.num_inference_steps
        make_table(request.sampler or self.spec.sampler, steps, self.scheduler, **request.sampler_options)
        with self._turn:
            files = self._opened.files
            used = [one for one, _ in adapters]
            changed = changed_keys(files, used) if used and isinstance(files, Bundle) else frozenset()
            return self._opened.way_of(request, changed)

    def _check_size(self, size: tuple[int, int]) -> None:
        if self.any_size:
            if size[0] * size[1] > LARGEST:
                what = f"the picture is too large (got {size[0]}x{size[1]}, expected at most {LARGEST} pixels)."
                raise UsageError(what, where="size", fix="ask for a smaller one")
        elif size not in self.sizes:
            raise no_such_size(size, self.sizes, "size")

    def facts(self) -> dict[str, Any]:
        """What a page offers, as JSON."""
        spec = self.spec
        number = spec.numbers.get("guidance_scale")
        others = [name for name in spec.pictures if name not in ("image", "mask") and self.takes(name)]
        strength = spec.numbers.get(spec.latents.strength or "")
        return {
            "name": self.name,
            "source": self.source,
            "gives": spec.gives,
            "sizes": [list(size) for size in self.sizes],
            "any_size": self.any_size,
            "multiple": spec.latents.scale,
            "size": list(self.default_size),
            "samplers": self.samplers,
            "sampler": spec.sampler,
            "steps": spec.steps,
            "guidance_scale": number.default if number is not None else None,
            "prompt": "prompt" in spec.texts,
            "negative_prompt": "negative_prompt" in spec.texts,
            "image": self.takes("image"),
            "image_needed": self.takes("image") and not spec.pictures["image"].optional,
            "mask": self.takes("mask"),
            "strength": strength.default if strength is not None else None,
            "pictures": others,
            "adapters": self.adapters.names(),
            "taesd": bool(spec.fast),
            "numbers": {
                name: {"default": one.default, "low": _finite(one.low), "high": _finite(one.high)}
                for name, one in spec.numbers.items()
                if one.ramp is None and name not in ("guidance_scale", spec.latents.strength)
            },
        }


def _finite(value: float) -> float | None:
    return value if abs(value) < 1e30 else None
