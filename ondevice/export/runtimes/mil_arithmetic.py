"""What MIL's ops compute, in NumPy: those that Core ML packages of ours have, and what coremltools' own front ends make
of the same networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ondevice.export.runtimes.mil_file import Type
from ondevice.export.runtimes.mil_ops import Evaluate, Given, along, entry, expect, numbers, scalar

ERF_AT_ONCE = 1 << 20  # elements that are Python floats at a time


def _elementwise(function: Callable[[np.ndarray], np.ndarray]) -> Evaluate:
    return lambda given, types: function(given["x"])


def _binary(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Evaluate:
    def evaluate(given: Given, types: Sequence[Type]) -> np.ndarray:
        x, y = given["x"], given["y"]
        expect(np.broadcast_shapes(x.shape, y.shape), types)
        return function(x, y)

    return evaluate


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp is inf where the result is 0
        return 1 / (1 + np.exp(-x))


def erf(x: np.ndarray) -> np.ndarray:
    """NumPy has none."""
    flat, result = x.reshape(-1), np.empty(x.size, np.float32)
    for start in range(0, x.size, ERF_AT_ONCE):
        part = flat[start : start + ERF_AT_ONCE]
        result[start : start + part.size] = np.fromiter(map(math.erf, part.tolist()), np.float32, part.size)
    return result.reshape(x.shape)


ARITHMETIC: dict[str, Evaluate] = {
    "add": _binary(np.add),
    "sub": _binary(np.subtract),
    "mul": _binary(np.multiply),
    "real_div": _binary(np.true_divide),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "pow": _binary(np.power),
    "greater": _binary(np.greater),
    "greater_equal": _binary(np.greater_equal),
    "less": _binary(np.less),
    "equal": _binary(np.equal),
    "identity": _elementwise(lambda x: x),
    "sin": _elementwise(np.sin),
    "cos": _elementwise(np.cos),
    "exp": _elementwise(np.exp),
    "sqrt": _elementwise(np.sqrt),
    "square": _elementwise(np.square),
    "tanh": _elementwise(np.tanh),
    "erf": _elementwise(erf),
    "relu": _elementwise(lambda x: np.maximum(x, 0)),
    "sigmoid": _elementwise(sigmoid),
    "silu": _elementwise(lambda x: x * sigmoid(x)),
    "rsqrt": lambda given, types: 1 / np.sqrt(given["x"] + np.float32(scalar(given, "epsilon", 1e-12))),
    "clip": lambda given, types: np.clip(given["x"], given["alpha"], given["beta"]),
    "cast": lambda given, types: given["x"],  # the caller makes the declared type of it
}


@entry(ARITHMETIC, "gelu")
def _gelu(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, mode = given["x"], scalar(given, "mode", "EXACT")
    if mode == "EXACT":
        return x * 0.5 * (1 + erf(x * np.float32(math.sqrt(0.5))))
    if mode == "TANH_APPROXIMATION":
        return x * 0.5 * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(np.float32(1.702) * x)
    raise ValueError(f"mode {mode}")


@entry(ARITHMETIC, "softmax")
def _softmax(given: Given, types: Sequence[Type]) -> np.ndarray:
    return softmax(given["x"], scalar(given, "axis", -1))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    exponentials /= exponentials.sum(axis, keepdims=True)
    return exponentials


@entry(ARITHMETIC, "conv")
def _conv(given: Given, types: Sequence[Type]) -> np.ndarray:
    """A product for each tap of the kernel, added where its inputs are: nothing is padded or unrolled."""
    x, weight = given["x"], given["weight"]
    rank = x.ndim - 2
    strides, dilations = numbers(given, "strides", [1] * rank), numbers(given, "dilations", [1] * rank)
    groups, pad_type = scalar(given, "groups", 1), scalar(given, "pad_type", "valid")
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"pad_type {pad_type}")
    pads = numbers(given, "pad", [0] * 2 * rank) if pad_type == "custom" else [0] * 2 * rank
    sizes = [
        (x.shape[2 + i] + pads[2 * i] + pads[2 * i + 1] - (weight.shape[2 + i] - 1) * dilations[i] - 1) // strides[i]
        + 1
        for i in range(rank)
    ]
    expect((len(x), len(weight), *sizes), types)
    y = np.zeros(types[0].shape, np.float32)
    wide, deep = len(weight) // groups, x.shape[1] // groups
    if weight.shape[1] != deep or wide * groups != len(weight):
        raise ValueError(f"{list(weight.shape)} weights of {groups} groups for {x.shape[1]} channels")
    for tap in itertools.product(*map(range, weight.shape[2:])):
        to, taken = [slice(None)], [slice(None)]
        for i, at in enumerate(tap):
            shift = at * dilations[i] - pads[2 * i]  # of an input's place, beside its output's place times the stride
            first = max(0, -(shift // strides[i]))
            last = min(sizes[i] - 1, (x.shape[2 + i] - 1 - shift) // strides[i])
            to.append(slice(first, max(last + 1, first)))
            start = first * strides[i] + shift
            taken.append(slice(start, max(last * strides[i] + shift + 1, start), strides[i]))
        for group, picture in itertools.product(range(groups), range(len(x))):
            part = x[picture, group * deep : (group + 1) * deep][tuple(taken)]
            if part.size:
                product = weight[(slice(group * wide, (group + 1) * wide), slice(None), *tap)] @ part.reshape(deep, -1)
                y[picture, group * wide : (group + 1) * wide][tuple(to)] += product.reshape(wide, *part.shape[1:])
    if "bias" in given:
        y += given["bias"].reshape(-1, *[1] * rank)
    return y


@entry(ARITHMETIC, "linear")
def _linear(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, weight = given["x"], given["weight"]
    expect((*x.shape[:-1], len(weight)), types)
    y = (x.reshape(-1, x.shape[-1]) @ weight.T).reshape(types[0].shape)
    return y + given["bias"] if "bias" in given else y


@entry(ARITHMETIC, "matmul")
def _matmul(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, y = given["x"], given["y"]
    x = x.swapaxes(-1, -2) if scalar(given, "transpose_x", False) else x
    y = y.swapaxes(-1, -2) if scalar(given, "transpose_y", False) else y
    expect((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]), types)
    return x @ y


@entry(ARITHMETIC, "scaled_dot_product_attention")
def _attention(given: Given, types: Sequence[Type]) -> np.ndarray:
    """One matrix of scores at a time."""
    query, key, value = given["query"], given["key"], given["value"]
    expect((*query.shape[:-1], value.shape[-1]), types)
    mask = given.get("attn_mask")
    if mask is not None:
        mask = np.where(mask, np.float32(0), np.float32(-np.inf)) if mask.dtype == np.bool_ else mask
        mask = np.broadcast_to(mask, (*query.shape[:-1], key.shape[-2]))
    y, scale = np.empty(types[0].shape, np.float32), np.float32(1 / math.sqrt(query.shape[-1]))
    for at in np.ndindex(query.shape[:-2]):
        scores = query[at] @ key[at].T * scale
        y[at] = softmax(scores if mask is None else scores + mask[at], -1) @ value[at]
    return y


def _scaled(given: Given, y: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    y = y * along(y, axes, given["gamma"]) if "gamma" in given else y
    return y + along(y, axes, given["beta"]) if "beta" in given else y


def _normalized(x: np.ndarray, axes: Sequence[int], epsilon: float) -> np.ndarray:
    centred = x - x.mean(tuple(axes), keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(tuple(axes), keepdims=True) + np.float32(epsilon))


@entry(ARITHMETIC, "layer_norm")
def _layer_norm(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, axes = given["x"], numbers(given, "axes", range(given["x"].ndim))
    return _scaled(given, _normalized(x, axes, scalar(given, "epsilon", 1e-5)), axes)


@entry(ARITHMETIC, "instance_norm")
def _instance_norm(given: Given, types: Sequence[Type]) -> np.ndarray:
    x = given["x"]
    return _scaled(given, _normalized(x, range(2, x.ndim), scalar(given, "epsilon", 1e-5)), [1])


@entry(ARITHMETIC, "batch_norm")
def _batch_norm(given: Given, types: Sequence[Type]) -> np.ndarray:
    x, epsilon = given["x"], np.float32(scalar(given, "epsilon", 1e-5))
    mean, variance = (along(x, [1], given[name]) for name in ("mean", "variance"))
    return _scaled(given, (x - mean) / np.sqrt(variance + epsilon), [1])


def _reduction(function: Callable[..., np.ndarray]) -> Evaluate:
    def evaluate(given: Given, types: Sequence[Type]) -> np.ndarray:
        axes = tuple(numbers(given, "axes", range(given["x"].ndim)))
        return function(given["x"], axis=axes, keepdims=scalar(given, "keep_dims", False))

    return evaluate


ARITHMETIC |= {"reduce_mean": _reduction(np.mean), "reduce_sum": _reduction(np.sum), "reduce_max": _reduction(np.max)}
