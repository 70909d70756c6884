"""What is gathered of all rollouts, and stands still while one is collected."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppo_engine.errors import TrainingDiverged
from ppo_engine.experience import Experience
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer, ValueNormalizer


@dataclass(frozen=True, slots=True)
class Statistics:
    """Those of one training; a normaliser is None where its numbers are left as they are."""

    normalizer: ObservationNormalizer | None
    reward_normalizer: RewardNormalizer | None
    episodes: EpisodeStatistics
    clips_rewards: bool = False
    """Whether the learner sees no more of rewards than their signs."""
    value_normalizer: ValueNormalizer | None = None
    """What takes in returns is the learner, which estimates them."""

    def before_learning(self, experience: Experience) -> NDArray[np.float64]:
        """Takes in the ends of episodes and the rewards; returns rewards [T, N] as the learner is to see them.

        Raises: TrainingDiverged where a reward is more than the learner's numbers can hold.
        """
        self.episodes.update(experience.rewards, experience.episode_ends, experience.valid)
        rewards = np.sign(experience.rewards) if self.clips_rewards else experience.rewards
        if self.reward_normalizer is None:
            return _within_float32(rewards)
        done = experience.terminated | experience.truncated
        self.reward_normalizer.update(rewards, done, experience.valid)
        return self.reward_normalizer.normalize(rewards)

    def after_learning(self, experience: Experience) -> None:
        """Takes in the observations, which the learner had to see as the policy saw them."""
        if self.normalizer is not None:
            self.normalizer.update(experience.raw_observations[experience.valid])


def _within_float32(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(rewards).max(initial=0.0)
    if largest > np.finfo(np.float32).max:
        raise TrainingDiverged(f"a reward of {largest:.3g} is more than float32 can hold")
    return rewards
