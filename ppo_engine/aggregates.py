"""What scores of episodes or seeds say together, and how sure that is.

The choices are those of rliable (Agarwal et al. 2021, arXiv:2108.13264): interquartile means, and percentile intervals
of a stratified bootstrap. The arithmetic is scipy.stats', which is imported when it is needed: it takes a second.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Interval: TypeAlias = tuple[float, float]

RESAMPLES = 4_999
FEWEST_RESAMPLES = 999
"""Of samples so long that more would take minutes."""
MOST_DRAWS = 10**7
"""Scores drawn for one interval, in all its resamples."""
BATCH_DRAWS = 10**6
"""Scores in memory at a time."""
RESAMPLING_SEED = 0
"""An interval is a function of the scores alone."""


def interquartile_mean(scores: Sequence[float]) -> float:
    """The mean of what is left when a quarter of the scores, rounded down, is cut off at either end."""
    return float(_trimmed_mean(np.asarray(scores, dtype=np.float64)))


def mean_bootstrap(scores: Sequence[float]) -> Interval | None:
    """The 95 % bootstrap interval of the mean; None for a single score."""
    return bootstrap_interval([scores], np.mean)


def interquartile_mean_bootstrap(scores: Sequence[float]) -> Interval | None:
    """The 95 % bootstrap interval of the interquartile mean; None for a single score."""
    return bootstrap_interval([scores], _trimmed_mean)


def mean_interval(scores: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean by Student's t, for few scores that are nearly normal; None for a single one."""
    from scipy import stats

    if len(scores) < 2:
        return None
    low, high = stats.t.interval(0.95, len(scores) - 1, loc=np.mean(scores), scale=1.0)
    half = (high - low) / 2 * float(np.std(scores, ddof=1)) / np.sqrt(len(scores))
    mean = float(np.mean(scores))
    return mean - float(half), mean + float(half)


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How often a score of `ours` is above one of `theirs`, over all pairs; equal ones count half."""
    return float(_probability(np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)))


def probability_bootstrap(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """The 95 % bootstrap interval of `probability_of_improvement`, each side drawn from by itself; None where one side
    has a single score."""
    return bootstrap_interval([ours, theirs], _probability)


def bootstrap_interval(samples: Sequence[Sequence[float]], statistic: Callable[..., Any]) -> Interval | None:
    """The 95 % percentile interval of `statistic(*samples, axis=-1)`, each sample being a stratum of its own.

    Returns: None where a sample has fewer than two scores.
    """
    from scipy import stats

    if min(map(len, samples)) < 2:
        return None
    draws = sum(map(len, samples))
    result = stats.bootstrap(
        [np.asarray(sample, dtype=np.float64) for sample in samples],
        statistic,
        n_resamples=min(RESAMPLES, max(FEWEST_RESAMPLES, MOST_DRAWS // draws)),
        batch=max(1, BATCH_DRAWS // draws),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(RESAMPLING_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _trimmed_mean(scores: NDArray[np.float64], axis: int = -1) -> Any:
    from scipy import stats

    return stats.trim_mean(scores, 0.25, axis=axis)


def _probability(ours: NDArray[np.float64], theirs: NDArray[np.float64], axis: int = -1) -> Any:
    """Mann and Whitney's U, by the ranks that `ours` have among all, as the share of all pairs."""
    from scipy import stats

    ours, theirs = np.moveaxis(ours, axis, -1), np.moveaxis(theirs, axis, -1)
    n, m = ours.shape[-1], theirs.shape[-1]
    together = np.broadcast_shapes(ours.shape[:-1], theirs.shape[:-1])
    both = [np.broadcast_to(ours, (*together, n)), np.broadcast_to(theirs, (*together, m))]
    ranks = stats.rankdata(np.concatenate(both, axis=-1), axis=-1)
    return (ranks[..., :n].sum(axis=-1) - n * (n + 1) / 2) / (n * m)
