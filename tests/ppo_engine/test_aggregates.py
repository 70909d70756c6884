"""Laws of aggregates, against numbers worked by hand and exact bootstrap distributions."""

import itertools

import numpy as np
import pytest

from ppo_engine import aggregates
from ppo_engine.aggregates import (
    bootstrap_interval,
    interquartile_mean,
    interquartile_mean_bootstrap,
    mean_bootstrap,
    mean_interval,
    probability_bootstrap,
    probability_of_improvement,
)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean([8, 1, 7, 2, 6, 3, 5, 4]) == 4.5  # (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 1e6]) == 4.5
    assert interquartile_mean([0, 1, 2, 6, 100]) == 3.0  # a quarter of five, rounded down, is one: (1 + 2 + 6) / 3
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0
    assert interquartile_mean([7.0]) == 7.0


@pytest.mark.parametrize(
    ("ours", "theirs", "probability"),
    [
        ([1, 3], [2, 2], 0.5),
        ([2, 3], [1, 2], 3.5 / 4),  # 2 > 1, 2 = 2, 3 > 1, 3 > 2
        ([5, 6, 7], [1, 2], 1.0),
        ([1, 2], [5, 6, 7], 0.0),
        ([4, 4], [4, 4, 4], 0.5),
        ([1], [0], 1.0),
    ],
)
def test_the_probability_of_improvement_counts_pairs_and_halves_ties(
    ours: list[float], theirs: list[float], probability: float
) -> None:
    assert probability_of_improvement(ours, theirs) == probability
    assert probability_of_improvement(theirs, ours) == 1 - probability


def exact_interval(*samples: list[float], statistic) -> tuple[float, float]:
    """Percentiles over every resample that there is, each stratum drawn from by itself."""
    strata = [list(itertools.product(sample, repeat=len(sample))) for sample in samples]
    values = [statistic(*map(np.array, chosen)) for chosen in itertools.product(*strata)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def test_the_intervals_of_means_are_those_of_all_resamples() -> None:
    scores = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert mean_bootstrap(scores) == pytest.approx(exact_interval(scores, statistic=np.mean), abs=0.25)

    def middle(resample: np.ndarray) -> float:
        return float(np.sort(resample)[1:-1].mean())

    assert interquartile_mean_bootstrap(scores) == pytest.approx(exact_interval(scores, statistic=middle), abs=0.35)


def test_the_interval_of_an_improvement_draws_from_each_side_by_itself() -> None:
    ours, theirs = [1.0, 3.0, 5.0], [2.0, 2.5, 4.0]
    exact = exact_interval(ours, theirs, statistic=probability_of_improvement)
    assert probability_bootstrap(ours, theirs) == pytest.approx(exact, abs=0.06)
    assert probability_bootstrap([5, 6, 7], [1, 2, 3]) == (1.0, 1.0)  # no score ever changes sides


def test_sides_of_different_lengths_have_an_interval() -> None:
    low, high = probability_bootstrap([1.0, 3.0, 5.0], [2.0, 4.0]) or (1, 0)
    assert 0 <= low < probability_of_improvement([1.0, 3.0, 5.0], [2.0, 4.0]) < high <= 1


def test_an_interval_is_a_function_of_the_scores_alone() -> None:
    scores = list(np.random.default_rng(3).normal(size=40))
    first = mean_bootstrap(scores)
    np.random.seed(5)
    assert mean_bootstrap(scores) == first


def test_equal_scores_have_an_interval_without_width() -> None:
    assert mean_bootstrap([500.0] * 10) == interquartile_mean_bootstrap([500.0] * 10) == (500.0, 500.0)
    assert probability_bootstrap([1.0] * 3, [1.0] * 3) == (0.5, 0.5)


def test_a_single_score_has_no_interval() -> None:
    assert mean_bootstrap([5.0]) is None
    assert mean_interval([5.0]) is None
    assert interquartile_mean_bootstrap([5.0]) is None
    assert probability_bootstrap([5.0], [1.0, 2.0]) is None


def test_long_samples_are_resampled_less_often_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def watched(scores: np.ndarray, axis: int = -1) -> np.ndarray:
        nonlocal most
        most = max(most, scores.size)
        return scores.mean(axis=axis)

    monkeypatch.setattr(aggregates, "BATCH_DRAWS", 10_000)
    monkeypatch.setattr(aggregates, "MOST_DRAWS", 10**5)
    assert bootstrap_interval([list(np.arange(1000.0))], watched) is not None
    assert most == 10_000


def test_the_interval_of_students_t_by_hand() -> None:
    # mean 3; squared deviations 4 + 1 + 0 + 9 = 14, so s² = 14/3; t(0.975, 3) = 3.18245
    half = 3.18245 * (14 / 3) ** 0.5 / 2
    assert mean_interval([1.0, 2.0, 3.0, 6.0]) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    # two scores: t(0.975, 1) = 12.7062, s / √2 = 0.5
    assert mean_interval([0.0, 1.0]) == pytest.approx((0.5 - 12.7062 * 0.5, 0.5 + 12.7062 * 0.5), rel=1e-5)
