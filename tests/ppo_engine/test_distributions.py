import math

import numpy as np
import pytest
import torch

from ppo_engine.distributions import (
    Bernoulli,
    DiagonalGaussian,
    MultiCategorical,
    bernoulli,
    categorical,
    gaussian,
    sample_categorical,
)

NO_LOG_STD = torch.zeros(0)


def test_categorical_log_prob_and_entropy_in_numbers() -> None:
    """Logits log 1, log 2, log 5 are probabilities 1/8, 2/8, 5/8."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    log_probs, entropies = categorical(logits, torch.tensor([0, 2]))
    assert log_probs.tolist() == pytest.approx([math.log(1 / 8), math.log(5 / 8)])
    entropy = -(1 / 8 * math.log(1 / 8) + 2 / 8 * math.log(2 / 8) + 5 / 8 * math.log(5 / 8))
    assert entropies.tolist() == pytest.approx([entropy, entropy])


def test_categorical_stays_finite_for_enormous_logits() -> None:
    log_probs, entropies = categorical(torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([0, 1]))
    assert log_probs.tolist() == [0.0, -2e4]
    assert entropies.tolist() == [0.0, 0.0]


def test_categorical_sampling_inverts_the_cumulative_distribution() -> None:
    """Cumulative 1/8, 3/8, 1: a choice owns [its lower edge, its upper edge)."""
    logits = torch.log(torch.tensor([1.0, 2.0, 5.0])).expand(6, 3)
    uniforms = torch.tensor([0.0, 0.124, 0.126, 0.374, 0.376, 1 - 2**-24])
    assert sample_categorical(logits, uniforms).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_last_choice_takes_what_rounding_leaves_of_the_cumulative_distribution() -> None:
    logits = torch.zeros(1, 7)  # seven times float32(1/7) may sum to less than one
    assert sample_categorical(logits, torch.tensor([1 - 2**-24])).tolist() == [6]


def test_bernoulli_sums_independent_bits_in_numbers() -> None:
    """Logits log 3 and 0 are probabilities 3/4 and 1/2."""
    log_probs, entropies = bernoulli(torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[1, 0]]))
    assert log_probs.item() == pytest.approx(math.log(3 / 4) + math.log(1 / 2))
    first = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert entropies.item() == pytest.approx(first + math.log(2))


def test_bernoulli_stays_finite_for_enormous_logits() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    log_probs, entropies = bernoulli(logits, torch.tensor([[0, 0]]))
    (log_probs + entropies).sum().backward()
    assert log_probs.item() == -1e4
    assert entropies.item() == 0.0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_gaussian_log_density_is_summed_over_dimensions_in_numbers() -> None:
    """σ = (1, 2), z = (1, -0.5): -½(1 + ¼) - log 2 - log 2π."""
    log_std = torch.tensor([0.0, math.log(2.0)])
    log_probs, entropies = gaussian(torch.tensor([[1.0, 1.0]]), log_std, torch.tensor([[2.0, 0.0]]))
    assert log_probs.item() == pytest.approx(-0.625 - math.log(2) - math.log(2 * math.pi))
    assert entropies.item() == pytest.approx(math.log(2) + math.log(2 * math.pi * math.e))


def test_gaussian_density_integrates_to_one_and_its_entropy_is_the_integral_of_surprise() -> None:
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64).unsqueeze(1)
    log_density, entropies = gaussian(torch.full_like(grid, 0.3), torch.tensor([0.2], dtype=torch.float64), grid)
    step = 24 / 20000
    assert float(log_density.exp().sum() * step) == pytest.approx(1.0, abs=1e-9)
    assert float(-(log_density.exp() * log_density).sum() * step) == pytest.approx(float(entropies[0]), abs=1e-9)


def test_multi_categorical_splits_its_logits_by_head_sizes_and_sums_the_heads() -> None:
    """Heads of 2 and 3 choices: (1/4, 3/4) and (1/8, 2/8, 5/8)."""
    heads = MultiCategorical((2, 3))
    logits = torch.log(torch.tensor([[1.0, 3.0, 1.0, 2.0, 5.0]]))
    log_probs, entropies = heads.log_probs_and_entropies(logits, NO_LOG_STD, torch.tensor([[1, 0]]))
    assert log_probs.item() == pytest.approx(math.log(3 / 4) + math.log(1 / 8))
    first = -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))
    second = -(1 / 8 * math.log(1 / 8) + 2 / 8 * math.log(2 / 8) + 5 / 8 * math.log(5 / 8))
    assert entropies.item() == pytest.approx(first + second)
    assert heads.mode(logits).tolist() == [[1, 2]]
    assert heads.sample(logits, NO_LOG_STD, torch.tensor([[0.26, 0.1]])).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("distribution", "outputs", "mean"),
    [
        (MultiCategorical((2, 3)), [0.0, math.log(3.0), 0.0, 0.0, math.log(2.0)], [0.75, 1.25]),
        (Bernoulli(2), [0.0, math.log(4.0)], [0.5, 0.8]),
        (DiagonalGaussian(2), [0.5, -1.0], [0.5, -1.0]),
    ],
)
def test_samples_have_the_distributions_mean(distribution, outputs, mean) -> None:
    """50,000 samples: five standard errors are at most 5 · 1/√50000 ≈ 0.022."""
    noise = torch.from_numpy(distribution.noise(np.random.default_rng(0), (50_000,)))
    log_std = torch.zeros(2)
    samples = distribution.sample(torch.tensor(outputs).expand(50_000, -1), log_std, noise)
    assert samples.shape == (50_000, distribution.columns) and samples.dtype == distribution.dtype
    assert samples.double().mean(0).tolist() == pytest.approx(mean, abs=0.022)


def test_gaussian_samples_have_the_standard_deviation_of_log_std() -> None:
    noise = torch.from_numpy(DiagonalGaussian(2).noise(np.random.default_rng(0), (50_000,)))
    samples = DiagonalGaussian(2).sample(torch.zeros(50_000, 2), torch.tensor([-1.0, 0.5]), noise)
    assert samples.double().std(0).tolist() == pytest.approx([math.exp(-1.0), math.exp(0.5)], rel=0.02)


def test_one_block_of_noise_is_what_drawing_step_by_step_would_give() -> None:
    for distribution in (MultiCategorical((2, 3)), Bernoulli(3), DiagonalGaussian(3)):
        block = distribution.noise(np.random.default_rng(4), (5, 2))
        generator = np.random.default_rng(4)
        assert block.tolist() == [distribution.noise(generator, (2,)).tolist() for _ in range(5)]
