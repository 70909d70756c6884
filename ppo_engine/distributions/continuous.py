"""Distributions over real numbers: rows of actions are float32 [B, A], noise is standard normal."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ppo_engine.deviations import LEAST_VARIANCE, LOG_STD_BOUNDS
from ppo_engine.distributions.densities import gaussian, gaussian_kl, squashed_gaussian

Density: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Log-densities and entropies [B] of action rows under means [B, A] and a log-std: `gaussian`, or that of its tanh."""


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal numbers with one standard deviation per column, whatever the observation."""

    columns: int
    density: Density = gaussian
    dtype: torch.dtype = torch.float32
    masks: ClassVar[int] = 0

    @property
    def outputs(self) -> int:
        return self.columns + self.log_stds + self.features

    @property
    def log_stds(self) -> int:
        return 0

    @property
    def features(self) -> int:
        return 0

    @property
    def noise_lasts(self) -> int | None:
        return 1

    @property
    def log_std_shape(self) -> tuple[int, ...]:
        return (self.columns,)

    @property
    def noise_columns(self) -> int:
        return self.columns

    def moments(self, outputs: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """The means [B, A], and the logarithms of the standard deviations, [A] or [B, A]."""
        return outputs, log_std

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.standard_normal((*shape, self.noise_columns), dtype=np.float32)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.moments(outputs, log_std)
        return torch.addcmul(mean, torch.exp(log_std), noise)

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs[..., : self.columns]

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(*self.moments(outputs, log_std), actions)

    def kl(self, old_outputs: Tensor, old_log_std: Tensor, outputs: Tensor, log_std: Tensor) -> Tensor:
        return gaussian_kl(*self.moments(old_outputs, old_log_std), *self.moments(outputs, log_std))

    def masked(self, outputs: Tensor, masks: Tensor) -> Tensor:
        return outputs


@dataclass(frozen=True)
class SquashedGaussian(DiagonalGaussian):
    """The tanh of independent normal numbers. Its rows are the numbers before the tanh, from which log-probs are exact.

    The row of `mode` is the mean: its tanh is the median of each action, not the point where its density is greatest.
    """

    density: Density = squashed_gaussian


@dataclass(frozen=True)
class StateDependentGaussian(DiagonalGaussian):
    """Independent normal numbers whose standard deviations the network gives: outputs are means, then log-stds."""

    @property
    def log_stds(self) -> int:
        return self.columns

    @property
    def log_std_shape(self) -> tuple[int, ...]:
        return (0,)

    def moments(self, outputs: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = outputs.split(self.columns, dim=-1)
        return mean, within_bounds(raw)


@dataclass(frozen=True)
class ExploringGaussian(DiagonalGaussian):
    """Generalised state-dependent exploration: noise that is a linear function of the actor's last features φ [H].

    An action is mean + φ E, where E [H, A] holds normal numbers with the standard deviations exp(`log_std`) [H, A], and
    stays what it is for `noise_lasts` steps: exploration is smooth, for a state it is always the same meanwhile. Over
    all E the action is normal, with variance Σ φ² σ² + LEAST_VARIANCE, the last term by normal numbers of its own that
    are kept as long. Outputs are means, then the features, which learn nothing from being the noise's.

    Source: Raffin, Kober and Stulp 2021, "Smooth Exploration for Robotic Reinforcement Learning", arXiv:2005.05719
    """

    features: int = 0
    """Numbers that the noise is a function of (H)."""
    noise_lasts: int | None = None

    @property
    def log_std_shape(self) -> tuple[int, ...]:
        return (self.features, self.columns)

    @property
    def noise_columns(self) -> int:
        return (self.features + 1) * self.columns

    def moments(self, outputs: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        mean, features = outputs.split((self.columns, self.features), dim=-1)
        variance = torch.matmul(features.square(), torch.exp(2 * log_std)) + LEAST_VARIANCE
        return mean, 0.5 * variance.log()

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        mean, features = outputs.split((self.columns, self.features), dim=-1)
        of_features, of_none = noise.split((self.features * self.columns, self.columns), dim=-1)
        matrices = of_features.unflatten(-1, self.log_std_shape) * torch.exp(log_std)  # [B, H, A]
        explored = torch.matmul(features.unsqueeze(-2), matrices).squeeze(-2)
        actions: Tensor = mean + explored + math.sqrt(LEAST_VARIANCE) * of_none
        return actions


def within_bounds(raw: Tensor) -> Tensor:
    """Any numbers as logarithms of standard deviations: those that are 1 or more within LOG_STD_BOUNDS as they are.

    The others come closer to the bound the further out they are, by x / (1 + x), whose slope falls off as 1 / (1 + x)²
    only, so that they find their way back. A clamp's is 0, and stays 0.
    """
    low, high = LOG_STD_BOUNDS
    inner = raw.clamp(low + 1, high - 1)
    return inner + F.softsign(raw - inner)
