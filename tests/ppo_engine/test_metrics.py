import math

import numpy as np
import pytest
import torch

from ppo_engine.metrics import EpisodeStatistics, MetricsWindow, explained_variance


def rows(*values: float) -> np.ndarray:
    """One environment's column."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def flags(*values: bool) -> np.ndarray:
    return np.array(values, dtype=np.bool_).reshape(-1, 1)


def test_no_finished_episode_means_no_metric() -> None:
    statistics = EpisodeStatistics(1)
    statistics.update(rows(1, 2), flags(False, False), flags(True, True))
    assert statistics.metrics() == {}


def test_returns_and_lengths_of_episodes_that_cross_rollouts_in_numbers() -> None:
    """Episodes (1, 2, 3) and (4): returns 6 and 4, lengths 3 and 1."""
    statistics = EpisodeStatistics(1)
    statistics.update(rows(1, 2), flags(False, False), flags(True, True))
    statistics.update(rows(3, 4), flags(True, True), flags(True, True))
    assert statistics.metrics() == {"rollout/ep_rew_mean": 5.0, "rollout/ep_len_mean": 2.0}


def test_reset_rows_count_neither_as_reward_nor_as_length() -> None:
    statistics = EpisodeStatistics(1)
    statistics.update(rows(1, 1e6, 2), flags(True, False, True), flags(True, False, True))
    assert statistics.metrics() == {"rollout/ep_rew_mean": 1.5, "rollout/ep_len_mean": 1.0}


def test_means_are_over_the_last_hundred_episodes() -> None:
    statistics = EpisodeStatistics(1)
    done = flags(*[True] * 150)
    statistics.update(rows(*range(150)), done, done)
    assert statistics.metrics()["rollout/ep_rew_mean"] == np.mean(range(50, 150))


def test_restored_statistics_go_on_alike() -> None:
    first, second = EpisodeStatistics(1), EpisodeStatistics(1)
    first.update(rows(1, 2, 3), flags(False, True, False), flags(True, True, True))
    second.restore(first.state())
    for statistics in (first, second):
        statistics.update(rows(4), flags(True), flags(True))
    assert first.metrics() == second.metrics() == {"rollout/ep_rew_mean": 5.0, "rollout/ep_len_mean": 2.0}


def test_a_window_reports_means_but_of_snapshots_the_last_value() -> None:
    window = MetricsWindow(2)
    window.add({"train/loss": 1.0, "rollout/ep_rew_mean": 10.0}, timesteps=100, seconds=0.25)
    assert not window.full
    window.add({"train/loss": 2.0, "rollout/ep_rew_mean": 30.0}, timesteps=100, seconds=0.75)
    assert window.full
    assert window.close() == {"train/loss": 1.5, "rollout/ep_rew_mean": 30.0, "time/fps": 200.0}
    assert not window.full


def test_a_metric_that_some_iterations_lack_is_the_mean_of_those_that_have_it() -> None:
    window = MetricsWindow(3)
    for metrics in ({}, {"train/explained_variance": 0.5}, {"train/explained_variance": 0.7}):
        window.add(metrics, timesteps=1, seconds=1.0)
    assert window.close() == {"train/explained_variance": pytest.approx(0.6), "time/fps": 1.0}


def test_a_restored_window_closes_with_the_same_row() -> None:
    first, second = MetricsWindow(2), MetricsWindow(2)
    first.add({"train/loss": 0.1}, timesteps=7, seconds=0.3)
    second.restore(first.state())
    for window in (first, second):
        window.add({"train/loss": 0.2}, timesteps=7, seconds=0.3)
    assert first.close() == second.close()


def test_explained_variance_in_numbers() -> None:
    """Returns 1, 2, 3 have variance 2/3; errors 0, 0, 1 have variance 2/9."""
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns).item() == 1.0
    assert explained_variance(torch.zeros(3), returns).item() == 0.0
    assert explained_variance(torch.tensor([1.0, 2.0, 2.0]), returns).item() == pytest.approx(1 - (2 / 9) / (2 / 3))
    assert not math.isfinite(explained_variance(torch.zeros(3), torch.ones(3)).item())
