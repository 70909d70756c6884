"""Log-densities, entropies and divergences in nats, of B rows at a time; sampling of discrete choices."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IMPOSSIBLE = -1e30
"""The logit of a choice that is masked. Its probability is 0 to the bit, and its products with it are, too: with minus
infinity they would be NaN."""


def categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `actions` [B] under `logits` [B, K], and the distributions' entropies: [B] each, in nats."""
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def categorical_kl(old_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(old ‖ new) of categoricals [B, K]: Σ p log(p/q), [B]."""
    old, new = torch.log_softmax(old_logits, dim=-1), torch.log_softmax(logits, dim=-1)
    return (old.exp() * (old - new)).sum(-1)


def sample_categorical(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Actions [B] by inverse CDF: the first choice whose cumulative probability exceeds the uniform number [B]."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)
    return (uniforms.unsqueeze(-1) >= cumulative[..., :-1]).sum(-1)


def sample_possible(logits: Tensor, uniforms: Tensor) -> Tensor:
    """As `sample_categorical`, and never a choice of probability 0, however sums were rounded."""
    probabilities = torch.softmax(logits, dim=-1)
    possible = probabilities > 0
    numbers = torch.arange(logits.shape[-1], device=logits.device)
    last = torch.where(possible, numbers, 0).amax(-1, keepdim=True)
    reached = possible & (probabilities.cumsum(-1) > uniforms.unsqueeze(-1))
    return torch.where(reached, numbers, last).amin(-1)


def bernoulli(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of binary `actions` [B, A], and entropies, summed over A: [B] each, in nats."""
    log_one, log_zero = F.logsigmoid(logits), F.logsigmoid(-logits)
    log_probs = torch.where(actions > 0, log_one, log_zero).sum(-1)
    probabilities = torch.sigmoid(logits)
    return log_probs, -(probabilities * log_one + (1 - probabilities) * log_zero).sum(-1)


def bernoulli_kl(old_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(old ‖ new) of independent bits [B, A], summed over A: [B]."""
    one = torch.sigmoid(old_logits) * (F.logsigmoid(old_logits) - F.logsigmoid(logits))
    zero = torch.sigmoid(-old_logits) * (F.logsigmoid(-old_logits) - F.logsigmoid(-logits))
    return (one + zero).sum(-1)


def gaussian(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities of `actions` [B, A] under N(mean, diag(exp(2 log_std))), and entropies: [B] each, in nats.

    log N = -½ Σ (z² + log 2π) - Σ log σ, and H = Σ (½ log 2πe + log σ). `log_std` is [A], or [B, A].
    """
    size, total_log_std = mean.shape[-1], log_std.sum(-1)
    standard = (actions - mean) * torch.exp(-log_std)
    log_probs = -0.5 * standard.square().sum(-1) - (total_log_std + 0.5 * size * math.log(2 * math.pi))
    entropy = total_log_std + 0.5 * size * (math.log(2 * math.pi) + 1)
    return log_probs, entropy.expand(mean.shape[:-1])


def gaussian_kl(old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(old ‖ new) of diagonal Gaussians, [B]; means are [B, A], each `log_std` [A] or [B, A].

    ½ Σ (r² - 1 - log r² + z²), with r the quotient of the standard deviations, old over new, and z the distance of the
    means in new ones. That of their tanh is the same, since tanh is one-to-one.
    """
    log_ratio = old_log_std - log_std
    z = (mean - old_mean) * torch.exp(-log_std)
    return 0.5 * (torch.expm1(2 * log_ratio) - 2 * log_ratio + z.square()).sum(-1)


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
