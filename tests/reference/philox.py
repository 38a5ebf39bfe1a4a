"""Noise of the modes `cuda` and `a1111`, written from docs/noise.md alone: number by number, in Python's integers."""

import math

import numpy as np

TURN = float.fromhex("0x1.921fb6p-30")


class Cuda:
    def __init__(self, seed):
        self.key, self.draws = (seed % 2**32, (seed >> 32) % 2**32), 0

    def draw(self, shape):
        n, self.draws = self.draws, self.draws + 1
        return np.array([self.number(n, i) for i in range(math.prod(shape))], np.float32).reshape(shape)

    def number(self, n, i):
        a, b, _, _ = philox((n % 2**32, n >> 32, i % 2**32, i >> 32), self.key)
        return math.sqrt(-2 * math.log(a * 2.0**-32 + 2.0**-33)) * math.sin(b * TURN + TURN / 2)


def philox(counter, key):
    for _ in range(10):
        p, q = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = q >> 32 ^ counter[1] ^ key[0], q % 2**32, p >> 32 ^ counter[3] ^ key[1], p % 2**32
        key = (key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32
    return counter


def turned(strength, low, high):
    _, channels, _, width = low.shape
    columns = [(low[0, c, :, x].tolist(), high[0, c, :, x].tolist()) for c in range(channels) for x in range(width)]
    cosines = [
        sum(a / math.hypot(*one) * (b / math.hypot(*other)) for a, b in zip(one, other, strict=True))
        for one, other in columns
    ]
    result = np.empty_like(low)
    for place, ((one, other), cosine) in enumerate(zip(columns, cosines, strict=True)):
        if sum(cosines) / len(cosines) > 0.9995:
            parts = strength, 1 - strength
        else:
            angle = math.acos(cosine)
            parts = math.sin((1 - strength) * angle) / math.sin(angle), math.sin(strength * angle) / math.sin(angle)
        values = [parts[0] * a + parts[1] * b for a, b in zip(one, other, strict=True)]
        result[0, place // width, :, place % width] = values
    return result
