"""The pictures that the user gave, as a pipeline asks for them (docs/pipeline.md, "A picture")."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ondevice.bundle.pipeline import Given
from ondevice.diffusion.canny import edges
from ondevice.diffusion.clip_picture import clip_picture
from ondevice.diffusion.image import from_pixels, resize, unit_from_pixels

_GREY = np.array([19595, 38470, 7471], np.uint32)  # of red, green and blue, of 65536: Pillow's "L"
MASKED_FROM = 128


class GivenPictures:
    """Prepared pictures, each made once.

    Args:
        known: the pipeline's, by name.
        pixels: uint8 [h, w, 3] of those that were given, by name.
        size: (width, height) of what is drawn.
        scale: pixels of a latent's side.
    """

    def __init__(
        self, known: Mapping[str, Given], pixels: Mapping[str, np.ndarray], size: tuple[int, int], scale: int
    ) -> None:
        self._known, self._pixels, self._size, self._scale = known, pixels, size, scale
        self.given = frozenset(pixels)
        self._prepared: dict[str, np.ndarray] = {}
        self._ways: dict[str, Callable[..., np.ndarray]] = {  # of the names of one picture, or of two
            "fit": lambda name: from_pixels(self.fitted(name)),
            "unit": lambda name: unit_from_pixels(self.fitted(name)),
            "mask": self._latent_mask,
            "masked": self._masked,
            "edges": self._edges,
            "clip_vision": lambda name: clip_picture(self._pixels[name]),
        }

    def has(self, name: str) -> bool:
        """Whether a picture was given, and those of which it is made."""
        return all(source in self._pixels for source in self._sources(name))

    def prepared(self, name: str) -> np.ndarray:
        """float32 [1, channels, h, w]: a picture in the pipeline's way."""
        if name not in self._prepared:
            self._prepared[name] = self._ways[self._known[name].prepare](*self._sources(name))
        return self._prepared[name]

    def fitted(self, name: str) -> np.ndarray:
        """uint8 [height, width, 3]: a picture that was given, at the size that is drawn."""
        return resize(self._pixels[name], *self._size)

    def mask(self, name: str) -> np.ndarray:
        """bool [height, width]: where a mask that was given is."""
        grey = (self.fitted(name).astype(np.uint32) @ _GREY + 32768) >> 16
        return grey >= MASKED_FROM

    def _sources(self, name: str) -> tuple[str, ...]:
        return self._known[name].of or (name,)

    def _latent_mask(self, name: str) -> np.ndarray:
        return self.mask(name)[:: self._scale, :: self._scale].astype(np.float32)[np.newaxis, np.newaxis]

    def _masked(self, picture: str, mask: str) -> np.ndarray:
        return np.where(self.mask(mask), np.float32(0), from_pixels(self.fitted(picture)))

    def _edges(self, name: str) -> np.ndarray:
        found = edges(self.fitted(name)).astype(np.float32)
        return np.ascontiguousarray(np.broadcast_to(found, (1, 3, *found.shape)))
