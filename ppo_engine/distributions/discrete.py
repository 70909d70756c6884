"""Distributions over choices: rows of actions are int64 [B, heads], noise is uniform in [0, 1)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.distributions.densities import (
    IMPOSSIBLE,
    bernoulli,
    bernoulli_kl,
    categorical,
    categorical_kl,
    sample_categorical,
    sample_possible,
)


@dataclass(frozen=True)
class MultiCategorical:
    """Independent choices, one per head; a Discrete action is the case of one head."""

    sizes: tuple[int, ...]
    has_masks: bool = False
    """Whether some of the choices may be impossible."""
    dtype: torch.dtype = torch.int64
    log_stds: ClassVar[int] = 0
    features: ClassVar[int] = 0
    log_std_shape: ClassVar[tuple[int, ...]] = (0,)
    noise_lasts: ClassVar[int | None] = 1

    @property
    def outputs(self) -> int:
        return sum(self.sizes)

    @property
    def noise_columns(self) -> int:
        return self.columns

    @property
    def masks(self) -> int:
        return sum(self.sizes) if self.has_masks else 0

    @property
    def columns(self) -> int:
        return len(self.sizes)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.random((*shape, self.columns), dtype=np.float32)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        heads = zip(outputs.split(self.sizes, dim=-1), noise.unbind(-1), strict=True)
        draw = sample_possible if self.has_masks else sample_categorical
        return torch.stack([draw(logits, uniforms) for logits, uniforms in heads], dim=-1)

    def mode(self, outputs: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in outputs.split(self.sizes, dim=-1)], dim=-1)

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        heads = zip(outputs.split(self.sizes, dim=-1), actions.unbind(-1), strict=True)
        log_probs, entropies = zip(*(categorical(logits, chosen) for logits, chosen in heads), strict=True)
        return sum(log_probs[1:], log_probs[0]), sum(entropies[1:], entropies[0])

    def kl(self, old_outputs: Tensor, old_log_std: Tensor, outputs: Tensor, log_std: Tensor) -> Tensor:
        heads = zip(old_outputs.split(self.sizes, dim=-1), outputs.split(self.sizes, dim=-1), strict=True)
        divergences = [categorical_kl(old, new) for old, new in heads]
        return sum(divergences[1:], divergences[0])

    def masked(self, outputs: Tensor, masks: Tensor) -> Tensor:
        return outputs.masked_fill(~masks, IMPOSSIBLE)


@dataclass(frozen=True)
class Bernoulli:
    """Independent bits."""

    columns: int
    has_masks: bool = False
    """Whether some of the bits may be bound to be 0, or 1."""
    dtype: torch.dtype = torch.int64
    log_stds: ClassVar[int] = 0
    features: ClassVar[int] = 0
    log_std_shape: ClassVar[tuple[int, ...]] = (0,)
    noise_lasts: ClassVar[int | None] = 1

    @property
    def outputs(self) -> int:
        return self.columns

    @property
    def noise_columns(self) -> int:
        return self.columns

    @property
    def masks(self) -> int:
        return 2 * self.columns if self.has_masks else 0

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.random((*shape, self.columns), dtype=np.float32)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        return (noise < torch.sigmoid(outputs)).to(torch.int64)

    def mode(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(torch.int64)

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return bernoulli(outputs, actions)

    def kl(self, old_outputs: Tensor, old_log_std: Tensor, outputs: Tensor, log_std: Tensor) -> Tensor:
        return bernoulli_kl(old_outputs, outputs)

    def masked(self, outputs: Tensor, masks: Tensor) -> Tensor:
        may_be_zero, may_be_one = masks[..., 0::2], masks[..., 1::2]
        return outputs.masked_fill(~may_be_one, IMPOSSIBLE).masked_fill(~may_be_zero, -IMPOSSIBLE)
