"""The layers of a policy in NumPy, in float32: what a reader of a bundle computes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ppo_engine.convolutions import Activation, Convolution, Flatten, Layer, LayerNorm, Linear, MaxPool, Residual
from ppo_engine.images import Image
from ppo_engine.spec import ActivationName

Floats: TypeAlias = NDArray[np.float32]
Tensors: TypeAlias = Mapping[str, NDArray[Any]]

WHITE = np.float32(255)
LEAK = 0.01
GELU_SCALE, GELU_CUBE = 0.7978845608028654, 0.044715
"""√(2/π), and the factor of x³."""


def activation_of(name: ActivationName) -> Callable[[Floats], Floats]:
    """An activation of `policy.activation`."""
    match name:
        case "tanh":
            return np.tanh
        case "relu":
            return lambda x: np.maximum(x, np.float32(0))
        case "elu":
            return lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0))))
        case "silu":
            # The logistic function by way of tanh, which does not overflow.
            return lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x))
        case "gelu":
            return lambda x: 0.5 * x * (1 + np.tanh(GELU_SCALE * (x + GELU_CUBE * x**3)))
        case "leaky_relu":
            return lambda x: np.where(x > 0, x, LEAK * x)


def pixels_of(image: Image, rows: NDArray[Any]) -> Floats:
    """The image in rows [n, D], as [n, C, H, W] between 0 and 1."""
    flat = rows[:, image.offset : image.offset + image.size].astype(np.float32) / WHITE
    if image.channels_first:
        return flat.reshape(-1, image.channels, image.height, image.width)
    return flat.reshape(-1, image.height, image.width, image.channels).transpose(0, 3, 1, 2)


def compute(layers: Iterable[Layer], x: Floats, tensors: Tensors, activation: Callable[[Floats], Floats]) -> Floats:
    """What the layers make of x, one after another."""
    for layer in layers:
        match layer:
            case Convolution():
                x = convolution(x, tensors[layer.weight], tensors[layer.bias], layer.stride, layer.padding)
            case MaxPool():
                x = _windows(x, layer.size, layer.stride, layer.padding, fill=-np.inf).max(axis=(4, 5))
            case Activation():
                x = activation(x)
            case Residual():
                x = x + compute(layer.layers, x, tensors, activation)
            case Flatten():
                x = x.reshape(len(x), -1)
            case Linear():
                x = linear(x, tensors[layer.weight], tensors[layer.bias])
            case LayerNorm():
                x = normalized(x, layer, tensors)
    return x


def linear(x: Floats, weight: NDArray[Any], bias: NDArray[Any]) -> Floats:
    """x Wᵀ + b of rows [n, inputs]."""
    y: Floats = x @ weight.T + bias
    return y


def normalized(x: Floats, layer: LayerNorm, tensors: Tensors) -> Floats:
    """The layer norm of rows [n, features]."""
    variance = x.var(axis=1, keepdims=True)
    y: Floats = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(variance + layer.epsilon)
    return y * tensors[layer.scale] + tensors[layer.shift]


def convolution(x: Floats, weight: NDArray[Any], bias: NDArray[Any], stride: int, padding: int) -> Floats:
    """One matrix product of all windows of x [n, C, H, W] with weights [outputs, C, size, size]."""
    windows = _windows(x, weight.shape[2], stride, padding, fill=0.0).transpose(0, 2, 3, 1, 4, 5)
    n, height, width = windows.shape[:3]
    y = linear(windows.reshape(n * height * width, -1), weight.reshape(len(weight), -1), bias)
    return y.reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def _windows(x: Floats, size: int, stride: int, padding: int, *, fill: float) -> Floats:
    """[n, C, H, W] → [n, C, H', W', size, size]"""
    border = (padding, padding)
    padded = np.pad(x, ((0, 0), (0, 0), border, border), constant_values=fill)
    windows: Floats = sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    return windows
