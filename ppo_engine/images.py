"""Images among observations: which arrays are images, where they lie in a flat row, and which networks take them.

Imports neither torch, Gymnasium nor NumPy: the API resolves specs too.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ppo_engine.spec import PolicySpec, SpecFault

NetworkName: TypeAlias = Literal["auto", "mlp", "cnn", "impala"]

SMALLEST_SIDE: Mapping[NetworkName, int] = {"cnn": 36, "impala": 1}
"""Pixels of height and width that leave something for the last convolution: (((36 - 8)/4 + 1) - 4)/2 + 1 = 3."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a flat row of an observation."""

    offset: int
    """Of its first byte in the row."""
    height: int
    width: int
    channels: int
    channels_first: bool

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels


def image_of(shape: Sequence[int], dtype: str, low: float | None, high: float | None) -> Image | None:
    """The image that a Box holds, at offset 0; None where it holds other numbers.

    An image has bytes from 0 to 255, and 2 axes, or 3 of which the first or the last are the channels: the first
    where no other is shorter, as Stable-Baselines3 has it.

    Args:
        low, high: the one bound of all its numbers; None where they differ or there is none.
    """
    if dtype != "uint8" or len(shape) not in (2, 3) or low != 0 or high != 255 or 0 in shape:
        return None
    if len(shape) == 2:
        return Image(0, shape[0], shape[1], 1, channels_first=False)
    if shape[0] == min(shape):
        return Image(0, shape[1], shape[2], shape[0], channels_first=True)
    return Image(0, shape[0], shape[1], shape[2], channels_first=False)


def images_of(observation_space: Mapping[str, Any]) -> tuple[Image, ...]:
    """The images in the rows of an observation space, which is described as the catalogue describes it."""
    return tuple(_images(observation_space, 0))


def network_for(requested: NetworkName, images: Sequence[Image]) -> NetworkName:
    """The network that `auto` stands for: `cnn` where it can take one of the images, else `mlp`."""
    if requested != "auto":
        return requested
    return "cnn" if seen_as_images("cnn", images) else "mlp"


def seen_as_images(network: NetworkName, images: Sequence[Image]) -> tuple[Image, ...]:
    """Those images that go through the network's convolutions; all else in a row is plain numbers to it."""
    smallest = SMALLEST_SIDE.get(network)
    if smallest is None:
        return ()
    return tuple(image for image in images if min(image.height, image.width) >= smallest)


def columns_beside(images: Sequence[Image], size: int) -> list[tuple[int, int]]:
    """Where a row of `size` holds none of the images, from begin to end each; they are in their order in the row."""
    begins = [0, *(image.offset + image.size for image in images)]
    ends = [*(image.offset for image in images), size]
    return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]


def policy_faults(policy: PolicySpec, images: Sequence[Image]) -> list[SpecFault]:
    """What of a policy makes no sense for observations with these images."""
    network = network_for(policy.network, images)
    if network != "mlp":
        fault = _network_fault(network, images)
        return [] if fault is None else [SpecFault("/policy/network", fault)]
    faults = []
    if policy.layer_norm and not policy.hidden_sizes:
        faults.append(SpecFault("/policy/layer_norm", "there is no hidden layer to normalise"))
    if policy.autocast != "off":
        faults.append(SpecFault("/policy/autocast", "is for convolutions, and mlp has none"))
    return faults


def _network_fault(network: NetworkName, images: Sequence[Image]) -> str | None:
    """Why convolutions cannot take the observations; None where they can."""
    if seen_as_images(network, images):
        return None
    wanted = f"{network} needs an image: a Box of uint8 from 0 to 255 with 2 or 3 axes"
    if not images:
        return f"{wanted}; the observations hold none"
    side, largest = SMALLEST_SIDE[network], max(images, key=lambda image: min(image.height, image.width))
    return f"{wanted}, {side} x {side} pixels at least; the largest here has {largest.height} x {largest.width}"


def _images(space: Mapping[str, Any], offset: int) -> Iterator[Image]:
    if space.get("type") == "Box":
        image = image_of(space["shape"], space.get("dtype", ""), _only(space.get("low")), _only(space.get("high")))
        if image is not None:
            yield replace(image, offset=offset)
    for part in _parts(space):
        yield from _images(part, offset)
        offset += _flat_size(part)


def _parts(space: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = space.get("spaces", [])
    return list(parts.values()) if isinstance(parts, Mapping) else list(parts)


def _flat_size(space: Mapping[str, Any]) -> int:
    match space.get("type"):
        case "Box" | "MultiBinary":
            return math.prod(space["shape"])
        case "Discrete":
            return int(space["n"])
        case "MultiDiscrete":
            return _sum(space["nvec"])
    return sum(_flat_size(part) for part in _parts(space))


def _sum(nested: Any) -> int:
    return sum(map(_sum, nested)) if isinstance(nested, list) else int(nested)


def _only(bound: Any) -> float | None:
    """The one number that a bound is made of; None where its numbers differ."""
    if not isinstance(bound, list):
        return None if bound is None else float(bound)
    numbers = {_only(part) for part in bound}
    return numbers.pop() if len(numbers) == 1 else None
