"""What a lost life changes for the learner, and what it leaves alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppo_engine.advantages import advantages_and_returns
from ppo_engine.envs.vector import Step
from ppo_engine.experience import Experience
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.normalization import RewardNormalizer
from ppo_engine.policy import Policy
from ppo_engine.random import stream
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import PolicySpec
from ppo_engine.statistics import Statistics
from tests.ppo_engine.scripted import Ramp


class WithLives(Ramp):
    """Loses a life in every third step that is not an episode's last."""

    steps = 0

    def step(self, actions: NDArray[Any]) -> Step:
        step = super().step(actions)
        self.steps += 1
        return replace(step, lives_lost=~(step.terminated | step.truncated) & (self.steps % 3 == 0))


def collected(environment: Ramp) -> Rollout:
    policy = Policy(PolicySpec(hidden_sizes=(4,)), 2, environment.action_space, generator=stream(0, "init"))
    collector = Collector(environment, policy, None, n_steps=6, generator=stream(0, "actions"))
    collector.last_observations = environment.reset()
    return collector.collect()


def test_a_lost_life_stops_the_bootstrap_but_ends_no_episode() -> None:
    rollout = collected(WithLives([5, 9], ["terminated", "truncated"]))
    # Lives are lost in the third and the sixth step; the first environment's episode ends in the fifth.
    assert rollout.terminated.T.tolist() == [[False, False, True, False, True, True], [False, False, True] * 2]
    assert rollout.episode_ends.T.tolist() == [[False, False, False, False, True, False], [False] * 6]

    gamma, rewards = 0.5, torch.tensor(rollout.rewards, dtype=torch.float32)
    terminated, done = torch.tensor(rollout.terminated), torch.tensor(rollout.terminated | rollout.truncated)
    next_values = torch.zeros(6, 2)
    next_values[2] = 100.0
    values = {"rewards": rewards, "values": torch.zeros(6, 2), "next_values": next_values}
    _, returns = advantages_and_returns(**values, terminated=terminated, done=done, gamma=gamma, gae_lambda=1.0)
    # Rewards count 1, 2, 3 ...: where the life was lost nothing follows, and before it 2 + 3/2 and 1 + 2/2 + 3/4.
    assert returns[:3, 0].tolist() == [2.75, 3.5, 3.0]
    assert returns[:3, 1].tolist() == [2.75, 3.5, 3.0]


def test_episodes_are_counted_by_whole_games_and_their_own_points() -> None:
    statistics = Statistics(None, None, EpisodeStatistics(2), clips_rewards=True)
    seen = statistics.before_learning(collected(WithLives([5, 9], ["terminated", "truncated"])))
    # 1 + 2 + 3 + 4 + 5 in five steps, although a life was lost in the third.
    metrics = statistics.episodes.metrics()
    assert (metrics["rollout/ep_rew_mean"], metrics["rollout/ep_len_mean"]) == (15.0, 5.0)
    assert seen.tolist() == [[1.0, 1.0]] * 6


def test_the_learner_sees_the_signs_of_rewards_where_they_are_clipped() -> None:
    def learnt_from(*, clips_rewards: bool, normalizer: RewardNormalizer | None = None) -> list[float]:
        flags = np.zeros((4, 1), np.bool_)
        actions, observations = np.zeros((4, 1, 1), np.int64), np.zeros((4, 1, 1), np.float32)
        rewards = np.array([[3.0], [-0.5], [0.0], [200.0]])
        experience = Experience(actions, observations, rewards, flags, flags, ~flags)
        statistics = Statistics(None, normalizer, EpisodeStatistics(1), clips_rewards=clips_rewards)
        return statistics.before_learning(experience)[:, 0].tolist()

    assert learnt_from(clips_rewards=False) == [3.0, -0.5, 0.0, 200.0]
    assert learnt_from(clips_rewards=True) == [1.0, -1.0, 0.0, 1.0]
    # Normalised after they were clipped: discounted by 0 the returns are 1, -1, 0, 1, whose variance is 11/16.
    normalized = learnt_from(clips_rewards=True, normalizer=RewardNormalizer(1, gamma=0.0, clip=10.0))
    np.testing.assert_allclose(normalized, np.array([1.0, -1.0, 0.0, 1.0]) / np.sqrt(11 / 16))


def test_without_lives_nothing_is_lost() -> None:
    plain = collected(Ramp([5, 9], ["terminated", "truncated"]))
    assert plain.lives_lost is not None and not plain.lives_lost.any()
    assert np.array_equal(plain.episode_ends, plain.terminated | plain.truncated)
