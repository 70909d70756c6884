"""Networks in float64, window by window and number by number, to hold the fast ones against."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def activation(name: str) -> Callable[[float], float]:
    match name:
        case "tanh":
            return math.tanh
        case "relu":
            return lambda x: max(x, 0.0)
        case "elu":
            return lambda x: x if x > 0 else math.exp(x) - 1
        case "silu":
            return lambda x: x / (1 + math.exp(-x))
        case "gelu":
            return lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "leaky_relu":
            return lambda x: x if x > 0 else 0.01 * x
    raise ValueError(name)


def convolve(x: Array, weight: Array, bias: Array, *, stride: int, padding: int) -> Array:
    """x [C, H, W] → [O, H', W']"""
    size = weight.shape[2]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:])
    y = np.empty((len(weight), height, width))
    for o in range(len(weight)):
        for i in range(height):
            for j in range(width):
                window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
                y[o, i, j] = (window * weight[o]).sum() + bias[o]
    return y


def pool(x: Array) -> Array:
    """The largest of 3 x 3 numbers, every second one, [C, H, W] → [C, ⌈H/2⌉, ⌈W/2⌉]."""
    channels, height, width = x.shape
    y = np.empty((channels, (height + 1) // 2, (width + 1) // 2))
    for c in range(channels):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[c, i, j] = x[c, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].max()
    return y


def norm(x: Array, scale: Array, shift: Array) -> Array:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    normalized: Array = (x - mean) / math.sqrt(variance + 1e-5) * scale + shift
    return normalized


def nature(x: Array, tensors: Mapping[str, Array], name: str, *, prefix: str, layer_norm: bool) -> Array:
    """Features [512] of an image [C, H, W]: Mnih et al. 2015."""
    act = np.vectorize(activation(name), otypes=[float])
    for layer, stride in enumerate((4, 2, 1)):
        weight, bias = (tensors[f"{prefix}/{layer}/{kind}"] for kind in ("weight", "bias"))
        x = act(convolve(x, weight, bias, stride=stride, padding=0))
    return _dense(x, tensors, name, prefix=f"{prefix}/3", layer_norm=layer_norm)


def impala(x: Array, tensors: Mapping[str, Array], name: str, *, prefix: str, layer_norm: bool) -> Array:
    """Features [256] of an image [C, H, W]: Espeholt et al. 2018."""
    act = np.vectorize(activation(name), otypes=[float])

    def convolved(x: Array, layer: int) -> Array:
        weight, bias = (tensors[f"{prefix}/{layer}/{kind}"] for kind in ("weight", "bias"))
        return convolve(x, weight, bias, stride=1, padding=1)

    for stage in range(3):
        x = pool(convolved(x, 5 * stage))
        for block in range(2):
            first = 5 * stage + 1 + 2 * block
            x = x + convolved(act(convolved(act(x), first)), first + 1)
    return _dense(act(x), tensors, name, prefix=f"{prefix}/15", layer_norm=layer_norm)


def _dense(x: Array, tensors: Mapping[str, Any], name: str, *, prefix: str, layer_norm: bool) -> Array:
    y: Array = tensors[f"{prefix}/weight"] @ x.ravel() + tensors[f"{prefix}/bias"]
    if layer_norm:
        y = norm(y, tensors[f"{prefix}/scale"], tensors[f"{prefix}/shift"])
    return np.vectorize(activation(name), otypes=[float])(y)
