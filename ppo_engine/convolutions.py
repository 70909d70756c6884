"""Convolutional networks, layer by layer: what torch, NumPy and ONNX compute, and what is counted of a spec.

A layer is a model that `policy.json` holds; it names its tensors. Imports neither torch, Gymnasium nor NumPy.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from ppo_engine.images import Image, NetworkName

NORM_EPSILON = 1e-5
"""Added to the variance that a layer norm divides by, as torch has it."""
NATURE_FEATURES, IMPALA_FEATURES = 512, 256
IMPALA_CHANNELS, IMPALA_BLOCKS = (16, 32, 32), 2
RECTIFIED_GAIN = math.sqrt(2)
"""Gain of weights after an activation, which halves the mean square of what it lets through."""
BRANCH_GAIN = RECTIFIED_GAIN / math.sqrt(len(IMPALA_CHANNELS) * IMPALA_BLOCKS)
"""Gain of the last weights of a residual, so that all of them together multiply the mean square by e at most. Source:
Zhang et al. 2019, arXiv:1901.09321, section 2, on what residuals add up to."""


class LayerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Convolution(LayerModel):
    """Cross-correlation of [n, C, H, W] with weights [outputs, C, size, size], and a bias for each output."""

    kind: Literal["convolution"] = "convolution"
    weight: str
    bias: str
    size: int
    stride: int
    padding: int
    """Rows and columns of zeros around the image."""


class MaxPool(LayerModel):
    """The largest of each window of size × size, beyond whose border nothing counts."""

    kind: Literal["max_pool"] = "max_pool"
    size: int
    stride: int
    padding: int


class Activation(LayerModel):
    """The policy's activation, number by number."""

    kind: Literal["activation"] = "activation"


class Residual(LayerModel):
    """x + what the layers make of x."""

    kind: Literal["residual"] = "residual"
    layers: Annotated["tuple[Layer, ...]", Field(strict=False)]


class Flatten(LayerModel):
    """[n, C, H, W] → [n, C · H · W]."""

    kind: Literal["flatten"] = "flatten"


class Linear(LayerModel):
    """x Wᵀ + b."""

    kind: Literal["linear"] = "linear"
    weight: str
    bias: str


class LayerNorm(LayerModel):
    """(x - mean) / sqrt(variance + epsilon) · scale + shift, by the mean and the variance of each row."""

    kind: Literal["layer_norm"] = "layer_norm"
    scale: str
    shift: str
    epsilon: float = NORM_EPSILON


Layer: TypeAlias = Annotated[
    Convolution | MaxPool | Activation | Residual | Flatten | Linear | LayerNorm, Field(discriminator="kind")
]
Residual.model_rebuild()


def tensor_names(layers: Iterable[Layer]) -> list[str]:
    """Names of all tensors that layers compute with, in their order."""
    names: list[str] = []
    for layer in layers:
        match layer:
            case Convolution() | Linear():
                names += [layer.weight, layer.bias]
            case LayerNorm():
                names += [layer.scale, layer.shift]
            case Residual():
                names += tensor_names(layer.layers)
    return names


@dataclass
class ImageNetwork:
    """A network that makes features of an image.

    Attributes:
        tensors: shapes by name, in the order of the layers.
        gains: of the orthogonal initialisation, by the weights' names.
        shape: of what the last layer gives for one image.
        activations: numbers that all layers give for one image, its pixels among them.
    """

    prefix: str
    shape: tuple[int, ...]
    layers: list[Layer] = field(default_factory=list)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    activations: int = 0

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors.values())

    def activate(self) -> Activation:
        self.activations += math.prod(self.shape)
        return Activation()

    def convolve(
        self, channels: int, *, size: int, stride: int = 1, padding: int = 0, gain: float = RECTIFIED_GAIN
    ) -> Convolution:
        weight, bias = self._linear_tensors(channels, (self.shape[0], size, size), gain)
        self._window(channels, size, stride, padding)
        return Convolution(weight=weight, bias=bias, size=size, stride=stride, padding=padding)

    def pool(self, *, size: int, stride: int, padding: int) -> MaxPool:
        self._window(self.shape[0], size, stride, padding)
        return MaxPool(size=size, stride=stride, padding=padding)

    def dense(self, features: int, *, layer_norm: bool) -> list[Layer]:
        """Flattens, and ends in so many features."""
        weight, bias = self._linear_tensors(features, (math.prod(self.shape),), RECTIFIED_GAIN)
        self.shape = (features,)
        self.activations += features
        layers: list[Layer] = [Flatten(), Linear(weight=weight, bias=bias)]
        if layer_norm:
            scale, shift = (weight.replace("/weight", name) for name in ("/scale", "/shift"))
            self.tensors |= {scale: (features,), shift: (features,)}
            layers.append(LayerNorm(scale=scale, shift=shift))
            self.activations += features
        return [*layers, self.activate()]

    def _linear_tensors(self, outputs: int, inputs: tuple[int, ...], gain: float) -> tuple[str, str]:
        number = sum(name.endswith("/weight") for name in self.tensors)
        weight, bias = f"{self.prefix}/{number}/weight", f"{self.prefix}/{number}/bias"
        self.tensors |= {weight: (outputs, *inputs), bias: (outputs,)}
        self.gains[weight] = gain
        return weight, bias

    def _window(self, channels: int, size: int, stride: int, padding: int) -> None:
        height, width = ((side + 2 * padding - size) // stride + 1 for side in self.shape[1:])
        self.shape = (channels, height, width)
        self.activations += math.prod(self.shape)


def image_network(network: NetworkName, image: Image, *, prefix: str, layer_norm: bool) -> ImageNetwork:
    """The layers that `cnn` or `impala` has for an image; `prefix` begins the names of their tensors."""
    made = ImageNetwork(prefix, (image.channels, image.height, image.width), activations=image.size)
    made.layers += _impala(made, layer_norm) if network == "impala" else _nature(made, layer_norm)
    return made


def image_networks(
    network: NetworkName, images: tuple[Image, ...], *, prefix: str, layer_norm: bool
) -> list[ImageNetwork]:
    """One network for each image, named by its number."""
    return [
        image_network(network, image, prefix=f"{prefix}/{number}", layer_norm=layer_norm)
        for number, image in enumerate(images)
    ]


def _nature(made: ImageNetwork, layer_norm: bool) -> Iterator[Layer]:
    """Source: Mnih et al. 2015, Human-level control through deep reinforcement learning, Methods."""
    for channels, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        yield made.convolve(channels, size=size, stride=stride)
        yield made.activate()
    yield from made.dense(NATURE_FEATURES, layer_norm=layer_norm)


def _impala(made: ImageNetwork, layer_norm: bool) -> Iterator[Layer]:
    """Source: Espeholt et al. 2018, figure 3 (right), arXiv:1802.01561; without its LSTM."""
    for channels in IMPALA_CHANNELS:
        yield made.convolve(channels, size=3, padding=1, gain=1.0)
        yield made.pool(size=3, stride=2, padding=1)
        for _ in range(IMPALA_BLOCKS):
            inner: list[Layer] = []
            for gain in (RECTIFIED_GAIN, BRANCH_GAIN):
                inner += [made.activate(), made.convolve(channels, size=3, padding=1, gain=gain)]
            made.activations += math.prod(made.shape)
            yield Residual(layers=tuple(inner))
    yield made.activate()
    yield from made.dense(IMPALA_FEATURES, layer_norm=layer_norm)
