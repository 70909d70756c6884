import math

import numpy as np
import pytest
import torch

from ppo_engine.distributions import Bernoulli, DiagonalGaussian, MultiCategorical
from ppo_engine.distributions.densities import (
    bernoulli,
    categorical,
    gaussian,
    log_slope_of_tanh,
    sample_categorical,
    squashed_gaussian,
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


@pytest.mark.law("T13")
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


@pytest.mark.law("T11")
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


@pytest.mark.law("T13")
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


def test_the_log_slope_of_tanh_in_numbers() -> None:
    """tanh(log 2) = 3/5, so the slope is 16/25; far out 1 - tanh² u is 4 exp(-2|u|)."""
    u = torch.tensor([0.0, math.log(2), -math.log(2), 20.0, -20.0])
    far = math.log(4) - 40
    assert log_slope_of_tanh(u).tolist() == pytest.approx([0, math.log(16 / 25), math.log(16 / 25), far, far], abs=1e-6)


@pytest.mark.law("T12")
def test_squashed_log_densities_are_those_of_the_definition_in_float64() -> None:
    """log N(u) - Σ log(1 - tanh² u), which float64 can compute as it stands for |u| < 6."""
    draw = np.random.default_rng(0)
    mean, log_std, u = draw.normal(size=(50, 3)), draw.normal(size=3), draw.uniform(-6, 6, size=(50, 3))
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    expected = (normal - np.log(1 - np.tanh(u) ** 2)).sum(1)
    exact, _ = squashed_gaussian(*(torch.from_numpy(array) for array in (mean, log_std, u)))
    single, _ = squashed_gaussian(*(torch.from_numpy(array.astype(np.float32)) for array in (mean, log_std, u)))
    np.testing.assert_allclose(exact.numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-5, atol=1e-4)


def surprise(mean: float, log_std: float) -> tuple[float, float]:
    """The integrals over the actions -1 to 1 of a squashed normal density, and of its surprise."""
    edges = np.linspace(-1, 1, 400_001)
    u = torch.from_numpy(np.arctanh((edges[1:] + edges[:-1]) / 2)).unsqueeze(1)
    log_density, _ = squashed_gaussian(torch.full_like(u, mean), torch.tensor([log_std], dtype=torch.float64), u)
    width = 2 / 400_000
    return float(log_density.exp().sum() * width), float(-(log_density.exp() * log_density).sum() * width)


@pytest.mark.law("T12")
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -0.5), (-1.5, 0.3)])
def test_squashed_density_integrates_to_one_over_the_actions(mean: float, log_std: float) -> None:
    assert surprise(mean, log_std)[0] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.law("T12")
def test_squashed_densities_are_finite_where_tanh_is_one_and_so_are_their_gradients() -> None:
    """At u = ±20 under N(0, 1): -200 - ½ log 2π - (log 4 - 40); moving the mean there changes log N by ±20."""
    mean, log_std = torch.zeros(2, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    log_probs, entropies = squashed_gaussian(mean, log_std, torch.tensor([[20.0], [-20.0]]))
    assert log_probs.tolist() == pytest.approx([-160 - 0.5 * math.log(2 * math.pi) - math.log(4)] * 2)
    gradients = torch.autograd.grad(log_probs.sum(), (mean, log_std), retain_graph=True)
    assert gradients[0].flatten().tolist() == pytest.approx([20.0, -20.0])
    assert gradients[1].item() == pytest.approx(2 * (20**2 - 1))
    assert torch.isfinite(entropies).all()
    # the slope of log(1 - tanh² u) is -2 tanh u, and u moves with the mean as it is, with log σ by z = ±20
    of_entropy = torch.autograd.grad(entropies.sum(), (mean, log_std))
    assert of_entropy[0].flatten().tolist() == pytest.approx([-2.0, 2.0])
    assert of_entropy[1].item() == pytest.approx(2 * (1 - 2 * 20))


@pytest.mark.parametrize(("mean", "log_std"), [(0.3, 0.2), (-1.0, -0.5)])
def test_squashed_entropies_and_their_gradients_are_right_on_average(mean: float, log_std: float) -> None:
    """Over 200,000 samples; five standard errors of numbers that spread by about 2 are 5 · 2/√200000 ≈ 0.022."""
    centre = torch.tensor([mean], dtype=torch.float64, requires_grad=True)
    spread = torch.tensor([log_std], dtype=torch.float64, requires_grad=True)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((200_000, 1)))
    samples = (centre + spread.exp() * noise).detach()
    _, entropies = squashed_gaussian(centre.expand_as(samples), spread, samples)
    assert entropies.mean().item() == pytest.approx(surprise(mean, log_std)[1], abs=0.022)
    slopes = torch.autograd.grad(entropies.mean(), (centre, spread))
    step = 1e-3
    by_mean = (surprise(mean + step, log_std)[1] - surprise(mean - step, log_std)[1]) / (2 * step)
    by_log_std = (surprise(mean, log_std + step)[1] - surprise(mean, log_std - step)[1]) / (2 * step)
    assert [float(slope) for slope in slopes] == pytest.approx([by_mean, by_log_std], abs=0.022)
