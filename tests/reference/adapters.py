"""Weights with adapters by docs/adapters.md alone, element by element and in Python's own numbers where it can be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

DTYPES = {"f32": "<f4", "f16": "<f2", "i8": "i1", "u4x2": "u1"}
R, Q = 0.5**0.5, 2**0.5
G = [[1, 0, 0], [-2 / 3, -2 / 3 * R, -1 / 3], [-2 / 3, 2 / 3 * R, -1 / 3]]
G += [[1 / 6, Q / 6, 1 / 3], [1 / 6, -Q / 6, 1 / 3], [0, 0, 1]]


class Adapted:
    """A bundle's manifest, and the bytes of a weight by its key."""

    def __init__(self, manifest: dict[str, Any], read: Any) -> None:
        self.weights, self.adapters, self.read = manifest["weights"], manifest["adapters"], read

    def stored(self, key: str) -> np.ndarray:
        row = self.weights[key]
        return np.frombuffer(self.read(key), DTYPES[row["dtype"]]).reshape(row["shape"])

    def changed(self, used: list[tuple[str, float]]) -> dict[str, bytes]:
        """New bytes of every weight that these adapters change."""
        changes = {}
        for name, scale in used:
            for leaf, terms in self.adapters[name]["changes"].items():
                changes.setdefault(leaf, []).extend((scale, term) for term in terms)
        found = {}
        for key, row in self.weights.items():
            if "made" in row and any(leaf in changes for leaf in leaves(row["made"])):
                values = {
                    leaf: self.change(shape, changes.get(leaf, [])) for leaf, shape in leaves(row["made"]).items()
                }
                found[key] = self.new(key, row, values)
        return found

    def change(self, shape: list[int], terms: list[tuple[float, dict[str, Any]]]) -> np.ndarray:
        rows, columns = shape[0], math.prod(shape[1:])
        sums = [[0.0] * columns for _ in range(rows)]
        for scale, term in terms:
            factor = scale * term["scale"]
            if "full" in term:
                product = self.stored(term["full"]).reshape(rows, columns).astype(float).tolist()
            else:
                up, down = (self.stored(term[word]).astype(float).tolist() for word in ("up", "down"))
                product = []
                for left in up:
                    row = [0.0] * columns
                    for r, one in enumerate(left):
                        row = [have + one * other for have, other in zip(row, down[r], strict=True)]
                    product.append(row)
            for i in range(rows):
                sums[i] = [have + factor * value for have, value in zip(sums[i], product[i], strict=True)]
        return np.array(sums).astype(np.float32).reshape(shape)

    def new(self, key: str, row: dict[str, Any], values: dict[str, np.ndarray]) -> bytes:
        dtype, inner = DTYPES[row["dtype"]], few_bits(row["made"])
        if inner is None:
            total = self.stored(key).astype(np.float32) + value(row["made"], values)
            return total.astype(dtype).tobytes()
        (of,) = inner["of"]
        kind = inner["op"].removesuffix("_scales")
        numbers, scales = (
            next(k for k, r in self.weights.items() if "made" in r and few_bits(r["made"]) == {"op": op, "of": [of]})
            for op in (kind, f"{kind}_scales")
        )
        shape = shape_of(of)
        base = np.empty(shape, np.float32)
        number = places(self.weights[numbers]["made"], self.stored(numbers))
        scale = places(self.weights[scales]["made"], self.stored(scales))
        for i in range(shape[0]):
            for j in range(shape[1]):
                zero, group = (0, 0) if kind == "int8" else (8, i // 32)
                base[i, j] = np.float32(int(number(i, j)) - zero) * np.float32(scale(group, j))
        total = base + value(of, values)
        return value(row["made"], {}, of, total).astype(dtype).tobytes()


def leaves(made: dict[str, Any]) -> dict[str, list[int]]:
    if "weight" in made:
        return {made["weight"]: made["shape"]}
    return {name: shape for part in made["of"] for name, shape in leaves(part).items()}


def few_bits(made: dict[str, Any]) -> dict[str, Any] | None:
    while "op" in made:
        if made["op"].startswith("int"):
            return made
        made = made["of"][0]
    return None


def shape_of(made: dict[str, Any]) -> tuple[int, ...]:
    return value(made, {leaf: np.zeros(shape, np.float32) for leaf, shape in leaves(made).items()}).shape


def places(made: dict[str, Any], stored: np.ndarray) -> Any:
    """The number at a row and a column of what was put in panels and pairs."""
    if made["op"].startswith("int"):
        return lambda i, j: stored[i, j]
    if made["op"] == "pairs":
        wide = np.empty((*stored.shape[:-1], 2 * stored.shape[-1]), np.uint8)
        for index in np.ndindex(stored.shape):
            wide[(*index[:-1], 2 * index[-1])] = stored[index] % 16
            wide[(*index[:-1], 2 * index[-1] + 1)] = stored[index] // 16
        return places(made["of"][0], wide)
    n = shape_of(made["of"][0])[-1]

    def at(i: int, j: int) -> Any:
        panel, column = panel_of(j, n, made["width"], made["halves"])
        return stored[panel, i, column]

    return at


def panel_of(column: int, n: int, width: int, halves: int) -> tuple[int, int]:
    h, own = n // halves, width // halves
    q, j = divmod(column, h)
    return j // own, q * own + j % own


def value(
    made: dict[str, Any], values: dict[str, np.ndarray], instead: dict[str, Any] | None = None, total: Any = None
) -> np.ndarray:
    """The expression, with `total` in the place of `instead`."""
    if made == instead:
        return total
    if "weight" in made:
        return values[made["weight"]]
    of = [value(part, values, instead, total) for part in made["of"]]
    x, op = of[0], made["op"]
    if op == "concat":
        return np.concatenate(of, made["axis"])
    if op == "transpose":
        return np.transpose(x, made["perm"])
    if op == "reshape":
        return np.reshape(x, made["shape"])
    if op == "scale":
        return x * np.float32(made["by"])
    if op == "pad":
        return np.concatenate([x, np.zeros((*x.shape[:-1], made["columns"] - x.shape[-1]), np.float32)], -1)
    if op == "panels":
        *batch, k, n = x.shape
        count = -(-(n // made["halves"]) // (made["width"] // made["halves"]))
        made_of = np.full((*batch, count, k, made["width"]), made.get("fill", 0), x.dtype)
        for j in range(n):
            panel, column = panel_of(j, n, made["width"], made["halves"])
            made_of[..., panel, :, column] = x[..., j]
        return made_of
    if op == "pairs":
        return (x[..., 0::2] + 16 * x[..., 1::2]).astype(np.uint8)
    if op == "winograd":
        out = np.zeros((36, *x.shape[2:]))
        for a in range(6):
            for b in range(6):
                for row in range(3):
                    for column in range(3):
                        out[6 * a + b] += (G[a][row] * G[b][column]) * x[row, column].astype(float)
        return out.astype(np.float32)
    return {"int8": int8, "int8_scales": int8_scales, "int4": int4, "int4_scales": int4_scales}[op](x)


def int8_scales(x: np.ndarray) -> np.ndarray:
    columns = (np.float32(max(abs(one) for one in column)) / np.float32(127) for column in x.T)
    return np.array([[one if one > 0 else 1 for one in columns]], np.float32)


def int8(x: np.ndarray) -> np.ndarray:
    scales = int8_scales(x)[0]
    return np.array(
        [[max(-127, min(127, round(float(one / scales[j])))) for j, one in enumerate(row)] for row in x], np.int8
    )


def int4_scales(x: np.ndarray) -> np.ndarray:
    groups = -(-len(x) // 32)
    return np.array([[_unit(x[32 * g : 32 * g + 32, j]) for j in range(x.shape[1])] for g in range(groups)], np.float32)


def _unit(group: np.ndarray) -> np.float32:
    largest = group[max(range(len(group)), key=lambda i: (abs(group[i]), -i))]
    s = np.float32(largest) / np.float32(-8)
    some = [abs(one) for one in group if one != 0]
    if s == 0 or not min(some) >= abs(s) * np.float32(0.999):
        return s
    for m in (-8, *range(1, 8), *range(-7, 0)):
        u = np.float32(np.float16(s * np.float32(-8) / np.float32(m)))
        if u != 0 and all(
            np.float32(n := round(float(one / u))) * u == one and -8 <= n <= 7 for one in map(np.float32, group)
        ):
            return u
    return s


def int4(x: np.ndarray) -> np.ndarray:
    units = int4_scales(x).astype(np.float16).astype(np.float32)
    out = np.empty(x.shape, np.uint8)
    for (i, j), one in np.ndenumerate(x):
        unit = units[i // 32, j]
        out[i, j] = 8 if unit == 0 else max(0, min(15, 8 + round(float(one / unit))))
    return out
