"""Pictures as a pipeline asks for them, written from docs/pipeline.md alone."""

import math

import numpy as np
from PIL import Image

F, LANCZOS = np.float32, Image.Resampling.LANCZOS
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Pictures:
    def __init__(self, known, given, size, scale):  # given: uint8 [h, w, 3] by name; size: width, height
        self.known, self.given, self.size, self.scale = known, given, size, scale

    def sources(self, name):
        return self.known[name].get("of") or [name]

    def has(self, name):
        return all(source in self.given for source in self.sources(name))

    def prepare(self, name):
        first, *rest = self.sources(name)
        word = self.known[name]["prepare"]
        if word == "mask":
            return self.mask(first)[:: self.scale, :: self.scale].astype(F)[None, None]
        if word == "edges":
            return np.stack([edges(self.fitted(first))] * 3)[None].astype(F)
        if word == "clip_vision":
            return clip_vision(self.given[first])
        unit = (self.fitted(first).astype(F) / F(255)).transpose(2, 0, 1)[None]
        if word == "unit":
            return unit
        fitted = F(2) * unit - F(1)
        if word == "masked":
            fitted[..., self.mask(rest[0])] = 0
        return fitted

    def fitted(self, name):
        pixels = self.given[name]
        columns = Image.fromarray(pixels).resize((self.size[0], len(pixels)), LANCZOS)
        return np.array(columns.resize(self.size, LANCZOS))

    def mask(self, name):
        red, green, blue = self.fitted(name).astype(int).transpose(2, 0, 1)
        return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16 >= 128


def edges(pixels):
    height, width, _ = pixels.shape
    x = [[[int(v) for v in pixel] for pixel in row] for row in pixels]

    def at(i, j, c):
        return x[min(max(i, 0), height - 1)][min(max(j, 0), width - 1)][c]

    gradients, m = {}, {}
    for i in range(height):
        for j in range(width):
            found = []
            for c in range(3):
                gx = sum(k * (at(i + d, j + 1, c) - at(i + d, j - 1, c)) for d, k in ((-1, 1), (0, 2), (1, 1)))
                gy = sum(k * (at(i + 1, j + d, c) - at(i - 1, j + d, c)) for d, k in ((-1, 1), (0, 2), (1, 1)))
                found.append((gx, gy))
            gradients[i, j] = max(found, key=lambda g: abs(g[0]) + abs(g[1]))
            m[i, j] = sum(map(abs, gradients[i, j]))

    def is_peak(i, j):
        gx, gy = gradients[i, j]
        t, y = 13573 * abs(gx), 32768 * abs(gy)
        if y < t:
            return m[i, j] > m.get((i, j - 1), 0) and m[i, j] >= m.get((i, j + 1), 0)
        if y > t + 65536 * abs(gx):
            return m[i, j] > m.get((i - 1, j), 0) and m[i, j] >= m.get((i + 1, j), 0)
        side = 1 if (gx < 0) == (gy < 0) else -1
        return m[i, j] > m.get((i - 1, j - side), 0) and m[i, j] > m.get((i + 1, j + side), 0)

    peaks = {place for place in m if m[place] > 100 and is_peak(*place)}
    found = np.zeros((height, width), bool)
    waiting = [place for place in peaks if m[place] > 200]
    while waiting:
        i, j = waiting.pop()
        if not found[i, j]:
            found[i, j] = True
            waiting += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (i + a, j + b) in peaks]
    return found


def clip_vision(pixels):
    x = 2 * (pixels / 255) - 1
    for _ in range(2):  # both directions
        x = resampled(blurred(x)).transpose(1, 0, 2)
    return (((x + 1) / 2 - MEAN) / DEVIATION).transpose(2, 0, 1)[None].astype(F)


def blurred(x):
    length = len(x)
    sigma = max((length / 224 - 1) / 2, 0.001)
    k = int(max(4 * sigma, 3))
    reach = (k + (k % 2 == 0) - 1) // 2
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    wide = np.pad(x, ((reach, reach), (0, 0), (0, 0)), mode="reflect")
    return sum(w / sum(weights) * wide[i : i + length] for i, w in enumerate(weights))


def resampled(x):
    rows = []
    for o in range(224):
        s = o * (len(x) - 1) / 223
        taps = range(math.floor(s) - 1, math.floor(s) + 3)
        rows.append(sum(cubic(abs(s - i)) * x[min(max(i, 0), len(x) - 1)] for i in taps))
    return np.stack(rows)


def cubic(t):
    return 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3
