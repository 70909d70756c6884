"""Parameters that are made of named tensors, and the flat buffer that holds those of a whole policy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ppo_engine.networks.initialization import orthogonal


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a named tensor lies in the flat buffer."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def view(self, flat: Tensor) -> Tensor:
        return flat[self.offset : self.offset + self.size].view(self.shape)


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor as checkpoints name it, and how it begins: orthogonal with a gain, or filled with a number.

    One that is stacked of blocks begins block by block; `fill` may hold a number for each.
    """

    name: str
    shape: tuple[int, ...]
    gain: float | None = None
    fill: float | tuple[float, ...] = 0.0
    blocks: int = 1


class NamedModule(nn.Module):
    """A module that names what its parameters are made of.

    Its subclasses make their parameters by `parameter`, in the order in which they keep them, so that the named tensors
    of a module and of all below it lie in the flat buffer in the order of `parameters()`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.named_tensors: list[NamedTensor] = []

    def parameter(self, *tensors: NamedTensor, shape: tuple[int, ...] | None = None) -> nn.Parameter:
        """A parameter in whose memory `tensors` follow one another; of the shape of the one tensor by default.

        It is not initialised, nor has it its memory in the flat buffer, before `flatten_parameters`.
        """
        self.named_tensors += tensors
        return nn.Parameter(torch.empty(shape or tensors[0].shape))


def flatten_parameters(module: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Makes all parameters of a module views of one flat buffer [P], in their order, and their gradients of another.

    Returns: both buffers, zeroed.
    """
    size = sum(parameter.numel() for parameter in module.parameters())
    flat, gradients = torch.zeros(size, device=device), torch.zeros(size, device=device)
    offset = 0
    for parameter in module.parameters():
        place = TensorPlace("", offset, tuple(parameter.shape))
        parameter.data, parameter.grad = place.view(flat), place.view(gradients)
        offset += place.size
    return flat, gradients


def places_of(module: nn.Module) -> Iterator[TensorPlace]:
    """Where the named tensors of a module lie in its flat buffer; those without a number have no place."""
    offset = 0
    for tensor in _named_tensors(module):
        place = TensorPlace(tensor.name, offset, tensor.shape)
        if place.size:
            yield place
        offset += place.size


@torch.no_grad()
def initialize(module: nn.Module, flat: Tensor, generator: np.random.Generator) -> None:
    """Writes what the named tensors of a module begin with into its flat buffer, drawing in their order."""
    tensors = {tensor.name: tensor for tensor in _named_tensors(module)}
    for place in places_of(module):
        tensor = tensors[place.name]
        for block, begin in zip(place.view(flat).chunk(tensor.blocks), _beginnings(tensor), strict=True):
            if tensor.gain is None:
                block.fill_(begin)
            else:
                block.copy_(torch.from_numpy(orthogonal(generator, tuple(block.shape), tensor.gain)))


def _beginnings(tensor: NamedTensor) -> tuple[float, ...]:
    """The number that each block is filled with."""
    return tensor.fill if isinstance(tensor.fill, tuple) else (tensor.fill,) * tensor.blocks


def _named_tensors(module: nn.Module) -> Iterator[NamedTensor]:
    for part in module.modules():
        if isinstance(part, NamedModule):
            yield from part.named_tensors
