"""KL(old ‖ new) in closed form against its definition: a sum over all actions, or a fine integral, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ppo_engine.distributions import Bernoulli, DiagonalGaussian, Distribution, MultiCategorical, SquashedGaussian

NONE = torch.zeros(0, dtype=torch.float64)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def summed(distribution: Distribution, old: Tensor, new: Tensor, actions: list[tuple[int, ...]]) -> float:
    """Σ p (log p - log q) over all the actions."""
    rows = torch.tensor(actions)
    p, q = (
        distribution.log_probs_and_entropies(outputs.expand(len(rows), -1), NONE, rows)[0] for outputs in (old, new)
    )
    assert float(p.exp().sum()) == pytest.approx(1.0)
    return float((p.exp() * (p - q)).sum())


def test_the_divergence_of_categoricals_in_numbers() -> None:
    """From (1/4, 3/4) to (1/2, 1/2): ¼ log ½ + ¾ log 3/2."""
    kl = MultiCategorical((2,)).kl(row(0.0, math.log(3)), NONE, row(5.0, 5.0), NONE)
    assert kl.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


@pytest.mark.parametrize(
    ("distribution", "choices"),
    [(MultiCategorical((4,)), (4,)), (MultiCategorical((2, 3, 5)), (2, 3, 5)), (Bernoulli(3), (2, 2, 2))],
)
def test_the_divergence_of_choices_is_the_sum_over_all_actions(distribution: Distribution, choices) -> None:
    draw = np.random.default_rng(0)
    actions = list(itertools.product(*map(range, choices)))
    for _ in range(5):
        old, new = torch.from_numpy(2 * draw.normal(size=(2, 1, distribution.outputs)))
        kl = distribution.kl(old, NONE, new, NONE)
        assert kl.item() == pytest.approx(summed(distribution, old, new, actions), rel=1e-9)


def test_the_divergence_of_gaussians_in_numbers() -> None:
    """From N(0, 1) to N(1, 2²): log 2 + (1 + 1) / (2 · 4) - ½; from N(1, 2²) to N(0, 1): -log 2 + (4 + 1) / 2 - ½."""
    means = row(0.0, 1.0), row(1.0, 0.0)
    log_stds = torch.tensor([0.0, math.log(2)]), torch.tensor([math.log(2), 0.0])
    kl = DiagonalGaussian(2).kl(means[0], log_stds[0], means[1], log_stds[1])
    assert kl.item() == pytest.approx(math.log(2) + 2 / 8 - 0.5 + (-math.log(2) + 5 / 2 - 0.5))


@pytest.mark.parametrize("distribution", [DiagonalGaussian(1), SquashedGaussian(1)])
def test_the_divergence_of_gaussians_is_its_integral_and_squashing_does_not_change_it(distribution) -> None:
    grid = torch.linspace(-15, 15, 30_001, dtype=torch.float64).unsqueeze(1)
    old, new = row(0.4), row(-0.3)
    log_stds = torch.tensor([0.2], dtype=torch.float64), torch.tensor([-0.1], dtype=torch.float64)
    p, q = (
        distribution.log_probs_and_entropies(mean.expand_as(grid), log_std, grid)[0]
        for mean, log_std in zip((old, new), log_stds, strict=True)
    )
    # Densities over tanh u are those over u divided by the slope of tanh, and so is the width of a step.
    width = 30 / 30_000
    slopes = p - DiagonalGaussian(1).log_probs_and_entropies(old.expand_as(grid), log_stds[0], grid)[0]
    integral = float(((p - slopes).exp() * (p - q)).sum() * width)
    assert distribution.kl(old, log_stds[0], new, log_stds[1]).item() == pytest.approx(integral, rel=1e-7)


@pytest.mark.parametrize(
    "distribution", [MultiCategorical((2, 3)), Bernoulli(5), DiagonalGaussian(5), SquashedGaussian(5)]
)
def test_the_divergence_from_itself_is_zero_to_the_bit(distribution: Distribution) -> None:
    outputs = 3 * torch.from_numpy(np.random.default_rng(0).standard_normal((50, distribution.outputs)).astype("f"))
    log_std = torch.linspace(-2, 1, 5)
    assert distribution.kl(outputs, log_std, outputs.clone(), log_std.clone()).tolist() == [0.0] * 50


def test_divergences_are_finite_where_distributions_hardly_overlap() -> None:
    far, back = row(1e4, -1e4).float(), row(-1e4, 1e4).float()
    assert MultiCategorical((2,)).kl(far, NONE, back, NONE).item() == 2e4
    assert Bernoulli(2).kl(far, NONE, back, NONE).item() == 2e4
    log_std = torch.tensor([-20.0, 4.0])
    assert torch.isfinite(DiagonalGaussian(2).kl(row(1.0, 1.0).float(), log_std, row(1.0, 1.0).float(), -log_std / 5))
