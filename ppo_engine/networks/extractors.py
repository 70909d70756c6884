"""What makes features of observations, for actor and critic alike."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppo_engine.convolutions import (
    Activation,
    Convolution,
    Flatten,
    ImageNetwork,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    Residual,
    image_networks,
)
from ppo_engine.images import Image, columns_beside
from ppo_engine.networks.activations import activation_for
from ppo_engine.networks.parameters import NamedModule, NamedTensor
from ppo_engine.spec import PolicySpec

WHITE = 255.0
"""The largest byte: pixels are divided by it."""


class Numbers(nn.Module):
    """The identity: observations are features, bytes as float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.outputs = size

    def forward(self, observations: Tensor) -> Tensor:
        return self.in_float32(observations)

    def in_float32(self, observations: Tensor) -> Tensor:
        return observations if observations.is_floating_point() else observations.float()


class Convolutions(NamedModule):
    """The layers of one image's network."""

    def __init__(self, network: ImageNetwork, spec: PolicySpec, device: torch.device) -> None:
        super().__init__()
        self._layers = network.layers
        self._activation = activation_for(spec.activation, device)
        self._weights = nn.ParameterList(
            self.parameter(NamedTensor(name, shape, network.gains.get(name), fill=float(name.endswith("/scale"))))
            for name, shape in network.tensors.items()
        )
        self._tensors = dict(zip(network.tensors, self._weights, strict=True))

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [B, F] of an image [B, C, H, W] between 0 and 1."""
        return self._run(self._layers, pixels)

    def _run(self, layers: Iterable[Layer], x: Tensor) -> Tensor:
        for layer in layers:
            x = self._compute(layer, x)
        return x

    def _compute(self, layer: Layer, x: Tensor) -> Tensor:
        tensors = self._tensors
        match layer:
            case Convolution():
                return F.conv2d(x, tensors[layer.weight], tensors[layer.bias], layer.stride, layer.padding)
            case Activation():
                return self._activation(x)
            case MaxPool():
                return F.max_pool2d(x, layer.size, layer.stride, layer.padding)
            case Residual():
                return x + self._run(layer.layers, x)
            case Flatten():
                return x.flatten(1)
            case Linear():
                return F.linear(x, tensors[layer.weight], tensors[layer.bias])
            case LayerNorm():
                scale, shift = tensors[layer.scale], tensors[layer.shift]
                return F.layer_norm(x, scale.shape, scale, shift, layer.epsilon)


class Images(nn.Module):
    """A network for each image, and all else of an observation as it is.

    Features are those of the images, in their order, and then the other numbers of the row in theirs.
    """

    def __init__(self, spec: PolicySpec, size: int, images: Sequence[Image], device: torch.device) -> None:
        """`images` lie in rows of `size` numbers or bytes."""
        super().__init__()
        networks = image_networks(spec.network, tuple(images), prefix="extractor", layer_norm=spec.layer_norm)
        self._images = tuple(images)
        self._networks = nn.ModuleList(Convolutions(network, spec, device) for network in networks)
        self._rest = columns_beside(images, size)
        self._device_type, self._is_bf16 = device.type, spec.autocast == "bf16"
        self.outputs = sum(network.shape[0] for network in networks) + sum(end - begin for begin, end in self._rest)

    def forward(self, observations: Tensor) -> Tensor:
        """Features [B, F] of rows [B, D]."""
        if not self._is_bf16:
            return self.in_float32(observations)
        with torch.autocast(self._device_type, torch.bfloat16):
            return self.in_float32(observations)

    def in_float32(self, observations: Tensor) -> Tensor:
        """The same without bfloat16, unless the caller has chosen it: what an exported policy computes."""
        pairs = zip(self._images, self._networks, strict=True)
        features = [network(pixels_of(image, observations)).float() for image, network in pairs]
        features += [observations[:, begin:end] for begin, end in self._rest]
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)


def pixels_of(image: Image, rows: Tensor) -> Tensor:
    """The image in rows [B, D], as float32 [B, C, H, W] between 0 and 1.

    In memory the channels of a pixel lie side by side whichever way the environment has them: with that, updates of the
    Nature network of 256 frames of 84 × 84 × 4 took 160 ms where they took 230, on one core of an AMD EPYC 9004.
    """
    flat = rows[:, image.offset : image.offset + image.size]
    # Of a single channel both are the same bytes: one of them, so that the strides are the same as well.
    if image.channels_first and image.channels > 1:
        planes = flat.view(-1, image.channels, image.height, image.width)
        return torch.div(planes.contiguous(memory_format=torch.channels_last), WHITE)
    return torch.div(flat.view(-1, image.height, image.width, image.channels).permute(0, 3, 1, 2), WHITE)


def extractor_for(spec: PolicySpec, size: int, images: Sequence[Image], device: torch.device) -> Numbers | Images:
    """The extractor of rows of `size` in which `images` are to go through the network that the spec names."""
    return Images(spec, size, images, device) if images else Numbers(size)
