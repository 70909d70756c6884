"""Functions that run again and again on the same memory, as CUDA graphs where the device has them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3
"""Runs before a capture, in which libraries make their workspaces. Source: PyTorch's notes on CUDA graphs."""


class Replayed:
    """A function of no arguments that reads and writes tensors which stay where they are.

    On a CUDA device the first call captures it, and every call replays it; elsewhere it is called.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, *, changes: Sequence[Tensor]) -> None:
        """`changes` are the tensors that the function both reads and writes: a capture leaves them as they were."""
        self._function = function
        self._device = device
        self._changes = changes
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._device.type != "cuda":
            self._function()
            return
        if self._graph is None:
            self._graph = captured(self._function, self._changes)
        self._graph.replay()


def captured(function: Callable[[], None], changes: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
    """The function as a graph that was not run yet; the device is waited for."""
    warm_up(function, changes, torch.cuda.Stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def warm_up(function: Callable[[], None], changes: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
    """Runs the function on a stream of its own, as captures need it, and undoes each time what it changed."""
    before = [tensor.clone() for tensor in changes]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
            for tensor, kept in zip(changes, before, strict=True):
                tensor.copy_(kept)
    torch.cuda.current_stream().wait_stream(stream)
