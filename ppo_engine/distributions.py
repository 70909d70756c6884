"""Action distributions as functions of a network's outputs. No branch on data, so they trace, batch and capture.

Sampling takes its randomness as an argument: uniform numbers in [0, 1) for the discrete kinds, standard normals for the
continuous one. Rows of actions are int64 [B, heads] and float32 [B, A].
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LOG_STD_BOUNDS = (-20.0, 4.0)
"""Where the optimiser keeps the logarithm of a standard deviation, so that its exponential stays a useful number."""


def categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `actions` [B] under `logits` [B, K], and the distributions' entropies: [B] each, in nats."""
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def sample_categorical(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Actions [B] by inverse CDF: the first choice whose cumulative probability exceeds the uniform number [B]."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)
    return (uniforms.unsqueeze(-1) >= cumulative[..., :-1]).sum(-1)


def bernoulli(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of binary `actions` [B, A], and entropies, summed over A: [B] each, in nats."""
    log_one, log_zero = F.logsigmoid(logits), F.logsigmoid(-logits)
    log_probs = torch.where(actions > 0, log_one, log_zero).sum(-1)
    probabilities = torch.sigmoid(logits)
    return log_probs, -(probabilities * log_one + (1 - probabilities) * log_zero).sum(-1)


def gaussian(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities of `actions` [B, A] under N(mean, diag(exp(2 log_std))), and entropies: [B] each, in nats.

    log N = -½ Σ (z² + log 2π) - Σ log σ, and H = Σ (½ log 2πe + log σ).
    """
    size, total_log_std = mean.shape[-1], log_std.sum()
    standard = (actions - mean) * torch.exp(-log_std)
    log_probs = -0.5 * standard.square().sum(-1) - (total_log_std + 0.5 * size * math.log(2 * math.pi))
    entropy = total_log_std + 0.5 * size * (math.log(2 * math.pi) + 1)
    return log_probs, entropy.expand(mean.shape[:-1])


def squashed_gaussian(mean: Tensor, log_std: Tensor, unsquashed: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities of tanh(u) for `unsquashed` u [B, A] ~ N(mean, diag(exp(2 log_std))), and entropies: [B] each.

    log π(tanh u) = log N(u) - Σ log(1 - tanh² u), a density over (-1, 1)^A. Scaling to an environment's bounds would
    subtract the constant Σ log reach: it cancels in every ratio, moves no gradient, and is left out so that entropies
    do not depend on the units of actions.

    No closed form is known for the entropy. It is H(N) + E[Σ log(1 - tanh² u)], and the answer is the estimate of it
    by the one sample at hand: -log π(tanh u), but for the Gaussian's part, which is exact. In its gradient the sample
    moves with its distribution, u = mean + σ z at constant z (Kingma and Welling 2014, arXiv:1312.6114), which makes it
    an unbiased gradient of the entropy. That of -log π(tanh u) at a constant u would be 0 in expectation.
    """
    log_probs, entropies = gaussian(mean, log_std, unsquashed)
    z = ((unsquashed - mean) * torch.exp(-log_std)).detach()
    moving = torch.addcmul(mean, torch.exp(log_std), z)
    return log_probs - log_slope_of_tanh(unsquashed).sum(-1), entropies + log_slope_of_tanh(moving).sum(-1)


def log_slope_of_tanh(u: Tensor) -> Tensor:
    """log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)), which stays exact where tanh rounds to ±1."""
    return 2 * (math.log(2) - u + F.logsigmoid(2 * u))


class Distribution(Protocol):
    """A kind of action distribution. `log_std` [A] is that of `DiagonalGaussian`; the others ignore it."""

    @property
    def outputs(self) -> int:
        """Columns that the network must give: logits, or means."""

    @property
    def columns(self) -> int:
        """Columns of an action row, and of the noise that it takes to sample one."""

    @property
    def dtype(self) -> torch.dtype: ...

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Numbers for `sample`, [*shape, columns]."""

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor: ...

    def mode(self, outputs: Tensor) -> Tensor: ...

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class MultiCategorical:
    """Independent choices, one per head; a Discrete action is the case of one head."""

    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.int64

    @property
    def outputs(self) -> int:
        return sum(self.sizes)

    @property
    def columns(self) -> int:
        return len(self.sizes)

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.random((*shape, self.columns), dtype=np.float32)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        heads = zip(outputs.split(self.sizes, dim=-1), noise.unbind(-1), strict=True)
        return torch.stack([sample_categorical(logits, uniforms) for logits, uniforms in heads], dim=-1)

    def mode(self, outputs: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in outputs.split(self.sizes, dim=-1)], dim=-1)

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        heads = zip(outputs.split(self.sizes, dim=-1), actions.unbind(-1), strict=True)
        log_probs, entropies = zip(*(categorical(logits, chosen) for logits, chosen in heads), strict=True)
        return sum(log_probs[1:], log_probs[0]), sum(entropies[1:], entropies[0])


@dataclass(frozen=True)
class Bernoulli:
    """Independent bits."""

    columns: int
    dtype: torch.dtype = torch.int64

    @property
    def outputs(self) -> int:
        return self.columns

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.random((*shape, self.columns), dtype=np.float32)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        return (noise < torch.sigmoid(outputs)).to(torch.int64)

    def mode(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(torch.int64)

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return bernoulli(outputs, actions)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal numbers with one standard deviation per column, whatever the observation."""

    columns: int
    dtype: torch.dtype = torch.float32

    @property
    def outputs(self) -> int:
        return self.columns

    def noise(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.standard_normal((*shape, self.columns), dtype=np.float32)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        return torch.addcmul(outputs, torch.exp(log_std), noise)

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian(outputs, log_std, actions)


@dataclass(frozen=True)
class SquashedGaussian(DiagonalGaussian):
    """The tanh of independent normal numbers. Its rows are the numbers before the tanh, from which log-probs are exact.

    The row of `mode` is the mean: its tanh is the median of each action, not the point where its density is greatest.
    """

    def log_probs_and_entropies(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return squashed_gaussian(outputs, log_std, actions)
