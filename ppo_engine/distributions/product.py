"""Several actions at once: of Dict and Tuple action spaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.distributions.base import Distribution


@dataclass(frozen=True)
class Product:
    """Independent distributions, side by side: rows of actions are those of the parts, as float32 numbers.

    Outputs are the logits and means of all parts, then the log-stds of those that have any; `log_std` and masks are
    those of the parts, one after another. No part may depend on features.
    """

    parts: tuple[Distribution, ...]
    dtype: torch.dtype = torch.float32
    features: ClassVar[int] = 0
    noise_lasts: ClassVar[int | None] = 1

    @property
    def outputs(self) -> int:
        return sum(part.outputs for part in self.parts)

    @property
    def log_stds(self) -> int:
        return sum(part.log_stds for part in self.parts)

    @property
    def log_std_shape(self) -> tuple[int, ...]:
        return (sum(part.log_std_shape[0] for part in self.parts),)

    @property
    def columns(self) -> int:
        return sum(part.columns for part in self.parts)

    @property
    def noise_columns(self) -> int:
        return sum(part.noise_columns for part in self.parts)

    @property
    def masks(self) -> int:
        return sum(part.masks for part in self.parts)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.concatenate([part.noise(generator, shape) for part in self.parts], axis=-1)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        rows = zip(
            self.parts,
            self._outputs(outputs),
            self._log_stds(log_std),
            noise.split([part.noise_columns for part in self.parts], dim=-1),
            strict=True,
        )
        return torch.cat([part.sample(*arguments).to(torch.float32) for part, *arguments in rows], dim=-1)

    def mode(self, outputs: Tensor) -> Tensor:
        rows = zip(self.parts, self._outputs(outputs), strict=True)
        return torch.cat([part.mode(own).to(torch.float32) for part, own in rows], dim=-1)

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        columns = actions.split([part.columns for part in self.parts], dim=-1)
        rows = zip(self.parts, self._outputs(outputs), self._log_stds(log_std), columns, strict=True)
        each = [part.log_probs_and_entropies(own, std, chosen.to(part.dtype)) for part, own, std, chosen in rows]
        log_probs, entropies = zip(*each, strict=True)
        return sum(log_probs[1:], log_probs[0]), sum(entropies[1:], entropies[0])

    def kl(self, old_outputs: Tensor, old_log_std: Tensor, outputs: Tensor, log_std: Tensor) -> Tensor:
        old, new = (
            zip(self._outputs(rows), self._log_stds(std), strict=True)
            for rows, std in ((old_outputs, old_log_std), (outputs, log_std))
        )
        divergences = [part.kl(*before, *now) for part, before, now in zip(self.parts, old, new, strict=True)]
        return sum(divergences[1:], divergences[0])

    def masked(self, outputs: Tensor, masks: Tensor) -> Tensor:
        *heads, log_stds = outputs.split([*self._heads(), self.log_stds], dim=-1)
        rows = zip(self.parts, heads, masks.split([part.masks for part in self.parts], dim=-1), strict=True)
        return torch.cat([*(part.masked(head, mask) for part, head, mask in rows), log_stds], dim=-1)

    def _heads(self) -> list[int]:
        """How many logits or means each part has."""
        return [part.outputs - part.log_stds for part in self.parts]

    def _outputs(self, outputs: Tensor) -> list[Tensor]:
        """The outputs of each part."""
        *heads, log_stds = outputs.split([*self._heads(), self.log_stds], dim=-1)
        own = log_stds.split([part.log_stds for part in self.parts], dim=-1)
        return [torch.cat(pair, dim=-1) if pair[1].shape[-1] else pair[0] for pair in zip(heads, own, strict=True)]

    def _log_stds(self, log_std: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = log_std.split([part.log_std_shape[0] for part in self.parts], dim=-1)
        return parts
