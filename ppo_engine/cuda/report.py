"""The one copy that brings the results of an iteration to the host."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.cuda.graphs import Replayed


class Report:
    """Tensors of the device as one row of numbers, which a single copy brings to the host."""

    def __init__(self, parts: Callable[[], Mapping[str, Tensor]], device: torch.device) -> None:
        """`parts` gives the tensors, of the same shapes each time; float64 must hold their numbers."""
        self._parts = parts
        self._shapes = {name: tuple(part.shape) for name, part in parts().items()}
        self._sizes = [part.numel() for part in parts().values()]
        self._row = torch.zeros(sum(self._sizes), dtype=torch.float64, device=device)
        # Pinned memory is what lets a copy run beside the host.
        self._host = torch.zeros(self._row.shape, dtype=torch.float64, pin_memory=device.type == "cuda")
        self.pack = Replayed(self._pack, device, changes=())

    def read(self) -> dict[str, NDArray[np.float64]]:
        """What was packed last; waits for it."""
        self._host.copy_(self._row, non_blocking=True)
        if self._row.device.type == "cuda":
            torch.cuda.current_stream(self._row.device).synchronize()
        numbers = self._host.numpy().copy()
        parts = np.split(numbers, np.cumsum(self._sizes)[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    @torch.no_grad()
    def _pack(self) -> None:
        torch.cat([part.double().flatten() for part in self._parts().values()], out=self._row)
